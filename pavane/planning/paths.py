"""The way of an item through a workflow: the compiled graph walked once, its conditions decided by a Course.

The walk has the routing's semantics (docs/workflow_language.md) and no clock: what an item does depends on no order,
so it can be known before it is known when. A node that waits for parallel paths comes after the last step of each.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from pavane.planning.course import Course
from pavane.planning.item import Item
from pavane.planning.workflow import PlannedWorkflow
from schemas.ir import Node


def sample_item(workflow: PlannedWorkflow, course: Course) -> Item:
    """One item's steps. Raises PlanFault for an item without end."""
    item = Item()
    _Walk(workflow, course, item).region(workflow.ir.entries, frozenset())
    return item


@dataclass(slots=True)
class _Token:
    """Work that goes on at a node when the steps `after` are done; `sources`: the nodes that it came from."""

    node: Node
    after: frozenset[int]
    sources: frozenset[str] = frozenset()


@dataclass(slots=True)
class _Scope:
    """A run, or one item of a map, under way."""

    queue: deque[_Token] = field(default_factory=deque)
    waiting: dict[str, _Token] = field(default_factory=dict)
    live: Counter[str] = field(default_factory=Counter)  # waiting node -> live tokens that hold it back
    held: dict[str, frozenset[int]] = field(default_factory=dict)  # and the steps of those that are gone
    passes: dict[str, int] = field(default_factory=dict)
    ends: set[int] = field(default_factory=set)


class _Walk:
    def __init__(self, workflow: PlannedWorkflow, course: Course, item: Item) -> None:
        self._nodes = workflow.ir.nodes
        self._children = workflow.children
        self._course = course
        self._item = item

    def region(self, entries: Sequence[str], after: frozenset[int]) -> frozenset[int]:
        """Walk a graph from its entries; the steps after which it is over."""
        scope = _Scope()
        for entry in entries:
            self._arrive(scope, entry, after, "")
        self._release(scope)
        while scope.queue:
            token = scope.queue.popleft()
            done, targets = self._execute(scope, token)
            for target in dict.fromkeys(targets):
                self._arrive(scope, target, done, token.node.id)
            if not targets:
                scope.ends |= done
            for blocked in token.node.analysis.blocks:
                scope.live[blocked] -= 1
                scope.held[blocked] = scope.held.get(blocked, frozenset()) | done
            self._release(scope)
        return frozenset(scope.ends) or after

    def _arrive(self, scope: _Scope, target: str, after: frozenset[int], source: str) -> None:
        node = self._nodes[target]
        known = scope.waiting.get(target)
        if known is not None:
            known.after |= after
            known.sources |= {source}
            return
        token = _Token(node, after, frozenset((source,)))
        scope.live.update(node.analysis.blocks)
        if node.analysis.waits:
            scope.waiting[target] = token
        else:
            scope.queue.append(token)

    def _release(self, scope: _Scope) -> None:
        """Let go on what waits and is held back by nothing that lives."""
        for name in [name for name in scope.waiting if scope.live[name] <= 0]:
            token = scope.waiting.pop(name)
            token.after |= scope.held.pop(name, frozenset())
            scope.queue.append(token)

    def _execute(self, scope: _Scope, token: _Token) -> tuple[frozenset[int], tuple[str, ...]]:
        """The steps after which the node's work is done, and where it leads."""
        node, after = token.node, token.after
        match node.type:
            case "branch":
                return after, self._course.rule(node)
            case "loop":
                return after, self._loop(scope, token)
            case "transform" | "join":
                pass
            case "map":
                after = self._map(node, after)
            case "workflow" if node.id in self._children:
                child = self._children[node.id]
                after = _Walk(child, self._course, self._item).region(child.ir.entries, after)
            case _:
                after = self._step(node.id, node.analysis.pool, self._course.seconds(node), after)
        return after, self._course.edges(node)

    def _loop(self, scope: _Scope, token: _Token) -> tuple[str, ...]:
        node, loop = token.node, token.node.loop
        assert loop is not None
        comes_back = loop.form != "while" or bool(token.sources & loop.body)
        passes = scope.passes[node.id] = scope.passes.get(node.id, 0) + comes_back
        if not self._course.again(node):
            return loop.break_path
        if passes >= loop.max_iterations:
            return loop.break_path if loop.timeout_path is None else loop.timeout_path
        for inner in loop.inner:
            scope.passes.pop(inner, None)
        return (loop.back_to,)

    def _map(self, node: Node, after: frozenset[int]) -> frozenset[int]:
        """Its items beside each other; past `max_parallel` each begins when the one so many before it is done."""
        assert node.map is not None
        begun = self._step(node.id, None, 0.0, after)
        done: list[frozenset[int]] = []
        for index in range(self._course.items(node)):
            earlier = done[index - node.map.max_parallel] if index >= node.map.max_parallel else begun
            done.append(self.region(node.map.entries, earlier))
        return self._step(node.id, None, 0.0, frozenset().union(*done) if done else begun)

    def _step(self, node: str, pool: str | None, seconds: float, after: Iterable[int]) -> frozenset[int]:
        return frozenset((self._item.add(node, pool, seconds, after),))
