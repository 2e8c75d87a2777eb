"""Agents' patches: what an agent may change in the workflow of its run, and how much. Pure; docs/patching.md says why.

Whoever can write into a document that an agent reads may be the author of its patch. So an agent adds nothing that it
could not do itself, nodes of other types stay as and where they are, and what it adds is counted in the run's IR.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any

from schemas.compiler.compiler import compile_workflow
from schemas.errors import InvalidDocument, Problem, pointer
from schemas.guards import bypassed, cut_off, multiplied
from schemas.ir import IR, Node, Patched
from schemas.limits import LIMITS, Limits
from schemas.model_calls import UNKNOWN, added_calls
from schemas.revision import Difference, Revision, revise

TOOL = "patch_workflow"


@dataclass(frozen=True, slots=True)
class Bounds:
    """The entry `patch_workflow` of an agent's tools. Nodes and calls are counted over the run, whoever adds them."""

    max_operations: int = 20  # of one call
    max_nodes: int = 5
    max_model_calls: int = 20
    max_depth: int = 1  # agents that are added by agents that ...
    allow: Sequence[str] = ("agent", "transform", "branch", "join")  # types of nodes

    @classmethod
    def of(cls, tools: Sequence[Mapping[str, Any]]) -> Bounds | None:
        """Those of an agent with these tools, None if it may not patch."""
        return next((cls(**tool[TOOL]) for tool in tools if TOOL in tool), None)

    def include(self, other: Bounds) -> bool:
        """Whether nothing of `other` goes further."""
        numbers = [field.name for field in fields(self) if field.name != "allow"]
        return set(other.allow) <= set(self.allow) and all(getattr(other, n) <= getattr(self, n) for n in numbers)


def revise_by_agent(ir: IR, operations: Any, author: str, limits: Limits = LIMITS) -> Revision:
    """The IR after a patch by the agent that is the node `author`; its `patched` counts what agents have added.

    Raises InvalidDocument as `revise` does, and for what this agent may not do.
    """
    tools = ir.nodes[author].config.get("tools", ()) if author in ir.nodes else ()
    bounds = Bounds.of(tools)
    if bounds is None:  # it had it when it started
        message = f"`{author}` may not patch any more: the run was patched meanwhile."
        raise InvalidDocument([Problem("/operations", "not-allowed", message)])
    if isinstance(operations, list) and len(operations) > bounds.max_operations:
        message = f"At most {bounds.max_operations} operations a call (max_operations), not {len(operations)}."
        raise InvalidDocument([Problem("/operations", "max-operations", message)])
    revision = revise(ir, operations, limits)
    known = ir.patched or Patched()
    depth = known.depths.get(author, 0) + 1
    change = _Change(ir, revision.ir, revision.difference, bounds, tools, depth)
    problems = [*change.problems()] or [*change.moved_guards()]
    patched = Patched(
        {**known.depths, **dict.fromkeys(revision.difference.added, depth)},
        known.calls + added_calls(ir, revision.ir),
    )
    problems += _over(bounds, revision.difference, patched, depth)
    if problems:
        raise InvalidDocument(problems)
    return revise(ir, operations, limits, patched)


def _over(bounds: Bounds, difference: Difference, patched: Patched, depth: int) -> Iterator[Problem]:
    """Bounds that are passed."""
    if len(patched.depths) > bounds.max_nodes:
        message = f"Agents may add {bounds.max_nodes} nodes to this run (max_nodes); it would be {len(patched.depths)}."
        yield Problem("/operations", "max-nodes", message)
    if patched.calls >= UNKNOWN:
        message = "How many model calls a registered workflow makes can not be told: use `document`, or leave it out."
        yield Problem("/operations", "max-model-calls", message)
    elif patched.calls > bounds.max_model_calls:
        message = (
            f"Agents may add {bounds.max_model_calls} model calls to this run (max_model_calls); with attempts, rounds "
            f"and passes of loops it could be {patched.calls}."
        )
        yield Problem("/operations", "max-model-calls", message)
    if difference.added and depth > bounds.max_depth:
        message = f"The agent was added by agents, {depth - 1} deep, and may not add; max_depth is {bounds.max_depth}."
        yield Problem("/operations", "max-depth", message)


