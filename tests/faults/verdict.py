"""What must hold once every run has ended, whatever happened on the way."""

from __future__ import annotations

import dataclasses
import json
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import orjson
from redis.asyncio import Redis

from lua.run_store import RunStore
from orchestrator_api.run_states import RunStates
from schemas.events import STATUS_OF, Event, read_event
from schemas.fold import fold
from schemas.keys import RUNNERS_GROUP, Keys, path_of, scope_of
from schemas.run_state import Reference, RunState, run_output
from schemas.state_view import shown_state
from schemas.values import artifact_name, decode_value, unpack
from tests.faults.courses import BATCH, case_of, ir_of
from tests.reference.comparison import ProductResult, compare, execution
from tests.reference.graph import TASKS, every_node
from tests.reference.interpreter import judge
from tests.reference.records import Execution, Result, as_json
from tests.routing.judged import wordless

KEYS = Keys()
EXECUTIONS = "test:executions"
"""List of every execution that gave an outcome, stored or not: JSON, one a line."""
SHARD_KEYS = ("events", "wf.", "streams", "runners", "counters", "test:", "model:", "served", "leases", "measured:")
"""Beginnings of keys that stay when all runs have ended."""

ANSWERED = (
    "status", "seq", "revision", "batch_id", "key", "labels", "priority", "input", "outputs", "output", "error",
    "counter", "created_at", "ended_at",
)  # fmt: skip
"""What GET /runs/{id} answers of a run, and its events tell."""

Events = Mapping[str, Sequence[Event]]


