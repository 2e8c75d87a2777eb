"""Guards: what stands before a node on every way to it. A patch may be asked to leave the guards of some nodes. Pure.

Guards are nodes that the patch may not touch (a person's approval, for example) and decisions: the rules of a branch,
the condition of an edge, a failure. A decision is known by what it asks, not by where it leads.
"""

from __future__ import annotations

from collections.abc import Collection, Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from schemas.compiler.bitset import bits, spread, transposed, union
from schemas.ir import IR, Node

Way = tuple[Hashable, str]
"""(where it begins: a node's id, or a decision, target)."""
_START: Hashable = ("start",)


def bypassed(old: IR, new: IR, kept: Collection[str]) -> list[str]:
    """Nodes of `kept` that a way of the new graph leads to past a guard of the old one. Each is in both."""
    before, after = _Ways.of(old), _Ways.of(new)
    guards, left = before.guards(kept), after.guards(kept)
    return [node_id for node_id in kept if not guards[node_id] <= left[node_id]]


def cut_off(old: IR, new: IR, kept: Collection[str]) -> list[str]:
    """Nodes on the way to one of `kept`, or of `kept`, that some way of the old graph does not lead to any more.

    It may lead there through nodes that were put in between, if nothing more is decided on the way.
    """
    before, after = _Ways.of(old), _Ways.of(new)
    matter = before.leading_to(kept)
    found: set[str] = set()
    for source, target in before.ways:
        if target in matter and not (isinstance(source, str) and source not in new.nodes):
            certain = after.certain(source)
            wanted = {target} if target in new.nodes else before.certain(target) & matter
            found |= {node for node in new.nodes if node in wanted and node not in certain}
    return [node for node in new.nodes if node in found]


def multiplied(old: IR, new: IR, kept: Collection[str]) -> list[str]:
    """Nodes with `join: any` before, or of, `kept` that more ways lead into than did: each is an execution more."""
    before, after = _Ways.of(old), _Ways.of(new)
    matter = after.leading_to(kept)
    return [
        node.id
        for node in new.nodes.values()
        if node.any and node.id in matter and after.into(node.id) > max(1, before.into(node.id))
    ]


@dataclass(frozen=True)
class _Ways:
    """A graph with its decisions as places between its nodes; sets of places are bits (bitset.py)."""

    ways: Sequence[Way]
    places: Sequence[Hashable]
    number: Mapping[Hashable, int]
    steps: Sequence[int]  # where each place leads to
    plain: Sequence[int]  # likewise, without what depends on a decision

    @classmethod
    def of(cls, ir: IR) -> _Ways:
        ways = [(_START, entry) for entry in ir.entries]
        for node in ir.nodes.values():
            ways += _ways(node)
        sources = dict.fromkeys(source for source, _ in ways)
        places = list(dict.fromkeys([_START, *ir.nodes, *sources]))
        number = {place: n for n, place in enumerate(places)}
        plain = [0] * len(places)
        for source, target in ways:
            plain[number[source]] |= 1 << number[target]
        steps = [*plain]
        for source in sources:
            if isinstance(source, tuple) and source != _START:
                steps[number[source[0]]] |= 1 << number[source]
        return cls(ways, places, number, steps, plain)

    def guards(self, kept: Collection[str]) -> dict[str, set[Hashable]]:
        """The guards of each of `kept`; itself is among them."""
        is_guard = union(n for n, place in enumerate(self.places) if place in kept or not isinstance(place, str))
        whole = (1 << len(self.places)) - 1
        before, found = transposed(self.steps), [whole] * len(self.places)
        found[0], todo = 0, list(bits(self.steps[0]))
        while todo:
            place = todo.pop()
            common = whole
            for source in bits(before[place]):
                common &= found[source]
            common |= is_guard & 1 << place
            if common != found[place]:
                found[place] = common
                todo += bits(self.steps[place])
        return {node: self._members(found[self.number[node]]) for node in kept}

    def certain(self, source: Hashable) -> set[Hashable]:
        """Nodes that are come to from a place whatever is decided."""
        if source not in self.number:
            return set()
        return self._members(spread(self.plain[self.number[source]], self.plain))

    def leading_to(self, kept: Collection[str]) -> set[Hashable]:
        """Places that lead to one of `kept`, and these."""
        return self._members(spread(union(self.number[node] for node in kept), transposed(self.steps)))

    def into(self, node_id: str) -> int:
        return sum(target == node_id for _, target in self.ways)

    def _members(self, mask: int) -> set[Hashable]:
        return {self.places[n] for n in bits(mask)}


def _ways(node: Node) -> Iterator[Way]:
    for edge in node.edges:
        yield node.id if edge.condition is None else (node.id, "if", edge.condition), edge.to
    asked = tuple(rule.condition for rule in node.rules)
    groups: list[tuple[Hashable, Collection[str]]] = [
        *(((node.id, "rule", asked[: n + 1]), rule.next) for n, rule in enumerate(node.rules)),
        ((node.id, "else", asked), node.default or ()),
        ((node.id, "error"), node.on_error or ()),
        ((node.id, "deadline"), node.deadline_path or ()),
        (node.id, node.analysis.entries),
    ]
    if node.loop:
        again = (node.id, "again", node.loop.condition)
        groups += [(again, [node.loop.back_to]), ((*again, "not"), node.loop.break_path)]
        groups += [((*again, "timeout"), node.loop.timeout_path or ())]
    for source, targets in groups:
        for target in targets:
            yield source, target