@dataclass(frozen=True, slots=True)
class _Change:
    """What a patch changes, as far as its author may. `depth`: that of the nodes that it adds."""

    old: IR
    new: IR
    difference: Difference
    bounds: Bounds
    tools: Sequence[Mapping[str, Any]]
    depth: int

    def problems(self) -> Iterator[Problem]:
        """What may not be added, changed or removed."""
        before, after = _written(self.old.workflow), _written(self.new.workflow)
        pools = frozenset(node.analysis.pool for node in self.old.nodes.values() if node.analysis.pool)
        for name in dict.fromkeys([*self.old.workflow, *self.new.workflow]):
            if name not in ("nodes", "edges") and self.old.workflow.get(name) != self.new.workflow.get(name):
                yield Problem(pointer("workflow", name), "not-allowed", "Only nodes and edges may be changed.")
        for node_id, (_, source) in before.items():
            if node_id in after and source == after[node_id][1] and node_id not in self.difference.gone:
                continue
            node = self.old.nodes[node_id]
            where = after[node_id][0] if node_id in after else "/operations"
            if not self._is_free(node):
                yield Problem(where, "not-allowed", f"`{node_id}` may not be changed or removed: {self._why(node)}.")
            elif node_id in after:
                yield from self._faults(where, self.new.nodes[node_id], pools)
                if self.new.nodes[node_id].config.get("tools") != node.config.get("tools"):
                    yield Problem(f"{where}/config/tools", "not-allowed", "The tools of an agent may not be changed.")
        for node_id in self.difference.added:
            where, node = after[node_id][0], self.new.nodes[node_id]
            yield from self._faults(where, node, pools)
            yield from self._tool_faults(f"{where}/config/tools", node)
        for node_id in self._entries():
            message = f"Nothing leads to `{node_id}`, so it would never be executed."
            yield Problem(after[node_id][0], "never-executed", message)

    def moved_guards(self) -> Iterator[Problem]:
        """Nodes that the agent may not change, and that would be come to in another way, or not any more."""
        kept = [node.id for node in self.old.nodes.values() if not self._is_free(node)]
        for node_id in bypassed(self.old, self.new, kept):
            message = f"A new way to `{node_id}` would lead past nodes or conditions that have to stand before it."
            yield Problem("/operations", "way-round", message)
        for node_id in cut_off(self.old, self.new, kept):
            listed = f"`{node_id}`" if node_id in kept else f"`{node_id}`, and so to nodes that may not be left out,"
            message = f"A way to {listed} would be gone; what is put in between must lead there without a condition."
            yield Problem("/operations", "way-gone", message)
        for node_id in multiplied(self.old, self.new, kept):
            message = f"More ways into `{node_id}` (join: any) would execute what comes after it more often."
            yield Problem("/operations", "way-added", message)

    def _is_free(self, node: Node) -> bool:
        """Whether the author may change the node: it could do itself whatever such a node does."""
        return node.type in self.bounds.allow and all(tool in self.tools for tool in node.config.get("tools", ()))

    def _why(self, node: Node) -> str:
        if node.type not in self.bounds.allow:
            return f"its type is {node.type}, and allowed are {', '.join(self.bounds.allow) or 'none'}"
        return "it has tools that the agent has not"

    def _faults(self, where: str, node: Node, pools: frozenset[str]) -> Iterator[Problem]:
        """What a node that is added or changed may not be."""
        if node.type not in self.bounds.allow:
            listed = ", ".join(self.bounds.allow) or "none"
            message = f"Nodes of the type {node.type} may not be added or changed; allowed are {listed}."
            yield Problem(f"{where}/type", "not-allowed", message)
        elif node.type == "agent" and node.analysis.pool not in pools:
            listed = ", ".join(sorted(pools))
            message = f"Only models that the workflow uses, with the options that they are loaded with: {listed}."
            yield Problem(f"{where}/config/model", "not-allowed", message)
        elif node.type == "workflow" and "document" in node.config:
            inner = compile_workflow(node.config["document"]).ir
            for place, source in _written(inner.workflow).values():
                inside = f"{where}/config/document{place.removeprefix('/workflow')}"
                yield from self._faults(inside, inner.nodes[source["id"]], pools)
                yield from self._tool_faults(f"{inside}/config/tools", inner.nodes[source["id"]], in_child=True)

    def _tool_faults(self, where: str, node: Node, *, in_child: bool = False) -> Iterator[Problem]:
        """An agent hands on what it has, and of its own patching only what goes no further."""
        for position, tool in enumerate(node.config.get("tools", ())):
            if TOOL not in tool:
                if tool not in self.tools:
                    yield Problem(f"{where}/{position}", "not-allowed", "Only tools that the agent itself has.")
                continue
            theirs = Bounds.of([tool])
            if in_child or self.depth >= self.bounds.max_depth:
                message = f"An agent that is added here may not patch itself; max_depth is {self.bounds.max_depth}."
                yield Problem(f"{where}/{position}", "max-depth", message)
            elif theirs is None or not self.bounds.include(theirs):
                message = f"The bounds of `{TOOL}` may not go beyond those of the agent that adds it."
                yield Problem(f"{where}/{position}/{TOOL}", "not-allowed", message)

    def _entries(self) -> list[str]:
        """Nodes that nothing leads to any more, or that were added so."""
        nodes, added = self.new.nodes.values(), self.difference.added
        were = {*self.old.entries, *(n for node in self.old.nodes.values() for n in node.analysis.entries)}
        were |= {n for node in nodes if node.id in added for n in node.analysis.entries}  # of a map that is added
        entries = [*self.new.entries, *(n for node in nodes for n in node.analysis.entries)]
        return [node_id for node_id in entries if node_id not in were]


def _written(graph: Mapping[str, Any], where: str = "/workflow") -> dict[str, tuple[str, Mapping[str, Any]]]:
    """Each node's pointer and what the document says of it; of a map without its sub-graph, whose nodes follow."""
    found: dict[str, tuple[str, Mapping[str, Any]]] = {}
    for node in graph["nodes"]:
        place = f"{where}/nodes/{node['id']}"
        found[node["id"]] = place, node
        if node["type"] == "map":
            own = {name: value for name, value in node["config"].items() if name not in ("nodes", "edges")}
            found[node["id"]] = place, {**node, "config": own}
            found |= _written(node["config"], place + "/config")
    return found
