"""What routing.md says about a workflow's graph, from its words, with plain sets and no thought of speed."""

import json
import re
from collections.abc import Iterable
from functools import cached_property, lru_cache
from itertools import combinations
from typing import Any, NamedTuple

TASKS = ("agent", "function", "http", "sql")
OPENED = ("human", "wait", "workflow")
"""Types that wait to be answered."""

FAILING = (*TASKS, *OPENED, "map")
"""Types that may have `on_error`."""

TARGETS = ("default", "break_path", "timeout_path", "deadline_path")
"""The fields of a config that are a group of targets each."""

Edge = tuple[str, str]
Place = tuple[str, bool]  # (node, whether the token there is waiting)


class Group(NamedTuple):
    """Targets taken together. `source`: None for the entries; `conditional`: every edge has a condition."""

    source: str | None
    targets: tuple[str, ...]
    conditional: bool = False


class Graph:
    """The analysis of one workflow document (already known to be well-formed: every target exists), or of the
    sub-graph in a map's config, which is analysed alone."""

    def __init__(self, workflow: dict[str, Any], around: "Graph | None" = None) -> None:
        self.workflow = workflow
        self.nodes: dict[str, dict[str, Any]] = {node["id"]: node for node in workflow["nodes"]}
        self.position = around.position if around else {node: i for i, node in enumerate(ids_in_order(workflow))}
        self.edges_of: dict[str, list[dict[str, Any]]] = {node: [] for node in self.nodes}
        for edge in workflow.get("edges", []):
            self.edges_of[edge["from"]].append(edge)
        self.loops = [node for node in self.nodes if self.type(node) == "loop"]
        self.target = {loop: self.config(loop)["loop_back_to"] for loop in self.loops}
        emissions = [group for node in self.nodes for group in self._groups_of(node) if group.targets]
        self.forward: set[Edge] = {(str(group.source), target) for group in emissions for target in group.targets}
        self.back: set[Edge] = set(self.target.items())
        self.entries = self._entries()
        self.groups = [*emissions, Group(None, tuple(self.entries))]

    def type(self, node: str) -> str:
        return str(self.nodes[node]["type"])

    def config(self, node: str) -> dict[str, Any]:
        return dict(self.nodes[node].get("config", {}))

    def is_any(self, node: str) -> bool:
        return self.nodes[node].get("join") == "any"

    @cached_property
    def overlapping(self) -> bool:
        """Executions of one node may overlap, here or in a map."""
        return any(node.get("join") == "any" for node in every_node(self.workflow))

    @cached_property
    def inside(self) -> dict[str, "Graph"]:
        """map -> its sub-graph"""
        return {node: Graph(self.config(node), self) for node in self.nodes if self.type(node) == "map"}

    @cached_property
    def exits(self) -> list[str]:
        """The nodes that nothing follows: they have no edges, and no targets but those of a failure."""

        def follows(node: str) -> bool:
            config = self.config(node)
            ways = [rule["next"] for rule in config.get("rules", [])] + [config.get(name) for name in TARGETS[:3]]
            return bool(self.edges_of[node]) or any(ways)

        return [node for node in self.nodes if not follows(node)]

    # Edges, groups, entries

    def _groups_of(self, node: str) -> list[Group]:
        config, edges = self.config(node), self.edges_of[node]
        groups = [Group(node, tuple(edge["to"] for edge in edges), all("condition" in edge for edge in edges))]
        groups += [Group(node, tuple(rule["next"])) for rule in config.get("rules", [])]
        groups += [Group(node, tuple(config.get(name, []))) for name in TARGETS]
        groups.append(Group(node, tuple(self.nodes[node].get("on_error", []))))
        return groups

    def _entries(self) -> list[str]:
        entered = {target for _, target in self.forward | self.back}
        entries = [node for node in self.nodes if node not in entered]
        while True:
            seen = set().union(*(reach(entry, self.forward | self.back) for entry in entries))
            forward_entered = {target for _, target in self.forward}
            heads = [n for n in self.nodes if n not in seen and n in self.target.values() and n not in forward_entered]
            if not heads:
                return entries
            entries.append(heads[0])

    def predecessors(self, node: str) -> set[str]:
        return {source for source, target in self.forward | self.back if target == node}

    def reachable(self, without: str | None = None) -> set[str]:
        """The nodes that some entry reaches on a path that does not pass `without`."""
        edges = self.forward | self.back
        return set().union(*(reach(entry, edges, without) for entry in self.entries))

    def always_passes(self, node: str, via: str) -> bool:
        """Every path from an entry to `node` passes `via` (`via` dominates `node`)."""
        return node == via or node not in self.reachable(without=via)

    # Loops

    @cached_property
    def cores(self) -> dict[str, tuple[str, set[str]]]:
        """loop -> (its form: do-while, while or other; its core)"""
        return {loop: self._core(loop, self.target[loop]) for loop in self.loops}

    def _core(self, loop: str, head: str) -> tuple[str, set[str]]:
        edges = self.forward | self.back
        if self.always_passes(loop, via=head):
            return "do-while", {head} | {x for x in self.nodes if loop in reach(x, edges, without=head)}
        if self.always_passes(head, via=loop):
            ends = {p for p, to in self.forward if to == loop and self.always_passes(p, via=loop)}
            inside = {x for x in reach(head, edges, without=loop) if reach(x, edges, without=loop) & ends}
            if head in inside:
                return "while", {loop} | inside
        return "other", {x for x in reach(head, self.forward) if loop in reach(x, self.forward)}

    @cached_property
    def inner(self) -> dict[str, set[str]]:
        """loop -> the loops that lie in it"""
        core = {loop: self.cores[loop][1] for loop in self.loops}
        lies: dict[str, set[str]] = {
            loop: {k for k in self.loops if k in core[loop] or (self.target[k] in core[loop] and loop not in core[k])}
            - {loop}
            for loop in self.loops
        }
        for _ in self.loops:  # closed transitively
            for loop in self.loops:
                lies[loop] = lies[loop].union(*(lies[k] for k in lies[loop])) - {loop}
        return lies

    def strictly_inner(self, loop: str) -> set[str]:
        """The loops in this one that it is not in: two in each other would restart each other for ever."""
        return {k for k in self.inner[loop] if loop not in self.inner[k]}

    @cached_property
    def bodies(self) -> dict[str, set[str]]:
        bodies = {}
        for loop in self.loops:
            edges = self.forward | {(k, self.target[k]) for k in self.inner[loop]}
            between = {x for x in reach(self.target[loop], edges) if loop in reach(x, edges)}
            bodies[loop] = self.cores[loop][1] | between
        return bodies

    def innermost(self, node: str) -> str | None:
        """The innermost loop whose body contains the node."""
        around = [loop for loop in self.loops if node in self.bodies[loop]]
        return min(around, key=lambda loop: (len(self.bodies[loop]), self.position[loop]), default=None)

    # Waiting

    @cached_property
    def blockers(self) -> dict[str, set[str]]:
        """node -> the nodes that can still reach it in this pass"""
        found = {}
        for node in self.nodes:
            edges = self.forward | {(k, self.target[k]) for k in self.loops if node not in self.bodies[k]}
            found[node] = {x for x in self.nodes if x != node and node in reach(x, edges)}
        return found

    def leaves_a_loop_into(self, node: str) -> bool:
        """The node is entered from inside a loop body that it is not in, and not by the loop itself."""
        return any(
            p in self.bodies[loop] and node not in self.bodies[loop] and p != loop
            for p in self.predecessors(node)
            for loop in self.loops
        )

    @cached_property
    def waits(self) -> set[str]:
        edges = self.forward | self.back
        reaches = {node: reach(node, edges) for node in self.nodes}

        def meets(node: str) -> bool:
            several = len(self.predecessors(node)) > 1 or self.type(node) in ("join", "loop")
            return several or self.leaves_a_loop_into(node)

        def two_ways(node: str) -> bool:
            return any(len({t for t in group.targets if node in reaches[t]}) > 1 for group in self.groups)

        return {node for node in self.nodes if not self.is_any(node) and meets(node) and two_ways(node)}

    # Parallel

    @cached_property
    def parallel(self) -> set[frozenset[str]]:
        """The pairs of nodes that two live tokens can be on at once (one node alone: two tokens on it)."""
        edges = self.forward | self.back
        todo = [
            (self._arrives(a), self._arrives(b))
            for group in self.groups
            for a, b in combinations(set(group.targets), 2)
        ]
        seen: set[tuple[Place, Place]] = set()
        while todo:
            pair = todo.pop()
            if pair in seen:
                continue
            seen.add(pair)
            for (node, waiting), other in (pair, pair[::-1]):
                if waiting and other[0] not in self.blockers[node]:
                    todo.append(((node, False), other))
                if not waiting:
                    steps = [self._arrives(target) for source, target in edges if source == node]
                    todo += [(place, other) for place in steps if not (place[1] and place == other)]
        return {frozenset((a[0], b[0])) for a, b in seen}

    def _arrives(self, node: str) -> Place:
        return node, node in self.waits


