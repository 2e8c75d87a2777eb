"""Random workflows, played on the real scripts and coordinator code and held against the reference interpreter."""

from __future__ import annotations

import dataclasses
import json
import random
import re
from collections import Counter
from functools import cached_property, partial
from typing import Any

import orjson
from redis.asyncio import Redis

from coordinator.timers import Timers
from lua.answers import StartedTask, Token
from lua.run_store import Claim
from schemas.expressions.template import TemplateError
from schemas.keys import scope_of
from schemas.messages import CompletionSignal, Failure, Task
from schemas.run_state import RunState, run_output
from schemas.values import decode_value
from schemas.variables import arrived_output, item_index, make_variables
from tests.play import Play
from tests.reference.comparison import ProductResult, compare, execution
from tests.reference.generator import Case
from tests.reference.graph import TASKS, every_node
from tests.reference.interpreter import judge
from tests.reference.records import Completed, Execution, Failed, Result, as_json
from tests.routing.bookkeeping import Bookkeeping
from tests.routing.loss import Loss
from tests.routing.unrest import Unrest

RUN = "run_1"
ANSWERED = ("human", "wait", "workflow")
ENDED_AS = {"child_cancelled": "CANCELLED", "timeout": "TIMED_OUT"}
"""How a child run ends from outside, by the class of the failure that its parent's node sees."""
FAILED = re.compile(r'{"error": "\w+"}')
"""The result of an execution that failed."""
EAGER_TIMERS = ("retry", "wait", "sweep", "unpark", "cancel", "follow", "adopt")
"""Kinds that are fired at once, in any order. Deadlines are as the script has them, the others for what goes wrong."""


def wordless(value: Any) -> Any:
    """A value without the messages of errors in it: the product words them in its own way. What caused the failure
    of a map is part of that: it is the item that failed first, in whatever order."""
    if isinstance(value, list):
        return [wordless(part) for part in value]
    if isinstance(value, dict):
        if value.keys() >= {"class", "message", "attempts", "node"}:
            value = {name: "" if name == "message" else part for name, part in value.items() if name != "cause"}
        return {name: wordless(part) for name, part in value.items()}
    return value


def wordless_case(made: Case) -> Case:
    """The same case, whose script does not look at the messages of errors."""
    outcome_of = made.outcome_of
    return dataclasses.replace(
        made, outcome_of=lambda node, attempt, iteration, output: outcome_of(node, attempt, iteration, wordless(output))
    )


