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
    arrivals: Sequence[Sequence[Any]] = ()  # [predecessor, depth, lane] each


_KINDS = {
    **dict.fromkeys(("node", "state", "lane", "scope", "stream", "entry", "runner", "held"), str),
    **dict.fromkeys(("attempt", "depth", "iteration", "failures", "interruptions", "since", "due"), int),
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
    return Token(arrivals=record.get("from", ()), **{name: record[name] for name in _KINDS if name in record})


@dataclass(frozen=True, slots=True)
class StartedTask:
    """Answer of start_task; all but `state` and `attempt` is there only when it is "started".

    Values are stored texts (schemas/values.py).
    """

    state: str  # started, signalled, gone, busy, exhausted
    attempt: int = 0
    digest: str = ""
    revision: int = 0
    token: Token | None = None
    input: str = ""
    arrived: Mapping[str, str] = field(default_factory=dict)  # by predecessor
    outputs: Mapping[str, str] = field(default_factory=dict)  # by node
    batch: str = ""
    key: str = ""  # of the batch's item


def read_started_task(answer: Sequence[Any], reads: Sequence[str]) -> StartedTask:
    state = answer[0].decode()
    if state == "exhausted":
        return StartedTask(state, attempt=int(answer[1]))
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
    )


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


def read_loaded(answer: Sequence[Any], reads: Sequence[str], loops: Sequence[str]) -> Loaded:
    fields, record, outputs, passes, arrived = answer
    status, digest, workflow, batch, key, *rest = (value.decode() if value is not None else "" for value in fields)
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
    )


def _named(names: Sequence[str], values: Sequence[bytes | None]) -> dict[str, str]:
    return {name: value.decode() for name, value in zip(names, values, strict=False) if value is not None}


def _pairs(flat: Sequence[bytes | None]) -> dict[str, str]:
    return {
        source.decode(): value.decode()
        for source, value in zip(flat[::2], flat[1::2], strict=True)
        if source is not None and value is not None
    }
