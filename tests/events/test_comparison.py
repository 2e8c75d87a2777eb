"""Comparison: what differs, told the same from both sides; and where two ways part."""

from copy import deepcopy
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from schemas.batch_comparison import ItemSide, Pair, compare_batches
from schemas.comparison import CHANGES_SHOWN, VALUE_CHARS, RunSide, changed, changes, compare_runs
from schemas.events import Event
from schemas.run_state import Reference
from schemas.way import Way, parting

SCALARS = st.none() | st.booleans() | st.integers(-3, 3) | st.floats(-2, 2) | st.sampled_from(["", "a", "b"])
NAMES = st.sampled_from(["p", "q", "two words"])  # not those that a comparison has itself
VALUES = st.recursive(SCALARS, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(NAMES, inner), max_leaves=8)
STATUSES = st.sampled_from(["COMPLETED", "FAILED", "RUNNING"])
LARGE = Reference("artifact://sha256-1")


def event(number: int, kind: str, node: str, **data: Any) -> Event:
    return Event("run_1", number, kind, 0, node, "t", data.pop("scope", ""), data)


def way(*steps: tuple[str, Any]) -> Way:
    """Of (node, what it decided or None), one after the other; "!node" failed."""
    made = Way()
    for number, (node, decision) in enumerate(steps, 1):
        kind = "node_failed" if node.startswith("!") else "node_completed"
        decisions = {"decisions": [{"node": node, **decision}]} if decision else {}
        made.add(event(number, kind, node.lstrip("!"), outputs={node.lstrip("!"): 1}, **decisions))
    return made


def rule(number: Any, *to: str) -> dict[str, Any]:
    return {"rule": number, "next": list(to)}


def sides(found: Any) -> Any:
    """A comparison told from the other side."""
    if isinstance(found, list):
        return [sides(inner) for inner in found]
    if not isinstance(found, dict):
        return found
    swapped = {"before": "after", "after": "before", "a": "b", "b": "a", "only_a": "only_b", "only_b": "only_a"}
    told = {swapped.get(name, name): sides(value) for name, value in found.items()}
    for name in ("difference", "mean_difference"):
        if told.get(name) is not None:
            told[name] = -told[name]
    if "executed" in told:
        told["executed"].reverse()
    if "took" in told:
        told["took"] = {name: None if value is None else -value for name, value in told["took"].items()}
    return told


@st.composite
def run_sides(draw: st.DrawFn) -> RunSide:
    steps = draw(st.lists(st.tuples(st.sampled_from(["x", "y", "!z"]), st.sampled_from([None, rule(0, "p")]))))
    outputs = draw(st.dictionaries(st.sampled_from(["x", "y"]), VALUES))
    return RunSide(
        "run_1", draw(STATUSES), input=draw(VALUES), outputs=outputs, output=draw(VALUES),
        error=draw(st.none() | st.fixed_dictionaries({"class": st.sampled_from(["timeout", "template"])})),
        duration_ms=draw(st.none() | st.integers(0, 9)), usage={"tasks": draw(st.integers(0, 3))}, way=way(*steps),
    )  # fmt: skip


@st.composite
def pairs(draw: st.DrawFn) -> list[Pair]:
    item = st.builds(ItemSide, st.just("run_1"), STATUSES, VALUES, st.none(), st.none() | st.integers(0, 9))
    both = st.tuples(item, item) | st.tuples(item, st.none()) | st.tuples(st.none(), item)
    return [Pair(str(number), *one) for number, one in enumerate(draw(st.lists(both, max_size=6)))]


@given(VALUES, VALUES)
def test_nothing_differs_exactly_where_two_values_are_equal(a: Any, b: Any) -> None:
    assert not list(changes(a, deepcopy(a)))
    found = list(changes(a, b))
    assert not found or repr(a) != repr(b)
    assert [(one.steps, one.after, one.before) for one in changes(b, a)] == [
        (one.steps, one.before, one.after) for one in found
    ]


