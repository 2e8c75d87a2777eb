"""A play: one case, with us as its runner, its people and the world outside, answering from the script."""

from __future__ import annotations

import heapq
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from itertools import count
from typing import Any

from agent_runner import outcome
from agent_runner.failure import TaskFailed
from agent_runner.nodes.function import FunctionNodes
from agent_runner.work import Work
from lua.patching import Patch, Patching, PatchRefused
from pavane.rehearsal.calls import STAND_IN, all_nodes
from pavane.rehearsal.case import Case
from pavane.rehearsal.fault import CaseFault
from pavane.rehearsal.outputs import OutputRules, check_status
from pavane.rehearsal.record import Record
from pavane.rehearsal.reply import Moment, Reply, Script, read_script
from pavane.rehearsal.stage import Stage
from schemas.agent_patch import revise_by_agent
from schemas.errors import InvalidDocument
from schemas.events import Event
from schemas.expressions.error import TemplateError
from schemas.ir import IR, Node
from schemas.keys import scope_of
from schemas.messages import CompletionSignal, Task
from schemas.submission import make_start
from schemas.values import encode_value
from schemas.variables import item_index

RUN_ID = "rehearsal"
IDLE_JUMPS = 1_000
"""Times that the clock may go on with nothing happening before a run counts as stuck."""
CHILD_ENDS = {"child_cancelled": "CANCELLED", "timeout": "TIMED_OUT"}

Answer = Callable[[], Awaitable[Any]]


