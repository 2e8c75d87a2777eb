"""Preconditions (RFC 9110, section 13): If-Match, against lost updates."""

from __future__ import annotations

import re

from starlette.requests import Request

from orchestrator_api.problems import Refusal

_TAG = re.compile(r'(W/)?"([\x21\x23-\x7e\x80-\xff]*)"[ \t]*(?=,|$)')
_BETWEEN = re.compile(r"[ \t,]*")


def if_match(request: Request) -> frozenset[str] | None:
    """The entity tags that the header names, without their quotes; None if any will do. A weak tag never matches.

    Raises Refusal (400).
    """
    given = request.headers.getlist("if-match")
    text = ",".join(given).strip()
    if not given or text == "*":
        return None
    tags: set[str] = set()
    position = _end(_BETWEEN.match(text))
    while position < len(text):
        found = _TAG.match(text, position)
        if found is None:
            raise Refusal(400, 'The header If-Match must be `*` or quoted revisions, such as "3".')
        if not found[1]:
            tags.add(found[2])
        position = _end(_BETWEEN.match(text, found.end()))
    if not text.strip(" \t,"):
        raise Refusal(400, "The header If-Match is empty.")
    return frozenset(tags)


def etag(revision: int) -> dict[str, str]:
    """The header that says so."""
    return {"ETag": f'"{revision}"'}


def _end(found: re.Match[str] | None) -> int:
    assert found is not None  # it matches nothing, too
    return found.end()
