"""Refusals as problem documents (RFC 9457): {type, title, status, detail, errors?: [{path, code, message}]}."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from http import HTTPStatus
from typing import Any

import orjson
from starlette.responses import Response

from schemas.errors import Problem

MEDIA_TYPE = "application/problem+json"
SHOWN = 100
"""Errors that are listed; the detail says how many more there are."""


class Refusal(Exception):
    """A request that is not served, and why. `errors` name the places, as JSON pointers into the body."""

    def __init__(
        self,
        status: int,
        detail: str,
        *,
        errors: Iterable[Problem] = (),
        headers: Mapping[str, str] | None = None,
        **extra: Any,
    ) -> None:
        super().__init__(detail)
        self.status = status
        self.detail = detail
        self.errors = tuple(errors)
        self.headers = dict(headers or {})
        self.extra = extra

    def response(self) -> Response:
        return problem_response(self.status, self.detail, self.errors, self.headers, self.extra)


def lost(status: str) -> Refusal:
    """Of a run that is not in Redis, and has not ended as far as is recorded: `status`."""
    return Refusal(
        409, f"Redis has lost the run, which was {status}: `pavane recover` lets it go on.", run_status=status
    )


def problem_response(
    status: int,
    detail: str,
    errors: Iterable[Problem] = (),
    headers: Mapping[str, str] | None = None,
    extra: Mapping[str, Any] | None = None,
) -> Response:
    body: dict[str, Any] = {
        "type": "about:blank",
        "title": HTTPStatus(status).phrase,
        "status": status,
        "detail": detail,
        **(extra or {}),
    }
    faults = [problem.as_dict() for problem in errors]
    if faults:
        body["errors"] = faults
    return Response(orjson.dumps(body), status, dict(headers or {}), MEDIA_TYPE)


def invalid(errors: Iterable[Problem], detail: str = "") -> Refusal:
    """422 with its places, at most SHOWN; the detail is the first of them unless given."""
    problems = tuple(errors)
    if not detail and problems:
        more = f" (and {len(problems) - 1} more)" if len(problems) > 1 else ""
        detail = f"{problems[0].path or 'the body'}: {problems[0].message}{more}"
    return Refusal(422, detail or "The request is invalid.", errors=problems[:SHOWN])


def not_found(kind: str, name: str) -> Refusal:
    return Refusal(404, f"There is no {kind} {name}.")


def too_large(limit: str, limit_bytes: int) -> Refusal:
    return Refusal(413, f"The body is too large; the limit {limit} is {limit_bytes} bytes.", limit=limit)


def unavailable(reason: str, retry_after_s: int) -> Refusal:
    return Refusal(503, reason, headers={"Retry-After": str(retry_after_s)})