@dataclass
class Play:
    """One case on the stage. `nodes`: all that may be executed, those of called workflows too; patches add to them,
    and `later` are the outputs that the case has for what they add."""

    stage: Stage
    ir: IR
    nodes: dict[str, Node]
    scripts: dict[str, Script]
    later: dict[str, Any]
    rules: OutputRules
    functions: FunctionNodes | None
    record: Record
    coming: list[tuple[int, int, Answer]] = field(default_factory=list)  # due (ms), number, answer
    numbers: count[int] = field(default_factory=count)

    async def run(self, case: Case) -> None:
        """Until the run has ended. Raises CaseFault."""
        start = make_start(RUN_ID, self.ir, case.input, request=RUN_ID, key=case.key, timeout_ms=case.timeout_ms)
        await self.stage.store.start_run(**start.arguments())
        idle = 0
        while True:
            happened = await self._settle()
            if self.record.ended:
                break
            idle = 0 if happened else idle + 1
            if idle > IDLE_JUMPS or not (await self._start_tasks() or await self._go_on()):
                raise CaseFault("the run", f"it can not go on: {self.record.standing()}")
        for node in self.later:
            raise CaseFault(f"outputs.{node}", "the workflow has no such node, nor did a patch add it")

    # -- one step ----------------------------------------------------------------------------------
    async def _settle(self) -> bool:
        """Route all signals and take note of what happened; whether anything did."""
        await self.stage.route()
        events = await self.stage.events()
        for event, stored in events:
            self.record.take(event, stored)
        for event, _ in events:
            if event.type == "node_opened":
                self._open(event)
        if asked := self.stage.unknown_workflows:
            node = next(node.id for node in self.nodes.values() if node.config.get("workflow_id") == asked[0])
            raise CaseFault(f"outputs.{node}", f"the workflow {asked[0]!r} is not at hand: script what it gives")
        return bool(events)

    async def _start_tasks(self) -> bool:
        fetched = await self.stage.fetch()
        claimed = await self.stage.claims.start([one for one in fetched if not self._left_alone(one.task)])
        for finish in claimed.finishes:
            self._answer(0, partial(self.stage.store.finish_task, [finish]))
        for work in claimed.work:
            await self._execute(work)
        return bool(fetched)

    async def _go_on(self) -> bool:
        """Give the answer or handle the timers that come next, when the clock has got there; False if none comes."""
        timer = await self.stage.next_timer()
        if self.coming and (timer is None or self.coming[0][0] <= timer):
            due, _, answer = heapq.heappop(self.coming)
            self.stage.now_ms = max(self.stage.now_ms, due)
            await answer()
            return True
        if timer is None:
            return False
        self.stage.now_ms = max(self.stage.now_ms, timer)
        await self.stage.fire_timers()
        return True

    def _answer(self, after_ms: int, answer: Answer) -> None:
        heapq.heappush(self.coming, (self.stage.now_ms + after_ms, next(self.numbers), answer))

    # -- tasks -------------------------------------------------------------------------------------
    async def _execute(self, work: Work) -> None:
        """What a runner would do. Raises CaseFault."""
        if work.node.id == STAND_IN:
            self._execute_call(work)
            return
        after_ms = 0
        try:
            variables = await self.stage.claims.variables(work)
            rendered = {name: template.render(variables) for name, template in work.node.templates.items()}
            self.record.rendered[work.node.id] = rendered
            reply = self._reply(work.node, work.task.run_id, work.task.token_id, variables)
            if reply is None:
                if work.node.type != "function" or self.functions is None:
                    raise self._unscripted(work.node, rendered)
                output = (await self.functions.execute(work, variables)).output
            else:
                limit_ms = round(work.timeout_s * 1_000)
                after_ms = min(reply.after_ms, limit_ms)
                if reply.after_ms > limit_ms:
                    raise TaskFailed("timeout", f"no answer within {work.timeout_s:g} s")
                if reply.patch is not None:
                    await self._patch(work, reply, reply.patch)
                output = self._output(work, reply, rendered)
            finish = outcome.completed(work.task, work.attempt, output, {})
        except TemplateError as error:
            finish = outcome.failed(work.task, work.attempt, TaskFailed("template", str(error)))
        except TaskFailed as error:
            finish = outcome.failed(work.task, work.attempt, error)
        self._answer(after_ms, partial(self.stage.store.finish_task, [finish]))

    async def _patch(self, work: Work, reply: Reply, operations: Sequence[Any]) -> None:
        """The run is patched, as the agent's tool would do it. Raises CaseFault."""
        run_id, patching = work.task.run_id, Patching(self.stage.store)
        event = {"by": work.task.token_id, "node": work.node.id}
        refused: list[tuple[str, str]] = []
        try:
            await patching.patch(run_id, Patch(lambda ir: revise_by_agent(ir, operations, work.node.id), event))
        except InvalidDocument as error:
            refused = [(problem.code, f"{problem.path}: {problem.message}") for problem in error.problems]
        except PatchRefused as error:
            refused = [(error.reason, str(error))]
        if reply.refused is not None and reply.refused not in [code for code, _ in refused]:
            raise CaseFault(
                f"{reply.place}.refused", f"the patch is not refused as {reply.refused}: {refused or 'it holds'}"
            )
        if refused and reply.refused is None:
            raise CaseFault(f"{reply.place}.patch", "; ".join(f"{text} ({code})" for code, text in refused))
        self.nodes |= all_nodes((await patching.base(run_id)).ir)
        for node in self.later.keys() & self.nodes.keys():
            self.scripts[node] = Script(read_script(self.nodes[node], self.later.pop(node)))

    def _output(self, work: Work, reply: Reply, rendered: Mapping[str, Any]) -> Any:
        """Raises TaskFailed where that is what the case wants, and CaseFault."""
        if reply.deadline:
            raise CaseFault(reply.place, "whether a task is taken up can not depend on `when`")
        if reply.failure is not None:
            raise TaskFailed(reply.failure.klass, reply.failure.message, retryable=reply.failure.retryable)
        output = self.rules.checked(work.node, reply)
        if work.node.type == "http":
            check_status(work.node, rendered, work.task.token_id, output["status"])
        return output

    def _execute_call(self, work: Work) -> None:
        """The one task of a run that stands in for a called workflow."""
        child, task = work.task.run_id, work.task
        parent, token = self.record.callers[child]
        node = self.nodes[self.record.tokens[parent, token]["node"]]
        given = {"input": self.record.inputs[child]}
        self.record.rendered[node.id] = given
        variables = self.record.variables(node, parent, token) | {"output": given["input"]}
        reply = self._reply(node, parent, token, variables)
        if reply is None:
            raise self._unscripted(node, given)
        if reply.deadline:
            if node.timeout_ms is None:
                raise CaseFault(reply.place, "`deadline` waits for the node's timeout_ms, and it has none")
            return
        if reply.failure is None:
            finish = outcome.completed(task, work.attempt, self.rules.checked(node, reply), {})
        elif reply.failure.klass in CHILD_ENDS:
            ending = partial(self.stage.store.end_run, child, CHILD_ENDS[reply.failure.klass], {"by": RUN_ID})
            self._answer(reply.after_ms, ending)
            return
        elif reply.failure.klass == "child_failed":
            finish = outcome.failed(task, work.attempt, TaskFailed("permanent", reply.failure.message))
        else:
            raise CaseFault(reply.place, f"a called run fails as child_failed or {' or '.join(CHILD_ENDS)}")
        self._answer(reply.after_ms, partial(self.stage.store.finish_task, [finish]))

    def _left_alone(self, task: Task) -> bool:
        """Whether nobody takes this task up until its queue_timeout_ms is over."""
        script, node = self.scripts.get(task.node_id), self.nodes.get(task.node_id)
        reply = script.next(self._moment(task.run_id, task.token_id), None) if script else None
        if script is None or reply is None or not reply.deadline:
            return False
        if node is None or node.queue_timeout_ms is None:
            raise CaseFault(reply.place, "`deadline` waits for the node's queue_timeout_ms, and it has none")
        script.take(reply)
        return True

    # -- people and events -------------------------------------------------------------------------
    def _open(self, event: Event) -> None:
        """A node waits: have it answered, if somebody has to. Raises CaseFault."""
        if event.data["waits_for"] not in ("answer", "event"):
            return
        node = self.nodes[event.node_id]
        asked = {name: event.data[name] for name in ("prompt", "assignee", "event", "key") if event.data.get(name)}
        self.record.rendered[node.id] = asked
        variables = self.record.variables(node, event.run_id, event.token_id)
        reply = self._reply(node, event.run_id, event.token_id, variables)
        if reply is None:
            raise self._unscripted(node, asked)
        if reply.deadline:
            if "deadline_ms" not in node.config:
                raise CaseFault(reply.place, "`deadline` waits for the node's deadline_ms, and it has none")
            return
        self._answer(reply.after_ms, self._posted(node, event, reply))

    def _posted(self, node: Node, event: Event, reply: Reply) -> Answer:
        """What a person or an event says, as it is stored."""
        head = (event.token_id, event.run_id, node.id, None)
        artifact = None
        if reply.failure is not None:
            if node.type != "human" or reply.failure.klass != "rejected":
                raise CaseFault(reply.place, "a person's error has the class rejected; an event has none")
            error = {"error_type": "rejected", "error_message": reply.failure.message, "retryable": False}
            signal = CompletionSignal(*head, "failed", metadata=error)
        elif reply.passes_on:
            signal = CompletionSignal(*head, "completed", metadata={"passes_on": True})
        else:
            output = self.rules.checked(node, reply)
            text, artifact = encode_value(output)
            signal = CompletionSignal(*head, "completed", None if artifact else output, text if artifact else None)
        states = ["asked", "listening"]
        return partial(
            self.stage.store.answer_task, event.run_id, event.token_id, signal, {"by": RUN_ID}, states,
            artifact=artifact,
        )  # fmt: skip

    # -- the script --------------------------------------------------------------------------------
    def _reply(self, node: Node, run_id: str, token_id: str, variables: Mapping[str, Any]) -> Reply | None:
        """What the script has for this execution, which uses it up. `when` reads every output that there is."""
        script = self.scripts.get(node.id)
        if script is None:
            return None
        ctx = {
            name: {"output": value} for name, value in self.record.context(run_id, scope_of(run_id, token_id)).items()
        }
        reply = script.next(self._moment(run_id, token_id), {**variables, "ctx": ctx})
        if reply is not None:
            script.take(reply)
        return reply

    def _moment(self, run_id: str, token_id: str) -> Moment:
        token = self.record.tokens.get((run_id, token_id), {})
        return Moment(token.get("iteration", 0), item_index(scope_of(run_id, token_id)), token.get("failures", 0) + 1)

    def _unscripted(self, node: Node, rendered: Mapping[str, Any]) -> CaseFault:
        script = self.scripts.get(node.id)
        if script is None:
            return CaseFault(f"outputs.{node.id}", "the node was executed, and the case has no output for it", rendered)
        message = f"the case has {script.given} outputs for it, and it was executed once more"
        return CaseFault(f"outputs.{node.id}", message, rendered)
