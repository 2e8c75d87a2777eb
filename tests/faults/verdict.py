"""What must hold once every run has ended, whatever happened on the way."""

from __future__ import annotations

import dataclasses
import json
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import orjson
from redis.asyncio import Redis

from schemas.events import STATUS_OF, Event, read_event
from schemas.fold import Reference, RunState, fold, run_output
from schemas.keys import RUNNERS_GROUP, Keys
from schemas.values import artifact_name, decode_value, unpack
from tests.faults.courses import BATCH, case_of, ir_of
from tests.reference.comparison import ProductResult, compare, execution
from tests.reference.interpreter import Result, as_json, judge
from tests.routing.judged import TASKS, wordless

KEYS = Keys()
EXECUTIONS = "test:executions"
"""List of every execution that gave an outcome, stored or not: JSON, one a line."""
SHARD_KEYS = ("events", "wf.", "streams", "runners", "counters", "test:", "model:")
"""Beginnings of keys that stay when all runs have ended."""

Events = Mapping[str, Sequence[Event]]


class Verdict:
    """Judges the runs of one Redis."""

    def __init__(self, redis: Redis, run_ids: Sequence[str]) -> None:
        self.redis: Any = redis
        self.run_ids = run_ids

    # -- is it over? ---------------------------------------------------------------------------------
    async def ended(self) -> bool:
        """Every run has ended, and nothing is on its way any more."""
        pipe = self.redis.pipeline(transaction=False)
        for run_id in self.run_ids:
            pipe.hget(KEYS.run(run_id), "ended_at")
        return None not in await pipe.execute() and not await self.redis.exists(KEYS.signals)

    async def statuses(self) -> Counter[str]:
        found = [await self.redis.hget(KEYS.run(run_id), "status") for run_id in self.run_ids]
        return Counter((status or b"unknown").decode() for status in found)

    async def open_ends(self) -> dict[str, list[str]]:
        """The tokens of the runs that have not ended, for the message of a test that waits in vain."""
        return {
            run_id: [record.decode() for record in await self.redis.hvals(KEYS.tokens(run_id))]
            for run_id in self.run_ids
            if not await self.redis.hget(KEYS.run(run_id), "ended_at")
        }

    # -- judgement -----------------------------------------------------------------------------------
    async def differences(self, events: Events | None = None) -> list[str]:
        """Everything that is not as it must be, in words."""
        events = await self.events() if events is None else events
        executed: dict[tuple[str, int], Any] = {}
        for text in await self.redis.lrange(EXECUTIONS, 0, -1):
            one = orjson.loads(text)
            executed[one["token"], one["attempt"]] = one
        found = await self.left_over()
        for run_id in self.run_ids:
            of_run = await self._of_run(run_id, events.get(run_id, ()), executed)
            found += [f"{run_id}: {difference}" for difference in of_run]
        return found + await self._batch_counts(events)

    async def events(self) -> Events:
        """By run, as the stream has them; no recorder may have trimmed it."""
        by_run: dict[str, list[Event]] = {}
        for _, fields in await self.redis.xrange(KEYS.events):
            event = read_event(fields)
            by_run.setdefault(event.run_id, []).append(event)
        return by_run

    async def counters(self) -> dict[str, int]:
        return {kind.decode(): int(count) for kind, count in (await self.redis.hgetall(KEYS.counters)).items()}

    async def letters(self) -> list[dict[bytes, bytes]]:
        """Dead letters, but those of tasks whose failure ended their run."""
        letters = [fields for _, fields in await self.redis.xrange(KEYS.dead_letters)]
        return [fields for fields in letters if fields[b"reason"] != b"task"]

    async def _of_run(self, run_id: str, events: Sequence[Event], executed: Mapping[tuple[str, int], Any]) -> list[str]:
        if [event.seq for event in events] != list(range(1, len(events) + 1)):
            return [f"events are not numbered from 1 without gaps: {[event.seq for event in events]}"]
        moved = [e for e in events if e.type in ("node_completed", "node_failed")]
        tasks = [e for e in moved if ir_of(run_id).nodes[e.node_id].type in TASKS]
        unknown = [e.token_id for e in tasks if (e.token_id, e.data["attempt"]) not in executed]
        if unknown:
            return [f"outcomes without an execution: {unknown}"]
        effective = [executed[e.token_id, e.data["attempt"]] for e in tasks]
        found = [f"{token} moved on {n} times" for token, n in Counter(e.token_id for e in moved).items() if n > 1]
        ends = [event.type for event in events if event.type in STATUS_OF]
        if len(ends) != 1 or events[-1].type != ends[0]:
            found.append(f"it did not end once, and last: {ends}")
        state = await self._fold(run_id, events)
        found += compare(judged(run_id), _product_result(state, effective))
        return found + await self._fold_against_redis(run_id, state)

    async def _fold(self, run_id: str, events: Sequence[Event]) -> RunState:
        """The run's state by its events, its large outputs read."""
        state, packed = fold(events), await self.redis.hgetall(KEYS.artifacts(run_id))
        for node, value in state.outputs.get("", {}).items():
            if isinstance(value, Reference):
                state.outputs[""][node] = unpack(packed[value.name.encode()])
        return state

    async def _fold_against_redis(self, run_id: str, state: RunState) -> list[str]:
        fields = await self.redis.hmget(KEYS.run(run_id), "status", "live", "seq")
        tokens = {token.decode() for token in await self.redis.hkeys(KEYS.tokens(run_id))}
        context = await self.redis.hgetall(KEYS.context(run_id))
        outputs = {node.decode(): await self._value(run_id, text.decode()) for node, text in context.items()}
        claims = {
            "status, live, seq": (state.status, state.live, state.seq) == (fields[0].decode(), *map(int, fields[1:])),
            "live is 0": state.live == 0,
            "tokens": set(state.tokens) == tokens,
            "outputs": state.outputs.get("", {}) == outputs,
            "ends": state.ends.get("", set()) == {n.decode() for n in await self.redis.smembers(KEYS.ends(run_id))},
        }
        return [f"fold(events) and Redis differ: {claim}" for claim, holds in claims.items() if not holds]

    async def _value(self, run_id: str, text: str) -> Any:
        name = artifact_name(text)
        return unpack(await self.redis.hget(KEYS.artifacts(run_id), name)) if name else decode_value(text)

    async def left_over(self) -> list[str]:
        """Entries that were acknowledged or never finished, and keys of runs that would live for ever."""
        found = []
        for name in await self.redis.smembers(KEYS.streams):
            stream = KEYS.stream(name.decode())
            entries, pending = await self.redis.xlen(stream), await self.redis.xpending(stream, RUNNERS_GROUP)
            if entries or pending["pending"]:
                found.append(f"{stream} keeps {entries} entries, {pending['pending']} of them pending")
        for key in (KEYS.timers, KEYS.live_runs, KEYS.signals):
            if await self.redis.exists(key):
                found.append(f"{key} is not empty")
        async for raw in self.redis.scan_iter(count=1_000):
            if not raw.decode().startswith(SHARD_KEYS) and await self.redis.pttl(raw) == -1:
                found.append(f"{raw.decode()} has no TTL")
        return found

    async def _batch_counts(self, events: Events) -> list[str]:
        """The batch's counts are those of its events."""
        counts = {n.decode(): int(c) for n, c in (await self.redis.hgetall(KEYS.batch(BATCH))).items()}
        ends = Counter(STATUS_OF[events[run_id][-1].type] for run_id in self.run_ids)
        expected = {"done": ends["COMPLETED"], "failed": len(self.run_ids) - ends["COMPLETED"], "running": 0}
        found = {name: counts.get(name, 0) for name in expected}
        wrong = [f"batch: {found}, and not {expected}"] if found != expected else []
        odd = {name: n for name, n in counts.items() if name.endswith(("|queued", "|running")) and n}
        return wrong + [f"batch: {odd} when all is over"] * bool(odd)


def judged(run_id: str) -> Result:
    """What the reference interpreter makes of the run: its tasks alone, its errors without words."""
    made = case_of(run_id)
    types = {node["id"]: node["type"] for node in made.workflow["nodes"]}
    result = judge(made.workflow, made.input, made.outcome_of)
    tasks = [execution for execution in result.trace if types[execution.node] in TASKS]
    return dataclasses.replace(
        result,
        trace=[task._replace(output=as_json(wordless(json.loads(task.output)))) for task in tasks],
        outputs=wordless(result.outputs),
        output=wordless(result.output),
    )


def _product_result(state: RunState, effective: Sequence[Any]) -> ProductResult:
    completed, error = state.status == "COMPLETED", state.error or {}
    executions = [
        execution(
            one["node"], one["iteration"], wordless(one["output"]), one["result"],
            error_class=one["error"], attempts=one["failures"] + 1,
        )
        for one in effective
    ]  # fmt: skip
    return ProductResult(
        status=state.status,
        executions=executions,
        outputs=wordless(state.outputs.get("", {})) if completed else None,
        output=wordless(run_output(state)) if completed else None,
        error_node=error.get("node"),
        error_class=error.get("class"),
        loop_counts=state.passes.get("", {}) if completed else None,
    )
