"""Bodies of requests: read within a limit, as their media type says, and as JSON that nothing here chokes on."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from typing import Any, TypeVar

import orjson
from pydantic import BaseModel, ConfigDict, ValidationError, model_validator
from starlette.requests import Request
from starlette.responses import Response

from orchestrator_api.problems import Refusal, invalid, too_large
from schemas.errors import InvalidDocument, Problem, pointer
from schemas.limits import LIMITS
from schemas.values import is_deeper

JSON = "application/json"
YAML = ("application/yaml", "application/x-yaml", "text/yaml")
JSON_PATCH = "application/json-patch+json"
NDJSON = ("application/x-ndjson", "application/ndjson", "application/jsonl")

INTEGERS = range(-(2**63), 2**64)
"""Whole numbers that JSON readers keep exactly; others would silently lose digits on their way."""
_LONG_NUMBER = re.compile(rb"\d{19}")
MAX_FIELDS = 100
"""More than any request has; of so many, each unknown, nothing is said one by one."""

Shape = TypeVar("Shape", bound="RequestShape")


class RequestShape(BaseModel):
    """Base of what requests carry: nothing unknown, nothing converted. Its lists fail fast: a million faults
    are not listed."""

    model_config = ConfigDict(extra="forbid", strict=True)

    @model_validator(mode="before")
    @classmethod
    def _few_fields(cls, value: Any) -> Any:
        if isinstance(value, dict) and len(value) > MAX_FIELDS:
            raise ValueError(f"has {len(value)} fields, most of them unknown")
        return value


class QueryShape(BaseModel):
    """Base of what queries carry: nothing unknown; text is converted."""

    model_config = ConfigDict(extra="forbid")


class JsonResponse(Response):
    """JSON by orjson."""

    media_type = JSON

    def render(self, content: Any) -> bytes:
        return orjson.dumps(content)


def media_type(request: Request) -> str:
    """The body's media type in lower case, "" if none is given. Raises Refusal (415) for another charset than UTF-8."""
    kind, _, parameters = request.headers.get("content-type", "").partition(";")
    charset = re.search(r"charset\s*=\s*\"?([^\s;\"]+)", parameters, re.IGNORECASE)
    if charset and charset[1].lower() not in ("utf-8", "utf8", "us-ascii"):
        raise Refusal(415, f"The body's charset is {charset[1]}; only UTF-8 is read.")
    return kind.strip().lower()


def expect_media(request: Request, allowed: Sequence[str]) -> str:
    kind = media_type(request)
    if kind not in allowed:
        shown = f"is {kind}" if kind else "has no Content-Type"
        raise Refusal(
            415, f"The body {shown}; this route reads {' or '.join(allowed)}.", headers={"Accept": ", ".join(allowed)}
        )
    return kind


async def read_body(request: Request, limit: str, limit_bytes: int) -> bytes:
    """The whole body. Raises Refusal (413) naming `limit` as soon as it is over."""
    declared = request.headers.get("content-length", "0")
    if not declared.isascii() or not declared.isdigit():
        raise Refusal(400, "The header Content-Length is no number.")
    if int(declared) > limit_bytes:
        raise too_large(limit, limit_bytes)
    parts: list[bytes] = []
    size = 0
    async for part in request.stream():
        size += len(part)
        if size > limit_bytes:
            raise too_large(limit, limit_bytes)
        parts.append(part)
    return b"".join(parts)


async def read_lines(request: Request, limit: str, limit_bytes: int, line_bytes: int) -> AsyncIterator[bytes]:
    """The body's lines, as they come in, blank ones too. Raises Refusal (413)."""
    rest, size = b"", 0
    async for part in request.stream():
        size += len(part)
        if size > limit_bytes:
            raise too_large(limit, limit_bytes)
        *lines, rest = (rest + part).split(b"\n")
        for line in lines:
            yield line
        if len(rest) > line_bytes:
            raise too_large("input_bytes", line_bytes)
    yield rest


