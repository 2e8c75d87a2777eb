"""What a patch makes of an IR, what differs, and what of it can still be reached."""

import pytest

from schemas.compiler.compiler import compile_workflow
from schemas.errors import InvalidDocument
from schemas.events import Event
from schemas.ir import IR, Patched
from schemas.limits import LIMITS
from schemas.revision import View, difference, ir_after, operations_to, reachable, restarted, restore, revise
from tests.patching.flight import add, agent, flow, map_of, remove, set_to
from tests.scripts.workflows import CHAIN, DIAMOND, LOOP, cel, edges, task


def ir_of(workflow):
    return compile_workflow(workflow).ir


def changed(workflow, *operations):
    return revise(ir_of(workflow), list(operations)).difference


def seen(nodes, opened=(), whole=True):
    """Where tokens are: {node: state} with one each."""
    return View({n: {s: 1} for n, s in nodes.items()}, dict.fromkeys(opened, True), whole)


# -- revise ------------------------------------------------------------------------------------------
def test_the_ir_after_a_patch():
    revision = revise(ir_of(CHAIN), [add("/nodes/-", task("c")), add("/edges/-", {"from": "b", "to": "c"})])
    assert list(revision.ir.nodes) == ["a", "b", "c"]
    assert revision.ir.patched == Patched()
    assert revision.ir.digest != ir_of(CHAIN).digest
    assert IR.from_json(revision.ir.text) == revision.ir


def test_a_patch_that_changes_nothing_is_a_revision_too():
    revision = revise(ir_of(CHAIN), [])
    assert revision.ir.workflow == ir_of(CHAIN).workflow
    found = revision.difference
    assert (found.added, found.removed, found.changed, found.loops) == ((), (), (), ())


@pytest.mark.parametrize(
    ("operation", "path"),
    [
        (remove("/nodes/zzz"), "/operations/0/path"),
        (set_to("/nodes/a/type", "dance"), "/workflow/nodes/0/type"),
        (set_to("/edges/0/to", "zzz"), "/workflow/edges/0/to"),
    ],
)
def test_where_a_fault_lies(operation, path):
    with pytest.raises(InvalidDocument) as info:
        revise(ir_of(CHAIN), [operation])
    assert info.value.problems[0].path == path


def test_what_agents_have_added_goes_with_the_ir():
    first = revise(ir_of(CHAIN), [], patched=Patched({"b": 1}, 3)).ir
    assert revise(first, []).ir.patched == Patched({"b": 1}, 3)


# -- what differs ------------------------------------------------------------------------------------
def test_added_removed_changed():
    found = changed(DIAMOND, remove("/nodes/b"), set_to("/edges", edges("a > c > d > e")), add("/nodes/-", task("e")))
    assert (found.added, found.removed, found.changed) == (("e",), ("b",), ("a", "d"))
    assert (found.gone, found.redefined, found.retyped) == ({"b"}, frozenset(), frozenset())


@pytest.mark.parametrize(
    ("operation", "redefined"),
    [
        (set_to("/nodes/a/config/handler", "other"), True),
        (add("/nodes/a/timeout_ms", 5), True),
        (add("/nodes/a/retry", {"max_attempts": 9}), False),
        (add("/nodes/a/queue_timeout_ms", 9), False),
        (add("/nodes/a/on_error", ["b"]), False),
        (add("/edges/0/condition", cel("output.x")), False),
        (add("/defaults", {"timeout_ms": 7}), True),
    ],
)
def test_what_is_executed_differs_or_what_is_around_it(operation, redefined):
    found = changed({**CHAIN, "nodes": [task("a"), task("b")]}, operation)
    assert "a" in found.changed
    assert ("a" in found.redefined) is redefined
    assert found.retyped == found.gone == frozenset()