@lru_cache(maxsize=64)
def _successors(edges: frozenset[Edge]) -> dict[str, list[str]]:
    after: dict[str, list[str]] = {}
    for source, target in edges:
        after.setdefault(source, []).append(target)
    return after


def reach(start: str, edges: Iterable[Edge], without: str | None = None) -> set[str]:
    """The nodes on paths from `start`, itself included, that do not pass `without`."""
    after = _successors(frozenset(edges))
    seen: set[str] = set()
    todo = [start]
    while todo:
        node = todo.pop()
        if node != without and node not in seen:
            seen.add(node)
            todo += after.get(node, [])
    return seen


def is_cyclic(edges: set[Edge]) -> bool:
    return any(source in reach(target, edges) for source, target in edges)


def refused(workflow: dict[str, Any]) -> list[int]:
    """The rules of "What the compiler refuses", 1 to 7, that the workflow breaks, or a sub-graph in it; and
    9: a sub-graph that has not exactly one exit."""
    return sorted(set(_refused(Graph(workflow), [])))


def _refused(graph: Graph, around: list[tuple[Graph, str]]) -> list[int]:
    """`around`: the enclosing graphs, each with the map in it, the outermost first."""
    if is_cyclic(graph.forward) or graph.reachable() != set(graph.nodes):
        return [1]  # the other rules speak about graphs that have passed this one
    if any(not {loop, graph.target[loop]} <= graph.cores[loop][1] for loop in graph.loops):
        return [2]
    rules = [9] if around and len(graph.exits) != 1 else []
    if is_cyclic({(m, n) for n in graph.waits for m in graph.blockers[n] & graph.waits}):
        rules.append(3)
    if any(
        frozenset((x, loop)) in graph.parallel
        for loop in graph.loops
        for x in graph.bodies[loop] - graph.blockers[loop] - {loop}
    ):
        rules.append(4)
    if any(_side_exit(group, loop, graph.bodies[loop]) for loop in graph.loops for group in graph.groups):
        rules.append(5)
    if any(graph.is_any(n) and (graph.type(n) == "loop" or graph.leaves_a_loop_into(n)) for n in graph.nodes):
        rules.append(6)
    if not all(may_read(graph, node, read, around) for node, read in reads(graph.workflow)):
        rules.append(7)
    return rules + [rule for map, sub in graph.inside.items() for rule in _refused(sub, [*around, (graph, map)])]