@given(run_sides(), run_sides())
def test_runs_from_both_sides(a: RunSide, b: RunSide) -> None:
    assert compare_runs(b, a) == sides(compare_runs(a, b))
    itself = compare_runs(a, deepcopy(a))
    assert itself["same"] and not itself["nodes"] and itself["parted"] is None and itself["output"]["count"] == 0


@given(pairs(), st.integers(1, 3))
def test_batches_from_both_sides(given: list[Pair], limit: int) -> None:
    found = compare_batches(given, limit)
    assert compare_batches([Pair(pair.key, pair.b, pair.a) for pair in given], limit) == sides(found)
    assert found["matched"] + found["only_a"]["items"] + found["only_b"]["items"] == len(given)
    itself = compare_batches([Pair(pair.key, pair.a, deepcopy(pair.a)) for pair in given if pair.a], limit)
    assert not itself["differ"] and not itself["items"] and not any(field["changed"] for field in itself["fields"])


def test_what_changed_and_where() -> None:
    before = {"score": 71, "ok": True, "tags": ["x", "y"], "two words": 1, "gone": None, "same": 1}
    after = {"score": 82, "ok": 1, "tags": ["x", "z", "w"], "two words": 1.5, "new": {"a": 1}, "same": 1.0}
    assert changed(before, after)["changes"] == [
        {"path": "$.gone", "before": None},
        {"path": "$.new", "after": {"a": 1}},
        {"path": "$.ok", "before": True, "after": 1},
        {"path": "$.score", "before": 71, "after": 82, "difference": 11},
        {"path": "$.tags[1]", "before": "y", "after": "z"},
        {"path": "$.tags[2]", "after": "w"},
        {"path": '$["two words"]', "before": 1, "after": 1.5, "difference": 0.5},
    ]
    assert changed([1], {"0": 1})["changes"] == [{"path": "$", "before": [1], "after": {"0": 1}}]
    assert changed(-(2**63), 2**64 - 1)["changes"][0]["difference"] == float(2**64 - 1 + 2**63)


def test_long_values_are_shortened_and_many_changes_counted() -> None:
    (long,) = changed("x" * 10_000, "y")["changes"]
    assert len(long["before"]) < VALUE_CHARS + 40 and long["before"].endswith("(10002 characters)")
    many = changed(list(range(1_000)), list(range(1, 1_001)))
    assert many["count"] == 1_000 and len(many["changes"]) == CHANGES_SHOWN


def test_equal_names_are_equal_values() -> None:
    assert not list(changes({"a": LARGE, "b": 1}, {"a": Reference(LARGE.text), "b": 1}))
    (one,) = changed({"a": LARGE}, {"a": Reference("artifact://sha256-2")})["changes"]
    assert one == {"path": "$.a", "before": "artifact://sha256-1", "after": "artifact://sha256-2"}


def test_where_two_ways_part() -> None:
    a = way(("grade", None), ("quality", rule(0, "format")), ("format", None))
    b = way(("grade", None), ("quality", rule("default", "improve")), ("improve", None), ("format", None))
    assert parting(a, b) == {
        "node_id": "quality", "scope": "", "kind": "decision", "nth": 1,
        "a": {"node": "quality", **rule(0, "format")}, "b": {"node": "quality", **rule("default", "improve")},
    }  # fmt: skip
    assert parting(a, a) is None
    found = compare_runs(RunSide("x", "COMPLETED", way=a), RunSide("y", "COMPLETED", way=b))
    assert [(node["node_id"], node["executed"]) for node in found["nodes"]] == [("improve", [0, 1])]
    assert found["same_nodes"] == ["format", "grade", "quality"] and not found["same"]


def test_parallel_paths_in_another_order_do_not_part() -> None:
    assert parting(way(("a", None), ("b", None)), way(("b", None), ("a", None))) is None