def test_words_are_a_change_of_their_node_and_of_nothing_that_is_executed():
    assert changed(CHAIN, add("/description", "words")).changed == ()
    found = changed(CHAIN, add("/nodes/a/description", "words"))
    assert (found.changed, found.redefined) == (("a",), frozenset())
    assert changed(flow(map_of(task("a"))), add("/nodes/each/config/nodes/a/description", "w")).changed == ("a",)


def test_another_type():
    found = changed(CHAIN, set_to("/nodes/a", {"id": "a", "type": "join"}))
    assert (found.retyped, found.redefined, found.gone) == ({"a"}, {"a"}, frozenset())


def test_a_map_is_its_own_part_and_its_nodes():
    each = flow(map_of(task("a")))
    inside = changed(each, set_to("/nodes/each/config/nodes/a/config/handler", "other"))
    assert (inside.changed, inside.redefined) == (("a",), {"a"})
    own = changed(each, add("/nodes/each/config/max_parallel", 3))
    assert (own.changed, own.redefined) == (("each",), {"each"})


def test_moved_into_a_map_and_out_of_it():
    into = changed(
        flow(task("x"), map_of(task("a"))),
        {"op": "move", "from": "/nodes/x", "path": "/nodes/each/config/nodes/0"},
        set_to("/nodes/0/config/edges", edges("x > a")),
    )
    assert (into.gone, into.added, into.removed) == ({"x"}, (), ())
    assert "x" in into.changed
    out = changed(
        flow(map_of(task("x"), task("a"), edges=edges("x > a"))),
        {"op": "move", "from": "/nodes/each/config/nodes/x", "path": "/nodes/-"},
        set_to("/nodes/each/config/edges", []),
    )
    assert out.gone == {"x"}


def test_loops_that_are_gone():
    assert changed(LOOP, remove("/nodes/again"), set_to("/edges/0/to", "last")).loops == ("again",)
    assert changed(LOOP, set_to("/nodes/again/config/max_iterations", 9)).loops == ()
    assert changed(LOOP, set_to("/nodes/again", task("again")), add("/edges/-", {"from": "again", "to": "last"})
                   ).loops == ("again",)  # fmt: skip


# -- what can still be reached -----------------------------------------------------------------------
def reach(workflow, view, *operations, **options):
    revision = revise(ir_of(workflow), list(operations))
    return reachable(revision.ir, revision.difference, view, **options)


@pytest.mark.parametrize(
    ("at", "state", "found"),
    [
        ("a", "queued", {"a", "b", "c", "d"}),
        ("a", "running", {"b", "c", "d"}),
        ("b", "queued", {"b", "d"}),
        ("d", "waiting", {"d"}),
        ("d", "answered", set()),
    ],
)
def test_ahead_of_the_tokens(at, state, found):
    assert reach(DIAMOND, seen({at: state})) == found


def test_behind_all_of_them():
    new = [add("/nodes/-", task("x")), add("/edges/-", {"from": "a", "to": "x"})]
    assert "x" in reach(DIAMOND, seen({"a": "running"}), *new)
    assert "x" not in reach(DIAMOND, seen({"b": "queued", "c": "queued"}), *new)


def test_what_begins_anew_is_reached():
    edit = set_to("/nodes/b/config/handler", "other")
    assert "b" not in reach(DIAMOND, seen({"b": "running"}), edit)
    assert "b" in reach(DIAMOND, seen({"b": "running"}), edit, restart=True)
    assert "b" not in reach(DIAMOND, seen({"b": "answered"}), edit, restart=True)


def test_a_loop_leads_back():
    assert reach(LOOP, seen({"work": "running"})) == {"work", "again", "last"}


def test_on_error_default_and_deadline_lead_on():
    human = {"id": "h", "type": "human", "config": {"deadline_ms": 5, "deadline_path": ["late"]}, "on_error": ["sorry"]}
    sort = {"id": "s", "type": "branch", "config": {
        "rules": [{"condition": cel("true"), "next": ["one"]}], "default": ["two"]}}  # fmt: skip
    nodes = [human, sort, *map(task, ("late", "sorry", "one", "two"))]
    assert reach(flow(*nodes, edges=edges("h > s")), seen({"h": "asked"})) == {"s", "late", "sorry", "one", "two"}


