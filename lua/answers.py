"""What the scripts answer, typed. A Redis client with `decode_responses=False` is expected."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

import orjson


class Started(StrEnum):
    """Answers of start_run."""

    STARTED = "started"
    EXISTS = "exists"
    CONFLICT = "conflict"


@dataclass(frozen=True, slots=True)
class Token:
    """A token's record, as `tokens:<run>` holds it."""

    node: str
    state: str
    attempt: int
    depth: int
    lane: str = ""
    scope: str = ""
    iteration: int = 0
    failures: int = 0
    interruptions: int = 0
    since: int = 0
    due: int | None = None
    stream: str | None = None
    entry: str | None = None
    runner: str | None = None
    held: str | None = None
    child: str | None = None
    event: str | None = None
    again: bool = False  # its stored failure is of the epoch before
    map: bool = False  # its items are known
    arrivals: Sequence[Sequence[Any]] = ()  # [predecessor, depth, lane] each


_KINDS = {
    **dict.fromkeys(("node", "state", "lane", "scope", "stream", "entry", "runner", "held", "child", "event"), str),
    **dict.fromkeys(("attempt", "depth", "iteration", "failures", "interruptions", "since", "due"), int),
    "map": bool,
    "again": bool,
}


def read_token(text: str | bytes) -> Token:
    token = token_of(orjson.loads(text))
    assert token is not None, "records are written by our scripts alone"
    return token


def token_of(record: Mapping[str, Any]) -> Token | None:
    """None if the record is none of ours: it may come with a signal, and signals come from anywhere."""
    if not record.keys() >= {"node", "state", "attempt", "depth"}:
        return None
    if not all(isinstance(record[name], kind) for name, kind in _KINDS.items() if name in record):
        return None
    if any(isinstance(value, int) and not -(10**14) < value < 10**14 for value in record.values()):
        return None  # cjson would make a float of it
    return Token(arrivals=record.get("from", ()), **{name: record[name] for name in _KINDS if name in record})


@dataclass(frozen=True, slots=True)
class StartedTask:
    """Answer of start_task; all but `state`, `attempt` and `digest` is there only when it is "started".

    Values are stored texts (schemas/values.py).
    """

    state: str  # started, signalled, gone, busy, moved, parked, exhausted, stale, unadopted
    attempt: int = 0
    digest: str = ""
    revision: int = 0
    token: Token | None = None
    input: str = ""
    arrived: Mapping[str, str] = field(default_factory=dict)  # by predecessor
    outputs: Mapping[str, str] = field(default_factory=dict)  # by node
    batch: str = ""
    key: str = ""  # of the batch's item
    item: str | None = None  # in a map: the item's value


def read_started_task(answer: Sequence[Any], reads: Sequence[str]) -> StartedTask:
    state = answer[0].decode()
    if state == "exhausted":
        return StartedTask(state, attempt=int(answer[1]))
    if state in ("stale", "unadopted"):
        return StartedTask(state, digest=answer[1].decode())
    if state != "started":
        return StartedTask(state)
    token = read_token(answer[3])
    return StartedTask(
        state=state,
        attempt=token.attempt,
        digest=answer[1].decode(),
        revision=int(answer[2]),
        token=token,
        input=answer[4].decode(),
        arrived=_pairs(answer[5]),
        outputs=_named(reads, answer[6]),
        batch=answer[7].decode(),
        key=answer[8].decode(),
        item=answer[9].decode() or None,
    )


@dataclass(frozen=True, slots=True)
class MapProgress:
    """How far a map is; `items` is the stored text of the whole list."""

    total: int
    cursor: int  # items started
    running: int
    done: int
    parallel: int
    items: str


@dataclass(frozen=True, slots=True)
class Loaded:
    """Answer of load_tokens for one signal. `status` is "" if the run is unknown, `token` None if it is gone."""

    status: str
    digest: str
    token: Token | None
    workflow: str = ""
    batch: str = ""
    key: str = ""
    input: str | None = None  # None if it was not asked for
    outputs: Mapping[str, str] = field(default_factory=dict)
    passes: Mapping[str, int] = field(default_factory=dict)
    arrived: Mapping[str, str] = field(default_factory=dict)
    depth: int = 0  # of the run, as a child of a child
    unadopted: bool = False  # its item does not follow the run's last patch yet
    item: str | None = None  # in a map: the item's value
    item_iteration: int = 0  # in a map: `iteration` outside of the item's loops
    map: MapProgress | None = None  # of a map's token
    outcome: bytes = b""  # the stored completion signal of an answered token


def read_loaded(answer: Sequence[Any], reads: Sequence[str], loops: Sequence[str]) -> Loaded:
    fields, record, outputs, passes, arrived, item, progress, outcome = answer
    status, digest, workflow, batch, key, depth, unadopted, *rest = (
        value.decode() if value is not None else "" for value in fields
    )
    return Loaded(
        status=status,
        digest=digest,
        workflow=workflow,
        batch=batch,
        key=key,
        input=rest[0] if rest else None,
        token=read_token(record) if record else None,
        outputs=_named(reads, outputs),
        passes={loop: int(count) for loop, count in zip(loops, passes, strict=False)},
        arrived=_pairs(arrived),
        depth=int(depth or 0),
        unadopted=bool(unadopted),
        item=item[0].decode() if item and item[0] is not None else None,
        item_iteration=int(item[1] or 0) if item else 0,
        map=_progress(progress),
        outcome=outcome or b"",
    )


def _progress(values: Sequence[bytes | None]) -> MapProgress | None:
    if not values or values[0] is None:
        return None
    total, cursor, running, done, parallel = (int(value or 0) for value in values[:5])
    return MapProgress(total, cursor, running, done, parallel, (values[5] or b"").decode())


def _named(names: Sequence[str], values: Sequence[bytes | None]) -> dict[str, str]:
    """By node; names are addresses, `<node>` or `<node>@<level>`."""
    return {
        name.partition("@")[0]: value.decode() for name, value in zip(names, values, strict=False) if value is not None
    }


def _pairs(flat: Sequence[bytes | None]) -> dict[str, str]:
    return {
        source.decode(): value.decode()
        for source, value in zip(flat[::2], flat[1::2], strict=True)
        if source is not None and value is not None
    }
