"""The bit sets of the compiler against plain sets, on random workflows; and what no random document may do."""

from __future__ import annotations

import copy
import random
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from schemas.compiler.bitset import Closure, bits, spread, transposed, union
from schemas.compiler.compiler import compile_workflow, validate
from schemas.compiler.flow import Flow
from schemas.compiler.graph import Graph
from schemas.compiler.loops import innermost
from schemas.errors import InvalidDocument
from schemas.ir import IR
from tests.compiler.documents import PIPELINES, Document, wild
from tests.reference import graph as naive

RULE_OF = {
    "forward-cycle": 1,
    "loop-does-not-lead-back": 2,
    "tangled-loops": 3,
    "overlapping-passes": 4,
    "side-exit": 5,
    "join-any": 6,
}

randoms = st.randoms(use_true_random=False)
steps = st.integers(1, 12).flatmap(lambda size: st.lists(st.integers(0, (1 << size) - 1), min_size=size, max_size=size))


def differences(document: Document) -> list[str]:
    """Where the compiler and plain sets disagree about the graph of a document of good shape."""
    graph, plain = Graph.of(document), naive.Graph(document)
    flow, problems = Flow.of(graph)
    rules = {RULE_OF[problem.code] for problem in problems}
    if rules != set(naive.refused(document)) - {7}:
        return [f"rules {rules}"]
    if flow is None:
        return []
    ids = graph.ids
    found = {
        "entries": set(graph.names(graph.entries)) == set(plain.entries),
        "waits": set(graph.names(flow.waiting)) == plain.waits,
    }
    for loop, shape in flow.bodies.items():
        found[f"body of {ids[loop]}"] = set(graph.names(shape.body)) == plain.bodies[ids[loop]]
        found[f"loops in {ids[loop]}"] = set(graph.names(shape.inner)) == plain.strictly_inner(ids[loop])
    for node, name in enumerate(ids):
        inmost = innermost(flow.bodies, node)
        found[f"innermost of {name}"] = plain.innermost(name) == (None if inmost is None else ids[inmost])
        found[f"blockers of {name}"] = set(graph.names(flow.blockers[node])) == plain.blockers[name]
        for other, other_name in enumerate(ids):
            together = frozenset((name, other_name)) in plain.parallel
            found[f"{name} beside {other_name}"] = flow.parallel.alive(node, other) == together
    return [what for what, agrees in found.items() if not agrees]


@given(randoms)
@settings(max_examples=120)
def test_random_workflows(rng: random.Random) -> None:
    assert differences(wild(rng)) == []


def test_hundreds_of_workflows_that_are_refused_by_every_rule() -> None:
    rules: set[int] = set()
    accepted = 0
    for seed in range(800):
        document = wild(random.Random(seed))
        assert differences(document) == []
        codes = {problem.code for problem in validate(document)} - {"no-such-field"}
        accepted += not codes
        rules |= {RULE_OF[code] for code in codes}
    assert rules >= {1, 2, 4, 5, 6}
    assert accepted > 150


@given(randoms)
def test_what_is_accepted_survives_being_stored(rng: random.Random) -> None:
    document = wild(rng)
    try:
        ir = compile_workflow(document).ir
    except InvalidDocument as invalid:
        assert list(invalid.problems) == validate(document)
        return
    again = IR.from_json(ir.text)
    assert again == ir
    assert again.digest == ir.digest


# -- documents that nobody meant ------------------------------------------------------------------

WORDS = (
    *("id", "type", "config", "nodes", "edges", "from", "to", "condition", "expression", "cel", "agent", "branch"),
    *(
        "loop",
        "rules",
        "next",
        "default",
        "loop_back_to",
        "break_path",
        "max_iterations",
        "retry",
        "on_error",
        "a",
        "b",
    ),
    *("function", "handler", "args", "set", "transform", "join", "any", "model", "prompt", "response_format", "$ref"),
    *(
        "map",
        "items",
        "human",
        "form",
        "choices",
        "wait",
        "until",
        "event",
        "workflow",
        "document",
        "http",
        "url",
        "sql",
    ),
    *("#", "properties", "input_schema", "defaults", "{{ ctx.a.output }}", "output.x", "{{", "http", "~", "/", ""),
)
texts = st.sampled_from(WORDS) | st.text(max_size=8)
scalars = st.none() | st.booleans() | st.integers() | st.floats() | texts
values = st.recursive(
    scalars, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(texts, inner, max_size=6), max_leaves=30
)


@given(values)
def test_no_json_value_crashes_validation(value: Any) -> None:
    assert isinstance(validate(value), list)


@given(randoms, st.data())
@settings(max_examples=150)
def test_no_document_with_something_else_in_it_crashes_validation(rng: random.Random, data: st.DataObject) -> None:
    document = copy.deepcopy(rng.choice([wild(rng), *PIPELINES.values()]))
    for _ in range(data.draw(st.integers(1, 3))):
        place: Any = document
        while True:
            keys = list(place) if isinstance(place, dict) else list(range(len(place)))
            if not keys:
                break
            key = rng.choice(keys)
            if isinstance(place[key], dict | list) and rng.random() < 0.8:
                place = place[key]
                continue
            place[key] = data.draw(values)
            break
    for problem in validate(document):
        assert problem.message
        assert problem.code == problem.code.lower()
        assert problem.path == "" or problem.path.startswith("/")


# -- the sets themselves --------------------------------------------------------------------------


@given(st.sets(st.integers(0, 200)))
def test_bits_and_union(members: set[int]) -> None:
    assert list(bits(union(members))) == sorted(members)


@given(steps, st.data())
def test_spread_and_closure(masks: list[int], data: st.DataObject) -> None:
    start = data.draw(st.integers(0, len(masks) - 1))
    stop = data.draw(st.integers(0, (1 << len(masks)) - 1)) & ~(1 << start)
    edges = {(str(source), str(target)) for source, mask in enumerate(masks) for target in bits(mask)}
    allowed = {edge for edge in edges if not stop >> int(edge[1]) & 1}
    assert {str(node) for node in bits(spread(1 << start, masks, stop))} == naive.reach(str(start), allowed)
    closure = Closure(masks)
    for node in range(len(masks)):
        onward = set().union(*(naive.reach(str(target), edges) for target in bits(masks[node])))
        assert {str(other) for other in bits(closure[node])} == onward
    backwards = transposed(masks)
    assert {(str(s), str(t)) for t, mask in enumerate(backwards) for s in bits(mask)} == edges
