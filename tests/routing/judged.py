"""Random workflows, played on the real scripts and coordinator code and held against the reference interpreter."""

from __future__ import annotations

import dataclasses
import json
import random
from collections import Counter
from typing import Any

from redis.asyncio import Redis

from lua.answers import StartedTask
from schemas.expressions.template import TemplateError
from schemas.fold import RunState, fold, run_output
from schemas.messages import Failure, Task
from schemas.values import decode_value
from schemas.variables import make_variables
from tests.play import Play
from tests.reference.comparison import ProductResult, compare, execution
from tests.reference.generator import Case
from tests.reference.interpreter import Completed, Execution, as_json, judge

TASKS = ("function", "agent")


def wordless(value: Any) -> Any:
    """A value without the messages of errors in it: the product words them in its own way."""
    if isinstance(value, list):
        return [wordless(part) for part in value]
    if isinstance(value, dict):
        is_error = value.keys() >= {"class", "message", "attempts", "node"}
        return {name: "" if is_error and name == "message" else wordless(part) for name, part in value.items()}
    return value


def wordless_case(made: Case) -> Case:
    """The same case, whose script does not look at the messages of errors."""
    outcome_of = made.outcome_of
    return dataclasses.replace(
        made, outcome_of=lambda node, attempt, iteration, output: outcome_of(node, attempt, iteration, wordless(output))
    )


