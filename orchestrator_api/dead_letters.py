"""Dead letters: what was given up, with its reason."""

from __future__ import annotations

from contextlib import suppress
from typing import Annotated, Any

import orjson
from fastapi import APIRouter, Query
from pydantic import ConfigDict, Field
from starlette.responses import Response

from orchestrator_api.bodies import JsonResponse, RequestShape
from orchestrator_api.openapi import answers
from orchestrator_api.services import Backend

router = APIRouter(tags=["dead letters"])

IDS = {"run": "run_id", "token": "token_id", "node": "node_id"}


class LetterFilter(RequestShape):
    """GET /dead-letters"""

    model_config = ConfigDict(extra="forbid", strict=False)
    limit: int = Field(100, ge=1, le=1_000)
    cursor: str | None = Field(None, pattern=r"^\d{1,20}-\d{1,20}$", description="`next_cursor` of the page before")


@router.get(
    "/dead-letters",
    summary="What was given up, the newest first",
    responses=answers(
        {"dead_letters": [{"id": "1760000000000-0", "reason": "malformed", "detail": "not JSON", "at": 1760000000000}],
         "next_cursor": None}, 422,
    ),
)  # fmt: skip
async def list_dead_letters(backend: Backend, query: Annotated[LetterFilter, Query()]) -> Response:
    """`reason` is task for a task that failed for good, else what was wrong with a message."""
    last = f"({query.cursor}" if query.cursor else "+"
    entries = await backend.store.redis.xrevrange(backend.store.keys.dead_letters, last, "-", count=query.limit)
    letters = [_letter(entry.decode(), fields) for entry, fields in entries]
    cursor = letters[-1]["id"] if len(letters) == query.limit else None
    return JsonResponse({"dead_letters": letters, "next_cursor": cursor})


def _letter(entry: str, fields: dict[bytes, bytes]) -> dict[str, Any]:
    """An entry, whoever wrote it: nothing in it is taken for granted."""
    text = {name.decode(errors="replace"): value.decode(errors="replace") for name, value in fields.items()}
    at = text.get("at", "")
    letter: dict[str, Any] = {"id": entry, "reason": text.get("reason", ""), "at": int(at) if at.isdecimal() else None}
    letter |= {shown: text[name] for name, shown in IDS.items() if name in text}
    detail = text.get("detail", "")
    if letter["reason"] == "task":  # the event's body: the error is what people look for
        with suppress(orjson.JSONDecodeError, AttributeError):
            return letter | {"error": orjson.loads(detail).get("error")}
    return letter | {"detail": detail}
