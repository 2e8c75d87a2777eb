"""What travels: completion signals and tasks, read strictly because other languages write them too."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import orjson

from schemas.ids import NAME, NODE_ID, TOKEN_ID
from schemas.limits import LIMITS

SIGNAL_VERSION = "1.0"

RETRIABLE = frozenset(
    {"timeout", "connection", "rate_limit", "engine_busy", "interrupted", "invalid_output", "handler"}
)
PERMANENT = frozenset(
    {
        *("invalid_input", "template", "not_found", "too_large", "permanent", "expression", "no_branch"),
        *("tool_limit", "http_status"),
        *("item", "deadline", "rejected", "queue_timeout", "child_failed", "child_cancelled"),
    }
)
"""Failure classes; a runner may mark any failure as retryable or not itself."""


class MalformedSignal(ValueError):
    """A message that is no completion signal; the text says why."""


@dataclass(frozen=True, slots=True)
class Failure:
    """Why a task failed."""

    klass: str
    message: str
    retryable: bool
    cause: Mapping[str, Any] | None = None  # of a map's failure: the error of the item's task

    def as_dict(self) -> dict[str, Any]:
        return {"class": self.klass, "message": self.message}


@dataclass(frozen=True, slots=True)
class CompletionSignal:
    """The work of a token is done (the contract's page gives the JSON)."""

    token_id: str
    run_id: str
    node_id: str
    attempt: int | None
    status: Literal["completed", "failed"]
    result: Any = None
    result_ref: str | None = None
    metadata: Mapping[str, Any] | None = None
    record: Mapping[str, Any] | None = None  # the token's record and its IR, as finish_task adds them
    digest: str = ""
    raw: bytes = b""

    @property
    def failure(self) -> Failure | None:
        if self.status == "completed":
            return None
        meta = self.metadata or {}
        klass = str(meta.get("error_type") or "handler")[:64]
        return Failure(
            klass=klass,
            message=str(meta.get("error_message") or "no message")[:2_000],
            retryable=bool(meta.get("retryable", klass in RETRIABLE)),
            cause=_cause(meta.get("cause")),
        )

    def to_json(self) -> str:
        body: dict[str, Any] = {
            "version": SIGNAL_VERSION,
            "job_id": self.token_id,
            "run_id": self.run_id,
            "node_id": self.node_id,
            "attempt": self.attempt,
            "status": self.status,
        }
        if self.result_ref is not None:
            body["result_ref"] = self.result_ref
        elif self.status == "completed":
            body["result_data"] = self.result
        if self.metadata:
            body["metadata"] = self.metadata
        return orjson.dumps(body).decode()


def _cause(given: Any) -> Mapping[str, Any] | None:
    """The error of an item's task, bounded: what other languages write may be anything."""
    if not isinstance(given, dict):
        return None
    names = ("class", "message", "attempts", "node")
    return {n: v if isinstance(v := given[n], int) else str(v)[:1_000] for n in names if n in given}


def read_signal(raw: bytes) -> CompletionSignal:
    """Parse one message of `completion_signals`. Raises MalformedSignal with the reason."""
    if len(raw) > LIMITS.signal_bytes:
        raise MalformedSignal(f"{len(raw)} bytes; the limit signal_bytes is {LIMITS.signal_bytes}")
    try:
        body = orjson.loads(raw)
    except orjson.JSONDecodeError as error:
        raise MalformedSignal(f"not JSON: {error}") from None
    if not isinstance(body, dict):
        raise MalformedSignal("not a JSON object")
    if body.get("version") != SIGNAL_VERSION:
        raise MalformedSignal(f'version is not "{SIGNAL_VERSION}"')
    metadata = body.get("metadata")
    if metadata is not None and not isinstance(metadata, dict):
        raise MalformedSignal("metadata is not an object")
    return CompletionSignal(
        token_id=_id(body, "job_id", TOKEN_ID),
        run_id=_id(body, "run_id", NAME),
        node_id=_id(body, "node_id", NODE_ID),
        attempt=_attempt(body),
        status=_status(body),
        result=body.get("result_data"),
        result_ref=_reference(body),
        metadata=metadata,
        record=_record(body),
        digest=str(body.get("digest", "")),
        raw=raw,
    )


def _id(body: Mapping[str, Any], field: str, pattern: re.Pattern[str]) -> str:
    value = body.get(field)
    if not isinstance(value, str) or not pattern.fullmatch(value):
        raise MalformedSignal(f"{field} is missing or no valid id")
    return value


def _attempt(body: Mapping[str, Any]) -> int | None:
    value = body.get("attempt")
    if value is not None and (not isinstance(value, int) or isinstance(value, bool) or value < 0):
        raise MalformedSignal("attempt is not a whole number")
    return value


def _status(body: Mapping[str, Any]) -> Literal["completed", "failed"]:
    value = body.get("status")
    if value == "completed":
        return "completed"
    if value == "failed":
        return "failed"
    raise MalformedSignal('status is neither "completed" nor "failed"')


def _reference(body: Mapping[str, Any]) -> str | None:
    value = body.get("result_ref")
    if value is None:
        return None
    if not isinstance(value, str) or not value.startswith("artifact://sha256-"):
        raise MalformedSignal("result_ref is no artifact://sha256-... reference")
    return value


def _record(body: Mapping[str, Any]) -> Mapping[str, Any] | None:
    """Only our own script adds a record; without one, or with a strange one, the token is loaded."""
    record = body.get("record")
    return record if isinstance(record, dict) and record.get("node") == body["node_id"] else None


@dataclass(frozen=True, slots=True)
class Task:
    """A token as an entry of a task stream: ids only, never payload."""

    run_id: str
    token_id: str
    node_id: str
    scope: str
    digest: str  # of the IR when it was emitted; a hint which IR to have at hand
    stream: str  # without the shard's prefix
    entry: str  # entry id


def read_task(stream: str, entry: str, fields: Mapping[str, str]) -> Task | None:
    """The task of a stream entry; None if the entry is none (somebody else's, or deleted)."""
    try:
        return Task(
            fields["run"], fields["token"], fields["node"], fields.get("scope", ""), fields.get("digest", ""),
            stream, entry,
        )  # fmt: skip
    except KeyError:
        return None