def test_they_part_where_it_began_though_one_came_there_late() -> None:
    late = way(("p", None), ("q", None), ("quality", rule(0, "format")), ("format", None))
    early = way(("quality", rule(1, "improve")), ("improve", None), ("p", None), ("q", None))
    for found in (parting(late, early), parting(early, late)):
        assert found and found["node_id"] == "quality"


def test_what_a_decision_read_is_told_and_is_no_difference() -> None:
    a, b = rule(0, "x") | {"values": {"output.score": 81}}, rule(0, "x") | {"values": {"output.score": 99}}
    assert parting(way(("q", a)), way(("q", b))) is None
    found = parting(way(("q", a)), way(("q", rule(1, "y"))))
    assert found and found["a"]["values"] == {"output.score": 81}


def test_a_later_pass_and_a_failure_part_too() -> None:
    back, done = {"pass": 1, "result": "back", "next": ["x"]}, {"pass": 2, "result": "break", "next": ["y"]}
    found = parting(way(("l", back), ("l", back)), way(("l", back), ("l", done)))
    assert found and (found["nth"], found["a"]["result"], found["b"]["result"]) == (2, "back", "break")
    failed = parting(way(("x", None), ("!y", None)), way(("x", None), ("y", None)))
    assert failed and (failed["node_id"], failed["a"], failed["b"]) == (
        "y", {"result": "failed"}, {"result": "completed"},
    )  # fmt: skip
    ended = parting(way(("x", None)), way(("x", None), ("y", None)))
    assert ended and (ended["node_id"], ended["a"], ended["b"]) == ("y", None, {"result": "completed"})


def item(output: Any, status: str = "COMPLETED", **more: Any) -> ItemSide:
    return ItemSide("run_x", status, output, **more)


def test_the_summary_of_two_batches() -> None:
    found = compare_batches([
        Pair("same", item({"score": 5, "tags": [1, 2]}), item({"score": 5, "tags": [1, 2]})),
        Pair("up", item({"score": 70, "tags": [1, 2]}), item({"score": 80, "tags": [3, 4]})),
        Pair("down", item({"score": 9, "tags": []}), item({"score": 6, "tags": []})),
        Pair("broke", item({"score": 1, "tags": []}), item(None, "FAILED", error={"class": "timeout"})),
        Pair("left", item({"score": 1, "tags": []}), None),
        Pair("right", None, item({"score": 2, "tags": []}, usage={"completion_tokens": 7})),
    ], limit=2)  # fmt: skip
    assert (found["matched"], found["same"], found["differ"]) == (4, 1, 3)
    assert found["only_a"] == {"items": 1, "keys": ["left"]} and found["only_b"] == {"items": 1, "keys": ["right"]}
    assert found["moves"] == [{"a": "COMPLETED", "b": "FAILED", "items": 1}]
    fields = {field["path"]: field for field in found["fields"]}
    assert list(fields) == ["$.score", "$.tags[*]"], "those that changed most often first"
    assert fields["$.score"]["changed"] == 2 and fields["$.tags[*]"]["changed"] == 1, "once an item"
    assert fields["$.score"]["mean_difference"] == (0 + 10 - 3) / 3
    assert fields["$.score"]["b"] == {"numbers": 4, "mean": (5 + 80 + 6 + 2) / 4}
    assert [one["key"] for one in found["items"]] == ["broke", "up"]
    assert found["items"][1]["count"] == 3 and found["items"][1]["changes"][0]["difference"] == 10
    assert found["groups"]["b"]["statuses"] == {"COMPLETED": 4, "FAILED": 1}
    assert found["groups"]["b"]["usage"]["completion_tokens"] == 7


def test_groups_of_different_items_are_told_by_their_means() -> None:
    found = compare_batches([Pair("1", item(4), None), Pair("2", item(6), None), Pair("3", None, item(8))])
    assert found["matched"] == 0
    assert found["fields"] == [
        {"path": "$", "changed": 0, "compared": 0, "mean_difference": None,
         "a": {"numbers": 2, "mean": 5.0}, "b": {"numbers": 1, "mean": 8.0}},
    ]  # fmt: skip