def read_json(raw: bytes, *, wrapped: int = 0, unique: bool = False) -> Any:
    """A JSON value (RFC 8259) of at most `json_depth` levels, its whole numbers 64 bits wide.

    wrapped: levels that are around what the limit is meant for; unique: no object may say a key twice.
    Raises Refusal: 400 for what is no JSON in UTF-8, 422 for what is over these bounds.
    """
    try:
        value = orjson.loads(raw)
    except orjson.JSONDecodeError as error:
        raise Refusal(400, f"The body is not JSON: {error}.") from None
    faults = json_faults(raw, value, LIMITS.json_depth + wrapped)
    if not faults and unique and (key := _key_said_twice(raw)) is not None:
        faults = [Problem("", "duplicate-key", f"The key `{key[:128]}` stands twice in one object.")]
    if faults:
        raise invalid(faults)
    return value


def _key_said_twice(raw: bytes) -> str | None:
    twice: list[str] = []

    def members(pairs: list[tuple[str, Any]]) -> None:
        if len(dict(pairs)) < len(pairs):
            twice.append(Counter(key for key, _ in pairs).most_common(1)[0][0])

    json.loads(raw, object_pairs_hook=members, parse_int=str, parse_float=str)
    return twice[0] if twice else None


def json_faults(raw: bytes, value: Any, depth: int = LIMITS.json_depth) -> list[Problem]:
    """What is wrong with a value that `raw` was parsed to: its depth, its whole numbers."""
    if raw.count(b"[") + raw.count(b"{") > depth and is_deeper(value, depth):
        return [Problem("", "too-deep", f"nested deeper than the limit json_depth, {LIMITS.json_depth} levels")]
    if _LONG_NUMBER.search(raw):
        number = _wide_number(raw)
        if number is not None:
            return [Problem("", "number-too-large", f"the whole number {number} does not fit into 64 bits")]
    return []


def _wide_number(raw: bytes) -> str | None:
    """The first whole number that needs more than 64 bits, shortened; None if there is none."""
    wide: list[str] = []

    def read(digits: str) -> int:
        # int() of thousands of digits is quadratic, and refused by Python itself.
        if len(digits) > 20 or int(digits) not in INTEGERS:
            wide.append(digits if len(digits) <= 40 else f"{digits[:40]}...")
        return 0

    json.loads(raw, parse_int=read, parse_float=str)
    return wide[0] if wide else None


def read_shape(shape: type[Shape], value: Any) -> Shape:
    """The request that `value` is. Raises Refusal (422) naming every place that is wrong."""
    if not isinstance(value, dict):
        raise invalid([Problem("", "wrong-type", "The body must be a JSON object.")])
    try:
        return shape.model_validate(value)
    except ValidationError as error:
        raise invalid(shape_problems(error.errors(include_url=False, include_input=False))) from None


def shape_problems(errors: Sequence[Any]) -> list[Problem]:
    """pydantic's errors as ours; a field that is missing is a fault of what should have it."""
    return [_shape_problem(error["type"], error["loc"], error["msg"]) for error in errors]


def _shape_problem(kind: str, loc: Sequence[str | int], message: str) -> Problem:
    if kind == "missing":
        return Problem(pointer(*loc[:-1]), "missing-field", f"There must be a field `{loc[-1]}`.")
    if kind == "extra_forbidden":
        return Problem(pointer(*loc), "unknown-field", f"`{str(loc[-1])[:80]}` is no field here.")
    return Problem(pointer(*loc), kind.replace("_", "-"), message.removeprefix("Value error, "))


async def read_request(
    request: Request, shape: type[Shape], limit: str, limit_bytes: int, *, optional: bool = False
) -> Shape:
    """A JSON body of the given shape; an `optional` one may be absent altogether."""
    if optional and not media_type(request):
        if await read_body(request, limit, limit_bytes):
            expect_media(request, (JSON,))
        return read_shape(shape, {})
    expect_media(request, (JSON,))
    raw = await read_body(request, limit, limit_bytes)
    return read_shape(shape, {} if optional and not raw else read_json(raw))


def refuse(error: InvalidDocument, prefix: str = "") -> Refusal:
    """A document's problems as a 422; `prefix` is where in the body the document stands."""
    return invalid(Problem(prefix + p.path, p.code, p.message) for p in error.problems)