@pytest.mark.parametrize(
    ("view", "found"),
    [
        (seen({"each": "mapping", "b": "queued"}), {"b", "end"}),
        (seen({"each": "mapping", "b": "queued"}, ["each"]), {"a", "b", "end"}),
        (seen({"each": "mapping"}, whole=False), {"a", "b", "end"}),
        (seen({"each": "deciding"}), {"each", "a", "b", "end"}),
    ],
)
def test_maps(view, found):
    """Of one that runs its entries only if items are still to start."""
    workflow = flow(map_of(task("a"), task("b"), edges=edges("a > b")), task("end"), edges=edges("each > end"))
    assert reach(workflow, view) == found


def test_what_is_gone_leads_nowhere():
    assert reach(CHAIN, seen({"a": "queued"}), remove("/nodes/a"), remove("/edges/0")) == frozenset()


def test_restarted():
    found = changed(DIAMOND, set_to("/nodes/b/config/handler", "x"), set_to("/nodes/c/config/handler", "x"))
    assert restarted(found, seen({"b": "running", "c": "queued", "a": "running"})) == ["b"]


# -- the way back --------------------------------------------------------------------------------------
def test_a_rollback_leads_to_the_same_workflow():
    first = ir_of(DIAMOND)
    second = revise(first, [remove("/nodes/b"), set_to("/edges", edges("a > c > d"))]).ir
    back = restore(second, first.workflow)
    assert back.ir.workflow == first.workflow
    assert back.difference.added == ("b",)
    assert back.ir.entries == first.entries and back.ir.nodes.keys() == first.nodes.keys()


def test_operations_lead_there_whatever_it_takes():
    many = flow(*(task(f"n{i}") for i in range(LIMITS.patch_operations + 50)))
    other = flow(*(task(f"m{i}") for i in range(LIMITS.patch_operations + 50)))
    operations = operations_to(many, other)
    assert len(operations) <= LIMITS.patch_operations
    assert revise(ir_of(many), operations).ir.workflow == ir_of(other).workflow
    assert operations_to(CHAIN, CHAIN) == []
    assert operations_to({"x": 1}, {"x": True}) != [] and operations_to({"x": [1]}, {"x": [True]}) != []


def test_a_large_workflow_can_be_restored():
    large = flow(agent("a"), task("b"))
    large["nodes"][0]["config"]["prompt"] = "x" * (LIMITS.patch_bytes + 1)
    small = revise(ir_of(large), [set_to("/nodes/a/config/prompt", "y")]).ir
    assert restore(small, large).ir.workflow == ir_of(large).workflow


# -- from the events -----------------------------------------------------------------------------------
def patched(seq, operations, **data):
    return Event("run_1", seq, "run_patched", 0, "", "", "", {"operations": operations, **data})


def test_the_events_lead_to_the_ir():
    first = ir_of(CHAIN)
    one, two = [add("/nodes/-", task("c"))], [add("/edges/-", {"from": "b", "to": "c"})]
    after = revise(revise(first, one).ir, two, patched=Patched({"c": 1}, 2)).ir
    events = [patched(2, one), Event("run_1", 3, "task_started", 0, "a", "run_1.1", "", {}),
              patched(4, two, agents={"depths": {"c": 1}, "calls": 2})]  # fmt: skip
    assert ir_after(first, events).text == after.text
    assert ir_after(first, []) is first
    assert ir_after(first, events[:1]).text == revise(first, one).ir.text


def test_difference_of_one_and_the_same():
    ir = ir_of(DIAMOND)
    found = difference(ir, ir)
    assert not any((found.added, found.removed, found.changed, found.gone, found.redefined, found.loops))
