"""Patches of runs under way, with what must come of them, by hand."""

from dataclasses import dataclass, field
from typing import Any

from tests.reference.golden import END, INPUT, Workflow, flow, join, loop, says, task
from tests.reference.golden_maps import each, names
from tests.reference.records import OutcomeOf


@dataclass(frozen=True)
class GoldenPatch:
    """`before`: "node:iteration" of each execution before the patch, in this order. Those of `after` follow in any
    order; `output` and `loop_counts` are those at the end. The run is patched with `cancel` and `restart`.
    """

    workflow: Workflow
    before: str
    patched: Workflow
    after: str
    output: Any
    outcome_of: OutcomeOf = field(default_factory=says)
    cancel: bool = False
    restart: bool = False
    loop_counts: dict[str, int] = field(default_factory=dict)


FROM_A = ["a", INPUT]
FROM_B, FROM_C, FROM_D = ["b", FROM_A], ["c", FROM_A], ["d", FROM_A]

TWO_ARMS = flow(task("a", "b", "c"), task("b", "j"), task("c", "j"), join("j", "z"), task("z"))
THREE_ARMS = flow(task("a", "b", "c", "d"), task("b", "k"), task("c", "k"), task("d", "k"), task("k"))
INNER_AND_OUTER = flow(
    task("o", "h"), task("h", "inner"), loop("inner", back="h", done="outer", test="iteration < 2"),
    loop("outer", back="o", done="end", test="iteration < 2"), task("end"),
)  # fmt: skip
TWICE = flow(task("h", "L"), loop("L", back="h", done="end", test="iteration < 2"), task("end"))
ITEMS = '["x", "y"]'
BESIDE_A_MAP = flow(task("a", "m", "b"), each("m", ITEMS, task("p"), after=("j",)), task("b", "j"), join("j"))


