"""The player: plays the cases of one workflow."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from agent_runner.handlers import Handlers
from agent_runner.nodes.function import FunctionNodes
from pavane.rehearsal.calls import all_nodes, with_stand_ins
from pavane.rehearsal.case import Case
from pavane.rehearsal.fault import CaseFault
from pavane.rehearsal.matching import Difference
from pavane.rehearsal.outputs import OutputRules
from pavane.rehearsal.play import Play
from pavane.rehearsal.record import Record
from pavane.rehearsal.reply import Script, read_script
from pavane.rehearsal.stage import Stage, same_chance
from pavane.rehearsal.verdict import judge
from schemas.compiler.compiler import compile_workflow
from schemas.ir import IR


@dataclass(frozen=True)
class Played:
    """One case after its play. It passed if `differences` is empty and there is no `fault`."""

    case: Case
    record: Record
    differences: list[Difference]
    fault: CaseFault | None
    took_ms: int  # by the clock of the play

    @property
    def passed(self) -> bool:
        return not self.differences and self.fault is None


class Player:
    """Plays cases of one workflow, one after the other.

    Function nodes that a case does not script are executed by `handlers`, if there are any.
    """

    def __init__(self, workflow: Mapping[str, Any], handlers: Handlers | None = None) -> None:
        """Raises InvalidDocument."""
        self.workflow = workflow
        self.ir = compile_workflow(workflow).ir
        self.nodes = all_nodes(self.ir)
        self.stage = Stage()
        self.functions = FunctionNodes(handlers) if handlers is not None else None
        self.rules = OutputRules()
        self._staged: dict[frozenset[str], IR] = {frozenset(): self.ir}

    async def play(self, case: Case) -> Played:
        at_ms = int(case.at.timestamp() * 1_000)
        record, fault, differences = Record(), None, list[Difference]()
        await self.stage.clear(at_ms)
        try:
            with same_chance():
                scripts = self._scripts(case)
                later = {node: given for node, given in case.outputs.items() if node not in self.nodes}
                ir, nodes = self._ir(scripts), dict(self.nodes)
                play = Play(self.stage, ir, nodes, scripts, later, self.rules, self.functions, record)
                await play.run(case)
            differences = judge(case, record, nodes, self.stage.now_ms - at_ms)
        except CaseFault as error:
            fault = error
        return Played(case, record, differences, fault, self.stage.now_ms - at_ms)

    def _scripts(self, case: Case) -> dict[str, Script]:
        """What the case says of each node. Raises CaseFault."""
        schema = self.ir.workflow.get("input_schema")
        if schema is not None:
            self.rules.check_schema(schema, case.input, "input", "the workflow's input_schema")
        known = [node for node in case.outputs if node in self.nodes]
        scripts = {node: read_script(self.nodes[node], case.outputs[node]) for node in known}
        if not any(reply.patch for replies in scripts.values() for reply in replies):
            for node in case.outputs:
                if node not in self.nodes:
                    raise CaseFault(f"outputs.{node}", "the workflow has no such node")
        return {node: Script(replies) for node, replies in scripts.items()}

    def _ir(self, scripts: Mapping[str, Script]) -> IR:
        """The workflow as it is played: scripted calls have their stand-ins."""
        scripted = frozenset(node_id for node_id in scripts if self.nodes[node_id].type == "workflow")
        if scripted not in self._staged:
            self._staged[scripted] = compile_workflow(with_stand_ins(self.workflow, scripted)).ir
        return self._staged[scripted]
