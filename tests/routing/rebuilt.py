"""Random plays whose run is read back from Redis, and forked at any of its events."""

from __future__ import annotations

import dataclasses
import random
from collections import Counter
from typing import Any

import orjson
from redis.asyncio import Redis

from lua.run_image import Rebuilt
from lua.run_reading import read_run
from lua.run_rebuild import RunRebuild
from schemas.events import Event
from schemas.fold import fold
from schemas.fork import LIVE, forked
from schemas.ir import IR
from schemas.run_state import MapState, RunState
from schemas.snapshot import artifacts_in, dump_state, load_state
from tests.reference.generator import Case
from tests.reference.graph import TASKS
from tests.reference.records import Result
from tests.routing.judged import ANSWERED, FAILED, RUN, JudgedPlay
from tests.routing.unrest import Unrest

MOVED = ("node_completed", "node_failed", "node_answered")


def unlike(folded: RunState, read: RunState) -> list[str]:
    """Where the state that Redis holds is not what the events fold to, but for what only events tell."""
    found = []
    for field in dataclasses.fields(RunState):
        if field.name in ("usage", "started", "last_at", "made"):
            continue
        pair = [plain(getattr(state, field.name)) for state in (folded, read)]
        if field.name == "opened":  # what a failure holds is asked anew
            pair[0] = {token: one for token, one in pair[0].items() if folded.tokens[token]["state"] == "asked"}
        if field.name == "answers":  # what failed with its run may have an outcome of which no event tells yet
            pair[1] = {token: one for token, one in pair[1].items() if token in folded.answers}
        if pair[0] != pair[1]:
            found.append(f"{field.name}: {pair[0]}, and in Redis {pair[1]}")
    return found


def plain(value: Any) -> Any:
    """Without what is empty: nothing was counted there."""
    if isinstance(value, dict):
        return {name: part for name, one in value.items() if (part := plain(one)) not in ({}, set())}
    if isinstance(value, MapState):
        return dataclasses.asdict(value)
    return value


class ForkedPlay(JudgedPlay):
    """`forks`: at how many moments the run is given up for a fork of it, from any of its events."""

    def __init__(self, redis: Redis, case: Case, rng: random.Random, unrest: Unrest, forks: int = 2) -> None:
        super().__init__(redis, case, rng, unrest)
        self.forks = forks
        self.forked = 0
        self.before: list[Event] = []  # of the runs that were forked, up to there
        self.done: set[str] = set()  # tokens that had done their work by then

    async def _meanwhile(self, step: int) -> None:
        await super()._meanwhile(step)
        if self.rng.random() < 0.2:
            self.wrong += await self.misread()
        if self.forks and self.rng.random() < 0.05:
            self.forks -= 1
            await self._fork()

    async def misread(self) -> list[str]:
        state = await read_run(self.store, RUN)
        assert state is not None
        return [f"read: {one}" for one in unlike(await self.books.folded(), state)]

    async def _fork(self) -> None:
        events = await self.events()
        count = self.rng.randint(1, len(events))
        while count < len(events) and events[count].type == "item_completed":
            count += 1  # it belongs to the step before
        events = events[:count]
        state = fold(events)
        if state.status not in (*LIVE, "FAILED") or not state.tokens:
            return
        other = load_state(dump_state(state).replace(b"run_1", b"run_0"))
        names = [text.removeprefix("artifact://") for text in artifacts_in(other)]
        artifacts = {name: await self.store.artifact(RUN, name) for name in names}
        ir = IR.from_json(await self.store.ir_text(RUN))
        await self.redis.flushdb()
        told = {
            "workflow_id": state.workflow_id, "request": "x", "revision": 1, "digest": state.digest,
            "input": state.input, "fields": {"retention_ms": "60000"},
            "forked_from": {"run_id": "run_0", "seq": state.seq},
        }  # fmt: skip
        paused = self.rng.random() < 0.3
        now = await self.store.now()
        begun = forked(other, RUN, told, at=now, paused=paused)
        body = {**told, "state": orjson.Fragment(dump_state(begun))}
        assert await RunRebuild(self.store).restore(Rebuilt(begun, ir, artifacts), "run_forked", body, now)
        self.forked += 1
        self.paused = paused
        self.cancelled = False
        self.books.read, self.books.state = "-", RunState()
        self.late, self.waiting = [], []
        self.before += events
        done = {event.token_id for event in events if event.type in MOVED}
        done |= {event.token_id for event in self.before if event.type in MOVED and event.token_id not in state.tokens}
        done |= set(state.answers)
        again = {token for token, record in state.tokens.items() if record["state"] == "dead"}
        self.done = done - again
        self.seen = {token: one for token, one in self.seen.items() if token in self.done}

    async def _lose(self) -> None:
        done = {token: one for token, one in self.seen.items() if token in self.done}
        await super()._lose()
        self.seen |= done

    async def _passed(self, judged: Result, types: dict[str, str]) -> list[str]:
        shown = (*TASKS, *ANSWERED)
        certain = {e.node for e in judged.trace if types[e.node] not in shown and not FAILED.fullmatch(e.result)}
        possible = certain | {one.node for one in judged.extra if types[one.node] not in shown}
        seen: Counter[str] = Counter()
        for event in [*self.before, *await self.events()]:
            seen.update(node for node in event.data.get("outputs", {}) if types[node] not in shown)
        return [] if certain <= set(seen) <= possible else [f"passing nodes: {set(seen)}, and not {certain}"]