class JudgedPlay(Play):
    """Plays one generated case with random order, duplicates and late signals, and keeps what was executed."""

    def __init__(self, redis: Redis, case: Case, rng: random.Random) -> None:
        super().__init__(redis, case.workflow, self._answer)
        self.case = wordless_case(case)
        self.rng = rng
        self.seen: list[Execution] = []

    def _answer(self, task: Task, started: StartedTask) -> Any:
        node, token = self.ir.nodes[task.node_id], started.token
        variables = make_variables(
            node_type=node.type, waits=node.analysis.waits, input=decode_value(started.input),
            arrived={k: decode_value(v) for k, v in started.arrived.items()},
            ctx={k: decode_value(v) for k, v in started.outputs.items()},
            iteration=token.iteration, run={},
        )  # fmt: skip
        output = variables["output"]
        try:
            args = node.templates["args"].render(variables) if "args" in node.templates else None
        except TemplateError as error:
            self._seen(task, started, output, None, "template")
            return Failure("template", str(error), retryable=False)
        attempt = token.failures + 1
        outcome = self.case.outcome_of(task.node_id, attempt, token.iteration, output)
        if isinstance(outcome, Completed):
            self._seen(task, started, output, args, None, outcome.value)
            return outcome.value
        if not (outcome.retryable and attempt < node.retry.max_attempts):
            self._seen(task, started, output, args, outcome.error_class)
        return Failure(outcome.error_class, outcome.message or "no message", outcome.retryable)

    def _seen(
        self, task: Task, started: StartedTask, output: Any, args: Any, error: str | None, result: Any = None
    ) -> None:
        self.seen.append(
            execution(
                task.node_id, started.token.iteration, wordless(output), result, args=args, error_class=error,
                attempts=started.token.failures + 1,
            )
        )  # fmt: skip

    async def play(self, limit: int = 3_000) -> None:
        """Any order of executions; signals are held back, doubled and shuffled at random."""
        await self.start(input=self.case.input)
        waiting: list[bytes] = []
        for _ in range(limit):
            waiting += await self.signals()
            tasks = await self.tasks()
            if tasks and (not waiting or self.rng.random() < 0.6):
                await self.execute(self.rng.choice(tasks))
            elif waiting:
                waiting = await self._route_some(waiting)
            elif not await self._release_delayed():
                return
        raise AssertionError(f"no end after {limit} steps")

    async def _route_some(self, waiting: list[bytes]) -> list[bytes]:
        self.rng.shuffle(waiting)
        count = self.rng.randint(1, len(waiting))
        now, later = waiting[:count], waiting[count:]
        if self.rng.random() < 0.3:
            now.append(self.rng.choice(now))
        await self.route(now)
        if self.rng.random() < 0.2:
            await self.route([self.rng.choice(now)])
        return later

    # -- judgement -----------------------------------------------------------------------------------
    async def differences(self) -> list[str]:
        """What differs from the reference, in words, and what breaks an invariant."""
        judged = judge(self.case.workflow, self.case.input, self.case.outcome_of)
        state = fold(await self.events())
        types = {node["id"]: node["type"] for node in self.case.workflow["nodes"]}
        judged = dataclasses.replace(
            judged,
            trace=[e._replace(output=as_json(wordless(json.loads(e.output)))) for e in judged.trace],
            outputs=wordless(judged.outputs),
            output=wordless(judged.output),
        )
        tasks_only = dataclasses.replace(judged, trace=[e for e in judged.trace if types[e.node] in TASKS])
        product = ProductResult(
            status=await self.status(),
            executions=self.seen,
            outputs=wordless(await self.outputs()),
            output=wordless(run_output(state)) if judged.status == "COMPLETED" else None,
            error_node=(state.error or {}).get("node"),
            error_class=(state.error or {}).get("class"),
            loop_counts=await self.loop_counts(),
        )
        found = compare(tasks_only, product)
        if judged.status == "COMPLETED":
            found += await self._passing(judged.trace, types)
        return found + await self._broken(state)

    async def _passing(self, trace: list[Execution], types: dict[str, str]) -> list[str]:
        expected = Counter(e.node for e in trace if types[e.node] not in TASKS)
        seen: Counter[str] = Counter()
        for event in await self.events():
            seen.update(node for node in event.data.get("outputs", {}) if types[node] not in TASKS)
        # A node that one step passes several times lies in `outputs` once; only misses and surpluses of nodes count.
        return [] if set(expected) == set(seen) else [f"passing nodes: {set(seen)}, and not {set(expected)}"]

    async def loop_counts(self) -> dict[str, int]:
        counts = {}
        for loop in self.ir.loops:
            value = await self.redis.hget(self.keys.loop("run_1", loop), "current_iteration")
            counts[loop] = int(value or 0)
        return counts

    async def _broken(self, state: RunState) -> list[str]:
        """Invariants: one end, no token left alive, events without gaps, fold = Redis."""
        events, tokens = await self.events(), await self.tokens()
        ends = [event.type for event in events if event.type.startswith("run_") and event.type != "run_started"]
        alive = [t.node for t in tokens.values() if t.state not in ("held", "dead")]
        claims = {
            "the run ended once": len(ends) == 1,
            "nothing is alive": not alive and await self.field("live") == "0",
            "events are numbered without gaps": [e.seq for e in events] == list(range(1, len(events) + 1)),
            "no timer is left": await self.redis.zcard(self.keys.timers) == 0,
            "no entry is left": await self._entries() == 0,
            "no dead letter but failed tasks": await self._letters() <= 1,
            "fold: status": state.status == await self.status(),
            "fold: live": state.live == 0,
            "fold: tokens": set(state.tokens) == set(tokens),
            "fold: outputs": state.outputs.get("", {}) == await self.outputs(),
            "fold: ends": set(state.ends.get("", ())) == await self._ends(),
            "fold: passes": {k: v for k, v in state.passes.get("", {}).items() if v}
            == {k: v for k, v in (await self.loop_counts()).items() if v},
        }
        return [f"broken: {claim}" for claim, holds in claims.items() if not holds]

    async def _entries(self) -> int:
        return sum([await self.redis.xlen(s.decode()) for s in await self.redis.smembers(self.keys.streams)])

    async def _letters(self) -> int:
        return int(await self.redis.xlen(self.keys.dead_letters))

    async def _ends(self) -> set[str]:
        return {node.decode() for node in await self.redis.smembers(self.keys.ends("run_1"))}
