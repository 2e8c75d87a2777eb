"""What routes say about themselves in /openapi.json: bodies, answers, problems."""

from __future__ import annotations

from typing import Any

from orchestrator_api.bodies import JSON, RequestShape
from orchestrator_api.problems import MEDIA_TYPE

PROBLEM = {
    "type": "object",
    "required": ["type", "title", "status", "detail"],
    "properties": {
        "type": {"type": "string"},
        "title": {"type": "string"},
        "status": {"type": "integer"},
        "detail": {"type": "string"},
        "errors": {
            "type": "array",
            "items": {
                "type": "object",
                "properties": {name: {"type": "string"} for name in ("path", "code", "message")},
            },
        },
    },
}
"""RFC 9457."""

_MEANINGS = {
    400: "not JSON",
    404: "unknown",
    409: "in conflict with what is there",
    412: "not the revision that If-Match names",
    413: "too large; `limit` names the limit",
    415: "not a media type that this route reads",
    422: "invalid; `errors` names the places",
    429: "too soon; Retry-After says when",
    503: "not able now; Retry-After says when",
}


def body(shape: type[RequestShape], example: Any, **others: Any) -> dict[str, Any]:
    """The `openapi_extra` of a route that reads JSON of this shape; `others` are further media types."""
    content = {JSON: {"schema": shape.model_json_schema(), "example": example}}
    return {"requestBody": {"required": True, "content": content | others}}


def optional_body(shape: type[RequestShape], example: Any) -> dict[str, Any]:
    """As `body`, of a route that can do without one."""
    return {"requestBody": {**body(shape, example)["requestBody"], "required": False}}


def answers(example: Any, *refusals: int, status: int = 200, media: str = JSON, says: str = "") -> dict[Any, Any]:
    """The `responses` of a route: what it answers, and with which statuses it refuses."""
    found: dict[Any, Any] = {status: {"description": says or "as asked", "content": {media: {"example": example}}}}
    for code in (*refusals, 503):
        found[code] = {"description": _MEANINGS[code], "content": {MEDIA_TYPE: {"schema": PROBLEM}}}
    return found
