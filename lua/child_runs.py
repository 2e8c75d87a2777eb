"""Child runs: how a run starts another one, for a `workflow` node or as a tool of an agent, and what it came to."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import orjson

from lua.answers import Started
from lua.run_store import RunStore
from schemas.ids import NAME
from schemas.ir import IR
from schemas.keys import path_of
from schemas.limits import LIMITS
from schemas.run_state import output_of
from schemas.submission import RETENTION_MS, Priority, make_start, request_digest
from schemas.values import artifact_name, decode_value, unpack

LIVE = ("RUNNING", "PAUSED")
SHORTEST_RETENTION_MS = 60_000
"""A child's output is read after its end, so its keys must not go with it."""


class TooDeep(ValueError):
    """The child would be one of too many that nest."""


@dataclass(frozen=True, slots=True)
class ChildEnd:
    """`status` is "" for a child that is gone; `reason` is what a failed one says of itself; `output` of a completed
    one."""

    status: str
    reason: str = ""
    output: Any = None


class ChildRuns:
    """The children of the runs of one shard."""

    def __init__(self, store: RunStore) -> None:
        self.store = store

    async def start(
        self, child_id: str, parent_id: str, parent_token: str, ir: IR, input: Any, *,
        version: int | None = None, timeout_ms: int | None = None, wake: str = "",
    ) -> Started:  # fmt: skip
        """Start a child; it has its parent's priority and labels. `wake` is the signal that its end pushes.

        The same child again changes nothing. Raises TooDeep, and ValueTooLarge for its input.
        """
        names = ("depth", "priority", "retention_ms", "labels", "epoch")
        depth, priority, retention, labels, epoch = await self.store.redis.hmget(self.store.keys.run(parent_id), *names)
        nested = int(depth or 0) + 1
        if nested > LIMITS.child_depth:
            raise TooDeep(f"child runs nest deeper than the limit child_depth, {LIMITS.child_depth}")
        chosen: Priority = "interactive" if priority == b"interactive" else "normal"
        start = make_start(
            child_id, ir, input, request=request_digest(["child", child_id]), version=version, priority=chosen,
            labels=orjson.loads(labels or b"{}"), timeout_ms=timeout_ms, by=parent_id,
            retention_ms=max(int(retention or RETENTION_MS), SHORTEST_RETENTION_MS),
        )  # fmt: skip
        parent = {"parent": parent_id, "parent_token": parent_token}
        fields = {**start.fields, **parent, "depth": str(nested), "parent_epoch": (epoch or b"0").decode()}
        if wake:
            fields["parent_signal"] = wake
        start = replace(start, fields=fields, event={**start.event, **parent})
        return await self.store.start_run(**start.arguments())

    async def status(self, child_id: str) -> str:
        """RUNNING, COMPLETED, ...; "" if it is gone."""
        status = await self.store.redis.hget(self.store.keys.run(child_id), "status")
        return status.decode() if status else ""

    async def is_of_this_epoch(self, child_id: str, parent_id: str) -> bool:
        """Whether the parent has not been retried since it started, or retried, this child."""
        epoch = await self.store.redis.hget(self.store.keys.run(parent_id), "epoch")
        known = await self.store.redis.hget(self.store.keys.run(child_id), "parent_epoch")
        return (known or b"0") == (epoch or b"0")

    async def end(self, child_id: str) -> ChildEnd | None:
        """What the child came to; None while it goes on. Raises LookupError for an artifact that is gone."""
        keys = self.store.keys
        async with self.store.redis.pipeline(transaction=True) as pipe:
            pipe.hmget(keys.run(child_id), "status", "error")
            pipe.smembers(keys.ends(child_id))
            pipe.hgetall(keys.context(child_id))
            (status, error), ends, context = await pipe.execute()
        state = status.decode() if status else ""
        if state in LIVE:
            return None
        if state != "COMPLETED":
            return ChildEnd(state, _reason(error))
        values = {node.decode(): await self._value(child_id, context[node]) for node in ends if node in context}
        return ChildEnd(state, output=output_of(values, values))

    async def _value(self, child_id: str, text: bytes) -> Any:
        name = artifact_name(text.decode())
        if name is None:
            return decode_value(text)
        packed = await self.store.artifact(child_id, name)
        if packed is None:
            raise LookupError(f"artifact {name} of the child run {child_id} is gone")
        return unpack(packed)


def child_id(run_id: str, token_id: str, *numbers: int) -> str:
    """`<run>:<path of the token>[:<number>...]`; hashed where that is too long for a run's id."""
    name = ":".join([run_id, path_of(run_id, token_id), *map(str, numbers)])
    return name if NAME.fullmatch(name) else f"run_{request_digest(name)[:40]}"


def _reason(error: bytes | None) -> str:
    """What the child's failure says of itself."""
    try:
        said: Mapping[str, Any] = orjson.loads(error or b"{}")
        return f": {(said.get('error') or said)['message']}"
    except (orjson.JSONDecodeError, AttributeError, KeyError, TypeError):
        return ""
