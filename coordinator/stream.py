"""Stream: the entries of `events` as the recorder reads them, checked, and cut into parts between the steps. Pure."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import orjson

from history.entry import Entry
from schemas.events import CONTINUING, event_json
from schemas.values import ARTIFACT

RawEntry = tuple[bytes, Mapping[bytes, bytes]]
"""An entry's id and fields."""
ARTIFACTS_IN_PART = 64
"""A part ends where it names more: each may be some megabytes."""

NAMES_ARTIFACT = ARTIFACT.encode()
_CONTINUING = frozenset(kind.encode() for kind in CONTINUING)
_HEAD = re.compile(rb"[\w.:-]{1,128}\t[1-9]\d{0,8}\t[a-z_]{1,40}\t\d{1,14}\t\w{0,64}\t[\w.:-]{0,256}\t[\w.:/-]{0,1024}")
_BREAKS = bytes.maketrans(b"\t\n\r\0", b"    ")


class Malformed(ValueError):
    """An entry of the stream that is no event."""


class Part(NamedTuple):
    """Consecutive entries of the stream, and the events that they are; None: some are none."""

    raw: Sequence[RawEntry]
    entries: Sequence[Entry] | None


def read_entry(fields: Mapping[bytes, bytes]) -> Entry:
    """The event of a stream entry, its JSON unread. Raises Malformed or KeyError."""
    run, seq, kind, at = fields[b"run"], fields[b"seq"], fields[b"type"], fields[b"at"]
    node, token, scope = fields[b"node"], fields[b"token"], fields[b"scope"]
    if not _HEAD.fullmatch(b"\t".join((run, seq, kind, at, node, token, scope))):
        raise Malformed("a field is not of its form")
    data = event_json(fields[b"body"], fields[b"applied"])
    if b"\n" in data or b"\t" in data or b"\r" in data or b"\0" in data:  # four searches cost less than a pattern
        data = data.translate(_BREAKS)  # in JSON only white space between its parts
    return Entry(run.decode(), int(seq), kind.decode(), int(at), node.decode(), token.decode(), scope.decode(), data)


def read_started(entry: Entry) -> dict[str, Any]:
    """The data of a run's first event, checked. Raises Malformed."""
    data = _object(entry)
    kinds = {"workflow_id": str, "digest": str, "revision": int}
    wrong = [name for name, kind in kinds.items() if not isinstance(data.get(name), kind)]
    wrong += [name for name in ("labels", "forked_from") if not isinstance(data.get(name) or {}, dict)]
    if wrong:
        raise Malformed(f"{entry.type} with a wrong {wrong[0]}")
    return data


def _object(entry: Entry) -> dict[str, Any]:
    data = orjson.loads(entry.data)
    if not isinstance(data, dict):
        raise Malformed("its body is no JSON object")
    return data


def parts(page: Part) -> Iterator[Part]:
    """The page as parts that name a bounded number of artifacts each, cut between steps."""
    raw, entries = page
    first = names = 0
    for last, (_, fields) in enumerate(raw, 1):
        names += fields.get(b"body", b"").count(NAMES_ARTIFACT)
        if names >= ARTIFACTS_IN_PART and last < len(raw) and not continues(raw[last], raw[last - 1]):
            yield Part(raw[first:last], entries and entries[first:last])
            first, names = last, 0
    if first < len(raw):
        yield Part(raw[first:], entries and entries[first:])


def continues(entry: RawEntry, before: RawEntry) -> bool:
    """Whether one step may have written both."""
    run_id = before[1].get(b"run")
    return entry[1].get(b"type") in _CONTINUING and run_id is not None and entry[1].get(b"run") == run_id


def middle(raw: Sequence[RawEntry]) -> int:
    """Where to cut entries in two: between steps, if there are several."""
    half = len(raw) // 2
    cuts = [*range(half, len(raw)), *range(half - 1, 0, -1)]
    return next((cut for cut in cuts if not continues(raw[cut], raw[cut - 1])), half)


def named(entry: Entry) -> list[str]:
    """The artifacts that an event names."""
    data = _object(entry)
    if not isinstance(data.get("stored") or {}, dict):
        raise Malformed("stored is no object")
    alone = [data.get(name) for name in ("stored_input", "stored_items", "stored_result")]
    told = data.get("artifacts")
    if not isinstance(told or [], list):
        raise Malformed("artifacts is no list")
    texts = [*(data.get("stored") or {}).values(), *filter(None, alone), *(told or ())]
    return [str(text).removeprefix(ARTIFACT) for text in texts]