class Verdict:
    """Judges the runs of one Redis."""

    def __init__(self, redis: Redis, run_ids: Sequence[str]) -> None:
        self.redis: Any = redis
        self.run_ids = run_ids
        self.gone: set[str] = set()  # runs that had ended when Redis was wiped

    # -- is it over? ---------------------------------------------------------------------------------
    async def ended(self) -> bool:
        """Every run has ended, its children too, and nothing is on its way any more."""
        pipe = self.redis.pipeline(transaction=True)
        for run_id in self.run_ids:
            if run_id not in self.gone:
                pipe.hget(KEYS.run(run_id), "ended_at")
        pipe.exists(KEYS.signals, KEYS.live_runs, KEYS.timers)
        *ends, on_the_way = await pipe.execute()
        return None not in ends and not on_the_way

    async def statuses(self) -> Counter[str]:
        return Counter([await self._status(run_id) for run_id in self.run_ids if run_id not in self.gone])

    async def open_ends(self) -> dict[str, list[str]]:
        """The tokens of the runs that have not ended and what is due, for the message of a test that waits in vain."""
        live = [run_id.decode() for run_id in await self.redis.zrange(KEYS.live_runs, 0, -1)]
        found = {run_id: [str(one) for one in (await self._tokens(run_id)).items()][:40] for run_id in live}
        return found | {"timers": [member.decode() for member in (await self.redis.zrange(KEYS.timers, 0, -1))[:40]]}

    # -- judgement -----------------------------------------------------------------------------------
    async def differences(self, events: Events | None = None) -> list[str]:
        """Everything that is not as it must be, in words."""
        events = await self.events() if events is None else events
        executed: dict[tuple[str, int], Any] = {}
        for text in await self.redis.lrange(EXECUTIONS, 0, -1):
            one = orjson.loads(text)
            executed[one["token"], one["attempt"]] = one
        found = await self.left_over()
        for run_id in {*self.run_ids, *events}:
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

    async def fold_differs(self, run_id: str, events: Sequence[Event]) -> list[str]:
        """Where Redis does not hold what the run's events tell."""
        return await self._fold_against_redis(run_id, await self._fold(run_id, events))

    async def counters(self) -> dict[str, int]:
        return {kind.decode(): int(count) for kind, count in (await self.redis.hgetall(KEYS.counters)).items()}

    async def letters(self) -> list[dict[bytes, bytes]]:
        """Dead letters, but those of tasks whose failure ended their run."""
        letters = [fields for _, fields in await self.redis.xrange(KEYS.dead_letters)]
        return [fields for fields in letters if fields[b"reason"] != b"task"]

    async def _of_run(self, run_id: str, events: Sequence[Event], executed: Mapping[tuple[str, int], Any]) -> list[str]:
        if [event.seq for event in events] != list(range(1, len(events) + 1)):
            return [f"events are not numbered from 1 without gaps: {[event.seq for event in events]}"]
        if run_id in self.gone:
            return []
        moved = [e for e in events if e.type in ("node_completed", "node_failed") and not _is_undone(e, events)]
        tasks = {e.token_id: e for e in moved if ir_of(run_id).nodes[e.node_id].type in TASKS}  # the last of each
        unknown = [token for token, e in tasks.items() if (token, e.data["attempt"]) not in executed]
        if unknown:
            return [f"outcomes without an execution: {unknown}"]
        places = _places(run_id, events)
        effective = [
            executed[token, e.data["attempt"]] | {"path": places[scope_of(run_id, token)]} for token, e in tasks.items()
        ]
        gone = Counter(token for e in events for token in e.data.get("gone") or ())
        found = [f"{token} moved on {n} times" for token, n in gone.items() if n > 1]
        state = await self._fold(run_id, events)
        found += _ends(events, state)
        expected, seen = (
            judged(run_id, None if run_id in self.run_ids else state.input),
            _product_result(state, effective),
        )
        if state.epoch:  # a retry has its own way of counting attempts
            expected = dataclasses.replace(
                expected, trace=_attemptless(expected.trace), extra=_attemptless(expected.extra)
            )
            seen = dataclasses.replace(seen, executions=_attemptless(seen.executions))
        found += compare(expected, seen)
        return found + await self._fold_against_redis(run_id, state)

    async def _fold(self, run_id: str, events: Sequence[Event]) -> RunState:
        """The run's state by its events, its large outputs read."""
        state, packed = fold(events), await self.redis.hgetall(KEYS.artifacts(run_id))
        for values in state.outputs.values():
            for node, value in values.items():
                if isinstance(value, Reference):
                    values[node] = unpack(packed[value.name.encode()])
        if isinstance(state.input, Reference):
            state.input = unpack(packed[state.input.name.encode()])
        return state

    async def _fold_against_redis(self, run_id: str, state: RunState) -> list[str]:
        fields = await self.redis.hmget(KEYS.run(run_id), "status", "live", "seq", "epoch")
        tokens = await self._tokens(run_id)
        found = (fields[0].decode(), *(int(field or 0) for field in fields[1:]))
        claims = {
            "status, live, seq, epoch": (state.status, state.live, state.seq, state.epoch) == found,
            "live is 0": state.live == 0,
            "tokens": state.tokens == tokens,
        }
        for scope in {"", *(scope_of(run_id, token) for token in tokens)}:
            context = await self.redis.hgetall(KEYS.context(run_id, scope))
            outputs = {node.decode(): await self._value(run_id, text.decode()) for node, text in context.items()}
            ends = {node.decode() for node in await self.redis.smembers(KEYS.ends(run_id, scope))}
            claims[f"outputs in {scope!r}"] = state.outputs.get(scope, {}) == outputs
            claims[f"ends in {scope!r}"] = state.ends.get(scope, set()) == ends
        found_out = [f"fold(events) and Redis differ: {claim}" for claim, holds in claims.items() if not holds]
        return found_out + await self._fold_against_api(run_id, state)

    async def _fold_against_api(self, run_id: str, state: RunState) -> list[str]:
        """Where GET /runs/{id} does not answer what the run's events tell. It needs no Postgres for these fields."""
        nobody: Any = Nobody()
        states = RunStates(RunStore(self.redis, KEYS), nobody, nobody, nobody)
        now = await states.in_redis(run_id)
        assert now is not None
        answered, folded = await states.show(now), shown_state(state)
        return [
            f"fold(events) and the API differ: {name} is {folded[name]!r}, and {answered[name]!r}"[:2_000]
            for name in ANSWERED
            if answered[name] != folded[name]
        ] + (["fold(events) and the API differ: live tokens"] * (_named(answered) != _named(folded)))

    async def _tokens(self, run_id: str) -> dict[str, Any]:
        """The records of a run's tokens, those in the items of its maps too."""
        found: dict[str, Any] = {}
        for key in [KEYS.tokens(run_id), *await self.redis.keys(f"{KEYS.tokens(run_id)}/*")]:
            found |= {token.decode(): orjson.loads(text) for token, text in (await self.redis.hgetall(key)).items()}
        return found

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
        for key in (KEYS.timers, KEYS.live_runs, KEYS.signals, KEYS.approvals, KEYS.backlog, KEYS.backlog_since):
            if await self.redis.exists(key):
                found.append(f"{key} is not empty")
        async for raw in self.redis.scan_iter(count=1_000):
            key = raw.decode()
            if not key.startswith(SHARD_KEYS) and await self.redis.pttl(raw) == -1:
                found.append(f"{key} has no TTL")
            if key.startswith("model:"):
                found += [f"{key}: {n} {what}" for what, n in await self._at_work(key) if n]
            if (of_item := re.match(r"\w+:([^/]+)/", key)) and await self._status(of_item[1]) != "FAILED":
                found.append(f"{key} is left of a map")
        return found

    async def _at_work(self, model: str) -> list[tuple[str, int]]:
        return [(what, int(await self.redis.hget(model, what) or 0)) for what in ("queued", "running")]

    async def _status(self, run_id: str) -> str:
        return (await self.redis.hget(KEYS.run(run_id), "status") or b"unknown").decode()

    async def _batch_counts(self, events: Events) -> list[str]:
        """The batch's counts are those of its events."""
        counts = {n.decode(): int(c) for n, c in (await self.redis.hgetall(KEYS.batch(BATCH))).items()}
        ends = Counter(STATUS_OF[events[run_id][-1].type] for run_id in self.run_ids)
        expected = {"done": ends["COMPLETED"], "failed": len(self.run_ids) - ends["COMPLETED"], "running": 0}
        found = {name: counts.get(name, 0) for name in expected}
        wrong = [f"batch: {found}, and not {expected}"] if found != expected else []
        odd = {name: n for name, n in counts.items() if name.endswith(("|queued", "|running")) and n}
        return wrong + [f"batch: {odd} when all is over"] * bool(odd)