def _side_exit(group: Group, loop: str, body: set[str]) -> bool:
    targets = set(group.targets)
    mixed = bool(targets & body) and bool(targets - body)
    return group.source in body and group.source != loop and mixed and not group.conditional


def may_read(graph: Graph, node: str, read: str, around: list[tuple[Graph, str]]) -> bool:
    """`node` may read `read`: of its own graph, or of an enclosing one what has run before the map."""
    if read in graph.nodes:
        reached = node in reach(read, graph.forward | graph.back)
        return reached and frozenset((read, node)) not in graph.parallel
    return bool(around) and around[-1][1] != read and may_read(around[-1][0], around[-1][1], read, around[:-1])


def reads(workflow: dict[str, Any]) -> set[tuple[str, str]]:
    """(node, what it reads from ctx); the condition of an edge is read in the node that it leaves, and what
    the nodes of a sub-graph read is left to them."""
    texts = [(node["id"], json.dumps(own_part(node))) for node in workflow["nodes"]]
    texts += [(edge["from"], json.dumps(edge)) for edge in workflow.get("edges", [])]
    return {(node, read) for node, text in texts for read in re.findall(r"\bctx\.(\w+)", text)}


def own_part(node: dict[str, Any]) -> dict[str, Any]:
    """A map without the sub-graph in it."""
    config = node.get("config", {})
    return node | {"config": {name: value for name, value in config.items() if name not in ("nodes", "edges")}}


def every_node(workflow: dict[str, Any]) -> list[dict[str, Any]]:
    """The nodes of a document and of the maps in it."""
    inner = [node["config"] for node in workflow["nodes"] if node["type"] == "map"]
    return [*workflow["nodes"], *(node for graph in inner for node in every_node(graph))]


def ids_in_order(workflow: dict[str, Any]) -> list[str]:
    """The ids of all nodes as the text has them: those in a map follow it."""
    inner = {node["id"]: ids_in_order(node["config"]) for node in workflow["nodes"] if node["type"] == "map"}
    return [name for node in workflow["nodes"] for name in (node["id"], *inner.get(node["id"], ()))]