class JudgedPlay(Play):
    """Plays one generated case with random order, duplicates and late signals, and keeps what was executed."""

    def __init__(self, redis: Redis, case: Case, rng: random.Random, unrest: Unrest | None = None) -> None:
        super().__init__(redis, case.workflow, self._answer)
        self.case, self.rng, self.unrest = case, rng, unrest or Unrest()
        self.script = wordless_case(case).outcome_of
        self.timers = Timers(self.store)
        self.books = Bookkeeping(self)
        self.seen: dict[str, Execution] = {}  # by token
        self.wrong: list[str] = []  # found on the way
        self.paths = {RUN: ""}  # scope's token prefix -> path as in Execution
        self.in_vain = 0  # retries on end that mended nothing
        self.mended: set[str] = set()  # tokens whose failure ended the run
        self.late: list[tuple[Task, StartedTask, Any]] = []
        self.waiting: list[bytes] = []
        self.paused = self.cancelled = False

    # -- what tasks and people answer --------------------------------------------------------------
    async def claim(self, task: Task, runner: str = "runner-1", *, reclaimed: bool = False) -> StartedTask:
        if task.run_id != RUN:
            return (await self.store.start_task([Claim(task, task.digest, (), None, reclaimed)], runner))[0]
        return await super().claim(task, runner, reclaimed=reclaimed)

    def _answer(self, task: Task, started: StartedTask) -> Any:
        node, token = self.ir.nodes[task.node_id], started.token
        assert token
        variables = make_variables(
            node_type=node.type, input=decode_value(started.input),
            arrived={k: decode_value(v) for k, v in started.arrived.items()},
            ctx={k: decode_value(v) for k, v in started.outputs.items()},
            iteration=token.iteration, run={},
            item=decode_value(started.item) if started.item else None, index=item_index(task.scope),
        )  # fmt: skip
        try:
            rendered = {name: template.render(variables) for name, template in node.templates.items()}
        except TemplateError as error:
            self._seen(task.token_id, token, variables["output"], Failed("template"))
            return Failure("template", str(error), retryable=False)
        outcome = self._outcome(task.token_id, token, variables["output"])
        if isinstance(outcome, Completed):
            self._seen(task.token_id, token, variables["output"], outcome, rendered.get("args"))
            return outcome.value
        if not (outcome.retryable and self._is_tried_again(token)):
            self._seen(task.token_id, token, variables["output"], outcome, rendered.get("args"))
        return Failure(outcome.error_class, outcome.message or "no message", outcome.retryable)

    def _is_tried_again(self, token: Token) -> bool:
        return token.failures + 1 < self.ir.nodes[token.node].retry.max_attempts

    def _outcome(self, token_id: str, token: Token, output: Any) -> Completed | Failed:
        if token_id in self.mended:
            return Completed(self.case.outcome_of.value(token.node, token.iteration, wordless(output)))
        return self.script(token.node, token.failures + 1, token.iteration, output)

    def _seen(self, token_id: str, token: Token, output: Any, outcome: Completed | Failed, args: Any = None) -> None:
        if token_id in self.seen and not self.unrest.retries:
            self.wrong.append(f"{token_id} ({token.node}) was executed twice")
        failed = isinstance(outcome, Failed)
        self.seen[token_id] = execution(
            token.node, token.iteration, wordless(output), None if failed else wordless(outcome.value),
            args=wordless(args), error_class=outcome.error_class if failed else None, attempts=token.failures + 1,
            path=self.paths[token_id.rpartition(".")[0]],
        )  # fmt: skip

    async def _path(self, run_id: str, token_id: str) -> str:
        """Where a token lives, as the reference names it: by the maps around, not by their tokens."""
        scope = token_id.rpartition(".")[0]
        if scope not in self.paths:
            map_id, _, index = scope.rpartition("-")
            around, map = await self._path(run_id, map_id), await self.token(run_id, map_id)
            assert map, f"{token_id} lives in an item of {map_id}, which is gone"
            self.paths[scope] = f"{around}{'.' if around else ''}{map.node}:{map.iteration}-{index}"
        return self.paths[scope]

    async def _is_there(self, token_id: str) -> bool:
        """The tokens of the maps around it are: else it is about to be swept away."""
        scope = token_id.rpartition(".")[0]
        map_id = scope.rpartition("-")[0]
        return scope == RUN or (await self.token(RUN, map_id) is not None and await self._is_there(map_id))

    async def _goes_on(self, token_id: str) -> bool:
        """Likewise, and none of the maps has failed."""
        scope = token_id.rpartition(".")[0]
        map_id = scope.rpartition("-")[0]
        if scope == RUN:
            return True
        map = await self.token(RUN, map_id)
        return map is not None and map.state == "mapping" and await self._goes_on(map_id)

    async def _in_decline(self) -> bool:
        """Something has failed or ended, and what lies in it is about to be held or swept away."""
        return bool(self.waiting or await self.redis.exists(self.keys.signals) or await self._timers("sweep", "cancel"))

    async def _arrived(self, token_id: str, token: Token) -> Any:
        """What arrived at a token that waits to be answered, by the events."""
        arrived = (await self.books.folded()).arrivals.get(token_id, {})
        if arrived:
            return arrived_output(self.ir.nodes[token.node].type, None, arrived)
        if not token.scope:
            return self.case.input
        return orjson.loads(await self.redis.hget(self.keys.scope(RUN, token.scope), "item"))

    # -- steps -------------------------------------------------------------------------------------
    async def play(self, limit: int = 4_000) -> None:
        """Any order of executions; signals are held back, doubled and shuffled at random."""
        await self.start(input=self.case.input)
        await self.go_on(limit)

    async def go_on(self, limit: int = 4_000) -> None:
        """Whatever can happen, until nothing is left."""
        for step in range(limit):
            await self._meanwhile(step)
            if not await self._step():
                if self.paused:
                    await self._pause_or_resume()
                elif not await self._retry():
                    return
            if self.unrest.check_every and step % self.unrest.check_every == 0:
                self.wrong += await self.books.differences()
            if self.wrong:
                return
        raise AssertionError(f"no end after {limit} steps")

    async def _meanwhile(self, step: int) -> None:
        """What others do to the run."""
        if step == self.unrest.cancel_at:
            self.cancelled = (await self.store.end_run(RUN, "CANCELLED", {"by": "judge"}))[0] == "ended"
        if self.unrest.pauses and self.rng.random() < self.unrest.pauses:
            await self._pause_or_resume()
        if self.unrest.losses and self.rng.random() < self.unrest.losses:
            await self._lose()

    async def _lose(self) -> None:
        """Redis is emptied; its last events were not recorded, perhaps. What they told of is done again."""
        loss = await Loss.of(self, lost=self.rng.choice([0, 0, 1, 3, 10]))
        if loss.is_being_held:
            return  # what a failure is still to hold is held when it is rebuilt, and no event tells so
        await loss.happen()
        self.books.read, self.books.state = "-", RunState()
        self.paused = loss.states[RUN].status == "PAUSED"
        self.seen = {token: one for token, one in self.seen.items() if loss.is_recorded(token)}

    async def _step(self) -> bool:
        """One thing of all that can happen now; whether there was one."""
        choice = self.rng.choice
        self.waiting += await self.signals()
        tasks, timers, askings = await self.tasks(), await self._timers(), await self._askings()
        ways: list[Any] = [self._route_some] * 3 if self.waiting else []
        ways += [partial(self._execute, choice(tasks))] * 4 if tasks else []
        ways += [partial(self._answer_one, choice(askings))] * 2 if askings else []
        ways += [self._finish_late] if self.late else []
        if self.paused and not ways:
            return False  # what is due is put off
        ways += [partial(self._fire, choice(timers))] * 2 if timers else []
        if not ways and self.unrest.retries:  # what was under way when the run failed is looked at again
            ways = [partial(self._fire, member) for member in await self._timers("signal")]
        if ways:
            await choice(ways)()
        return bool(ways)

    async def _execute(self, task: Task) -> None:
        started = await self.claim(task)
        if started.state != "started":
            if started.state != "parked" and not (started.state == "gone" and await self._in_decline()):
                self.wrong.append(f"a queued task of {task.node_id} was not started: {started.state}")
            return
        if (status := await self.status(task.run_id)) != "RUNNING":
            self.wrong.append(f"{task.node_id} was started in a run that is {status}")
        self.executed.append((task, started))
        if task.run_id == RUN:
            await self._path(RUN, task.token_id)
        given = await self._child_answer(task, started) if task.run_id != RUN else self._answer(task, started)
        if self.rng.random() < self.unrest.late:
            self.late.append((task, started, given))
        else:
            await self.finish(task, started, given)

    async def _finish_late(self) -> None:
        await self.finish(*self.late.pop(self.rng.randrange(len(self.late))))

    async def _child_answer(self, task: Task, started: StartedTask) -> Any:
        """A child run is one task, whose outcome is that of the node that called."""
        token_id = f"{RUN}.{task.run_id.split(':')[1]}"
        token, output = await self.token(RUN, token_id), decode_value(started.input)
        if token is None or token.child not in (None, task.run_id) or not await self._is_there(token_id):
            return None  # what called it is over, and the child will be
        await self._path(RUN, token_id)
        outcome = self._outcome(token_id, token, output)
        self._seen(token_id, token, output, outcome)
        if isinstance(outcome, Completed):
            return outcome.value
        if outcome.error_class in ENDED_AS:
            await self.store.end_run(task.run_id, ENDED_AS[outcome.error_class], {"by": "judge"})
        return Failure("permanent", "no", retryable=False)

    async def _route_some(self) -> None:
        waiting = self.waiting
        self.rng.shuffle(waiting)
        count = self.rng.randint(1, len(waiting))
        now, self.waiting = waiting[:count], waiting[count:]
        if self.rng.random() < 0.3:
            now.append(self.rng.choice(now))
        await self.route(now)
        if self.rng.random() < 0.2:
            await self.route([self.rng.choice(now)])

    async def _timers(self, *kinds: str) -> list[str]:
        members = [member.decode() for member in await self.redis.zrange(self.keys.timers, 0, -1)]
        return [member for member in members if member.split(" ")[0] in (kinds or EAGER_TIMERS)]

    async def _fire(self, member: str) -> None:
        """Handle this timer and no other, at the time that it is due."""
        due = await self.redis.zscore(self.keys.timers, member)
        if due is not None:
            await self.skip(max(0, int(due) - await self.store.now()))
            await self.redis.zadd(self.keys.timers, {member: 1}, xx=True)
            await self.timers.handle_due(2)

    async def _askings(self) -> list[str]:
        """The tokens that wait for a person or an outside event."""
        found = await self.redis.hkeys(self.keys.approvals) + await self.redis.hkeys(self.keys.listeners("signed"))
        return sorted(token.decode() for token in found)

    async def _answer_one(self, token_id: str) -> None:
        token = await self.token(RUN, token_id)
        if token is None or not await self._goes_on(token_id):
            return None if await self._in_decline() else self.wrong.append(f"{token_id} is over, and listed as waiting")
        await self._path(RUN, token_id)
        output = await self._arrived(token_id, token)
        outcome = self._outcome(token_id, token, output)
        deadline = f"deadline {RUN} {token_id} {token.attempt}"
        is_late = isinstance(outcome, Failed) and outcome.error_class == "deadline"
        if is_late and await self.redis.zscore(self.keys.timers, deadline) is not None:
            await self._fire(deadline)
        else:
            await self._answer_task(token_id, token, outcome, output)
        if await self.redis.hexists(self.keys.outcomes(RUN, scope_of(RUN, token_id)), token_id):
            self._seen(token_id, token, output, outcome)
        return None

    async def _answer_task(self, token_id: str, token: Token, outcome: Completed | Failed, output: Any) -> list[str]:
        head = (token_id, RUN, token.node, None)
        if isinstance(outcome, Failed):
            metadata = {"error_type": outcome.error_class, "error_message": outcome.message, "retryable": False}
            signal = CompletionSignal(*head, "failed", metadata=metadata)
        elif token.state == "listening" and outcome.value == wordless(output):
            signal = CompletionSignal(*head, "completed", metadata={"passes_on": True})
        else:
            signal = CompletionSignal(*head, "completed", result=outcome.value)
        return await self.store.answer_task(RUN, token_id, signal, {"by": "judge"}, [token.state])

    # -- control -----------------------------------------------------------------------------------
    async def _pause_or_resume(self) -> None:
        control = self.store.resume_run if self.paused else self.store.pause_run
        answer = await control(RUN, {"by": "judge"})
        self.paused = answer[0] == "paused"

    async def _retry(self) -> bool:
        """Retry a run that failed, where what failed can succeed; whether it goes on."""
        if not self.unrest.retries or await self.status() != "FAILED":
            return False
        error = (await self.books.folded()).error
        if (error["node"], error["class"]) in self.judged.failures:
            return False
        dead = {token_id for token_id, token in (await self.tokens()).items() if token.state == "dead"}
        # What failed beside it, and was held, fails once more: it takes a retry of its own.
        self.in_vain = 0 if dead - self.mended else self.in_vain + 1
        if self.in_vain > 3:
            self.wrong.append(f"a retry changes nothing: {error}, dead {sorted(dead)}")
        self.mended |= dead
        return (await self.store.retry_run(RUN, {"by": "judge"}))[0] == "retried"

    # -- judgement ---------------------------------------------------------------------------------
    @cached_property
    def judged(self) -> Result:
        """What the reference makes of the case, without the messages of errors."""
        value = self.case.outcome_of.value if self.unrest.retries else None
        mend = (lambda node, iteration, output: value(node, iteration, wordless(output))) if value else None
        judged = judge(self.case.workflow, self.case.input, self.script, mend)
        return dataclasses.replace(
            judged,
            trace=[self._plain(one) for one in judged.trace],
            extra=[self._plain(one) for one in judged.extra],
            outputs=wordless(judged.outputs),
            output=wordless(judged.output),
        )

    def _plain(self, one: Execution) -> Execution:
        """Without messages; of a run that is retried without attempts, which go on where they were."""
        texts = {name: as_json(wordless(json.loads(getattr(one, name)))) for name in ("output", "result")}
        args = None if one.args is None else as_json(wordless(json.loads(one.args)))
        return one._replace(**texts, args=args, attempts=1 if self.unrest.retries else one.attempts)

    async def differences(self) -> list[str]:
        """What differs from the reference, in words, and what breaks an invariant."""
        judged, state = self.judged, await self.books.folded()
        types = {node["id"]: node["type"] for node in every_node(self.case.workflow)}
        seen = [self._plain(one) for one in self.seen.values()]
        if self.unrest.retries and state.status == "FAILED":  # what would have been retried, had the run not ended
            seen = [one for one in seen if not FAILED.fullmatch(one.result)]
        shown = dataclasses.replace(
            judged,
            trace=[one for one in judged.trace if self._is_shown(one, types)],
            extra=[one for one in judged.extra if self._is_shown(one, types)],
        )
        completed = state.status == "COMPLETED"
        product = ProductResult(
            status=await self.status(),
            executions=seen,
            outputs=wordless(await self.outputs()) if completed else None,
            output=wordless(run_output(state)) if completed else None,
            error_node=(state.error or {}).get("node"),
            error_class=(state.error or {}).get("class"),
            loop_counts=await self.loop_counts() if completed else None,
        )
        found = self.wrong + (["the run is not CANCELLED"] if self.cancelled and state.status != "CANCELLED" else [])
        found += compare(shown, product)
        if completed and not judged.ambiguous:
            found += await self._passed(judged, types)
        return found + await self.books.differences(over=True)

    def _config(self, one: Execution) -> dict[str, Any]:
        return dict(self.ir.nodes[one.node].config)

    def _is_shown(self, one: Execution, types: dict[str, str]) -> bool:
        """Whether a runner or a person had a hand in it; the rest is seen in what it passes on."""
        type = types[one.node]
        return type in TASKS or (type in ANSWERED and not (type == "wait" and "event" not in self._config(one)))

    async def _passed(self, judged: Result, types: dict[str, str]) -> list[str]:
        """The nodes that no runner executes, by the events' outputs. One that a step passes several times lies there
        once, and so only whether it was passed counts."""
        shown = (*TASKS, *ANSWERED)
        certain = {e.node for e in judged.trace if types[e.node] not in shown and not FAILED.fullmatch(e.result)}
        possible = certain | {one.node for one in judged.extra if types[one.node] not in shown}
        seen: Counter[str] = Counter()
        for event in await self.events():
            seen.update(node for node in event.data.get("outputs", {}) if types[node] not in shown)
        return [] if certain <= set(seen) <= possible else [f"passing nodes: {set(seen)}, and not {certain}"]

    async def loop_counts(self) -> dict[str, int]:
        counts = {}
        for loop in self.ir.loops:
            value = await self.redis.hget(self.keys.loop(RUN, loop), "current_iteration")
            counts[loop] = int(value or 0)
        return counts