class Nobody:
    """Who knows of no parent, no children, and of no large value that Redis does not have."""

    async def of(self, run_id: str) -> dict[str, Any]:
        return {"parent": None, "children": []}

    async def get_many(self, names: Sequence[str]) -> dict[str, bytes]:
        return {}


def _named(run: Mapping[str, Any]) -> list[tuple[Any, ...]]:
    names = ("token_id", "node_id", "state", "attempt")
    return [tuple(token[name] for name in names) for token in run["live_tokens"]]


def judged(run_id: str, input: Any = None) -> Result:
    """What the reference interpreter makes of the run: its tasks alone, its errors without words.

    `input`: of a child run, whose input its parent gave it.
    """
    made = case_of(run_id)
    types = {node["id"]: node["type"] for node in every_node(made.workflow)}
    result = judge(made.workflow, made.input if input is None else input, made.outcome_of)

    def tasks(executions: Sequence[Execution]) -> list[Execution]:
        shown = [one for one in executions if types[one.node] in TASKS]
        return [one._replace(output=as_json(wordless(json.loads(one.output)))) for one in shown]

    return dataclasses.replace(
        result,
        trace=tasks(result.trace),
        extra=tasks(result.extra),
        outputs=wordless(result.outputs),
        output=wordless(result.output),
    )


def _is_undone(event: Event, events: Sequence[Event]) -> bool:
    """Whether a retry was to execute the failed task again, and its run was cancelled before it could."""
    retried = max((e.seq for e in events if e.type == "run_retried"), default=0)
    lost = event.type == "node_failed" and event.token_id not in (event.data.get("gone") or ())
    return lost and event.seq < retried and events[-1].type == "run_cancelled"


def _attemptless(executions: Sequence[Execution]) -> list[Execution]:
    return [one._replace(attempts=1) for one in executions]


def _places(run_id: str, events: Sequence[Event]) -> dict[str, str]:
    """By scope, where it lies as the reference says it: `<map>:<iteration>-<index>` of each enclosing map."""
    places = {"": ""}
    for event in events:
        if event.type != "items_started":
            continue
        path, first = path_of(run_id, event.token_id), event.data["first"]
        around = f"{places[event.scope]}." if event.scope else ""
        iteration = _iteration(events, event.token_id)
        for index in range(first, first + event.data["count"]):
            places[f"{path}-{index}"] = f"{around}{event.node_id}:{iteration}-{index}"
    return places


def _iteration(events: Sequence[Event], token: str) -> int:
    records = (event.data["tokens"][token] for event in events if token in (event.data.get("tokens") or {}))
    return int(next(records).get("iteration", 0))


def _ends(events: Sequence[Event], state: RunState) -> list[str]:
    """A run ends once, and once more each time that it was retried; then it is only held, slice by slice."""
    ends = [number for number, event in enumerate(events) if event.type in STATUS_OF]
    after = {event.type for event in events[ends[-1] + 1 :]} if ends else set()
    if len(ends) == 1 + state.epoch and after <= {"items_held"}:
        return []
    return [f"it ended {len(ends)} times in {state.epoch + 1} epochs; then came {after}"]


def _product_result(state: RunState, effective: Sequence[Any]) -> ProductResult:
    completed, error = state.status == "COMPLETED", state.error or {}
    executions = [
        execution(
            one["node"], one["iteration"], wordless(one["output"]), one["result"],
            error_class=one["error"], attempts=one["failures"] + 1, path=one["path"],
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