GOLDEN_PATCHES = {
    "a join that waits gets a predecessor more, and waits for it": GoldenPatch(
        TWO_ARMS,
        "a:0 b:0",
        flow(task("a", "b", "c"), task("b", "j"), task("c", "j", "d"), task("d", "j"), join("j", "z"), task("z")),
        "c:0 d:0 j:0 z:0",
        ["z", {"b": FROM_B, "c": FROM_C, "d": ["d", FROM_C]}],
        names,
    ),
    "a node behind a finished one is not reached, and no join waits for it": GoldenPatch(
        TWO_ARMS,
        "a:0 b:0",
        flow(task("a", "b", "c"), task("b", "d"), task("d", "j"), task("c", "j"), join("j", "z"), task("z")),
        "c:0 j:0 z:0",
        ["z", {"b": FROM_B, "c": FROM_C}],
        names,
    ),
    "a join that has fired gets a predecessor that still runs, and fires again": GoldenPatch(
        flow(task("a", "b", "c", "d"), task("b", "j"), task("c", "j"), task("d"), join("j", "z"), task("z")),
        "a:0 b:0 c:0 j:0",
        flow(task("a", "b", "c", "d"), task("b", "j"), task("c", "j"), task("d", "j"), join("j", "z"), task("z")),
        "z:0 d:0 j:0 z:0",
        ["z", {"d": FROM_D}],
        names,
    ),
    "a node added to an inner loop during the second pass of the outer one": GoldenPatch(
        INNER_AND_OUTER,
        "o:0 h:0 inner:1 h:1 inner:2 outer:1 o:1",
        flow(
            task("o", "h"),
            task("h", "n"),
            task("n", "inner"),
            loop("inner", back="h", done="outer", test="iteration < 2"),
            loop("outer", back="o", done="end", test="iteration < 2"),
            task("end"),
        ),
        "h:0 n:0 inner:1 h:1 n:1 inner:2 outer:2 end:0",
        END,
        loop_counts={"outer": 2, "inner": 2},
    ),
    "more passes, while the loop is in its last": GoldenPatch(
        TWICE,
        "h:0 L:1",
        flow(task("h", "L"), loop("L", back="h", done="end", test="iteration < 3"), task("end")),
        "h:1 L:2 h:2 L:3 end:0",
        END,
        loop_counts={"L": 3},
    ),
    "a loop that is gone: what was in it keeps its iteration, and nothing is counted any more": GoldenPatch(
        TWICE,
        "h:0 L:1",
        flow(task("h", "end"), task("end")),
        "h:1 end:0",
        END,
    ),
    "a middle node is removed with its token, and a path ends there": GoldenPatch(
        flow(task("a", "b"), task("b", "c"), task("c")),
        "a:0",
        flow(task("a", "c"), task("c")),
        "",
        {},
        cancel=True,
    ),
    "an arm is removed with its token, and the join fires without it": GoldenPatch(
        TWO_ARMS,
        "a:0 b:0",
        flow(task("a", "b"), task("b", "j"), join("j", "z"), task("z")),
        "j:0 z:0",
        ["z", {"b": FROM_B}],
        names,
        cancel=True,
    ),
    "a waiting node waits no more: it fires at once": GoldenPatch(
        TWO_ARMS,
        "a:0 b:0",
        flow(task("a", "b", "c"), task("b", "j"), task("c", "y"), join("j", "z"), task("z"), task("y")),
        "j:0 z:0 c:0 y:0",
        {"z": ["z", {"b": FROM_B}], "y": ["y", FROM_C]},
        names,
    ),
    "a waiting node becomes `join: any`: it fires with what has arrived, and for each arrival": GoldenPatch(
        THREE_ARMS,
        "a:0 b:0 c:0",
        flow(task("a", "b", "c", "d"), task("b", "k"), task("c", "k"), task("d", "k"), task("k", join="any")),
        "k:0 d:0 k:0",
        ["k", FROM_D],
        names,
    ),
    "a map's items: those alive go on by the new sub-graph, those that start later start in it": GoldenPatch(
        flow(each("m", ITEMS, task("p", "q"), task("q"), max_parallel=1)),
        "p:0/0",
        flow(each("m", ITEMS, task("e", "p"), task("p", "q"), task("q", "r"), task("r"), max_parallel=1)),
        "q:0/0 r:0/0 e:0/1 p:0/1 q:0/1 r:0/1 m:0",
        [["r", ["q", ["p", "x"]]], ["r", ["q", ["p", ["e", "y"]]]]],
        names,
    ),
    "a node of a sub-graph is removed: an item with nothing left ends with its exit's output, else null": GoldenPatch(
        flow(each("m", '["x", "y", "z"]', task("p", "q"), task("q", "r"), task("r"), max_parallel=2)),
        "p:0/0 p:0/1 q:0/1",
        flow(each("m", '["x", "y", "z"]', task("p", "r"), task("r"), max_parallel=2)),
        "r:0/1 p:0/2 r:0/2 m:0",
        [None, ["r", ["q", ["p", "y"]]], ["r", ["p", "z"]]],
        names,
        cancel=True,
    ),
    "a map is removed, its items with it": GoldenPatch(
        BESIDE_A_MAP,
        "a:0 p:0/0",
        flow(task("a", "b"), task("b", "j"), join("j")),
        "b:0 j:0",
        {"b": FROM_B},
        names,
        cancel=True,
    ),
    "a new max_parallel counts from now on": GoldenPatch(
        flow(each("m", '["x", "y", "z"]', task("p", "q"), task("q"), max_parallel=1)),
        "p:0/0",
        flow(each("m", '["x", "y", "z"]', task("p", "q"), task("q"), max_parallel=3)),
        "q:0/0 p:0/1 q:0/1 p:0/2 q:0/2 m:0",
        [["q", ["p", "x"]], ["q", ["p", "y"]], ["q", ["p", "z"]]],
        names,
    ),
    "a queued task of another type now starts under it": GoldenPatch(
        flow(task("a", "b"), task("b", "c"), task("c")),
        "a:0",
        flow(task("a", "b"), join("b", "c"), task("c")),
        "b:0 c:0",
        ["c", {"a": FROM_A}],
        names,
    ),
}
