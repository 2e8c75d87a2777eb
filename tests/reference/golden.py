"""Workflows with what they must do, by hand from routing.md: its shapes, and its table of `iteration`."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from tests.reference import orders
from tests.reference.records import Choose, Completed, Execution, Failed, OutcomeOf

Node = dict[str, Any]
Workflow = dict[str, Any]
INPUT = {"text": "t", "long": False}


# Writing workflows down


def task(name: str, *after: str, **fields: Any) -> Node:
    config = {
        "handler": "scripted",
        "args": {"node": name, "output": "{{ output }}", "iteration": "{{ iteration }}"},
    }
    return {"id": name, "type": "function", "config": config, "after": after, **fields}


def join(name: str, *after: str) -> Node:
    return {"id": name, "type": "join", "config": {}, "after": after}


def loop(name: str, back: str, done: str, test: str = "output.again", passes: int = 3, **config: Any) -> Node:
    config |= {"condition": cel(test), "loop_back_to": back, "max_iterations": passes, "break_path": [done]}
    return {"id": name, "type": "loop", "config": config, "after": ()}


def branch(name: str, test: str, then: list[str], **config: Any) -> Node:
    config |= {"rules": [{"condition": cel(test), "next": then}]}
    return {"id": name, "type": "branch", "config": config, "after": ()}


def cel(expression: str) -> dict[str, str]:
    return {"type": "cel", "expression": expression}


def flow(*nodes: Node) -> Workflow:
    """A workflow of nodes that name what comes after them; `name?test` is an edge with a condition."""
    edges: list[dict[str, Any]] = []
    for node in nodes:
        for target, _, test in (after.partition("?") for after in node["after"]):
            edges.append({"from": node["id"], "to": target} | ({"condition": cel(test)} if test else {}))
    plain = [{key: value for key, value in node.items() if key != "after"} for node in nodes]
    return {"id": "golden", "nodes": plain, "edges": edges}


def says(**by_node: Callable[[int], Any]) -> OutcomeOf:
    """node -> iteration -> its value, or a Failed; any other node answers {"from": node, "pass": n}."""

    def outcome_of(node: str, attempt: int, iteration: int, output: Any) -> Completed | Failed:
        value = by_node[node](iteration) if node in by_node else {"from": node, "pass": iteration}
        return value if isinstance(value, Failed) else Completed(value)

    return outcome_of


# What must happen


def step(one: Execution) -> str:
    """An execution as a trace has it: "node:iteration", in an item "node:iteration/index"."""
    items = ".".join(part.rpartition("-")[2] for part in one.path.split("."))
    return f"{one.node}:{one.iteration}{'/' if items else ''}{items}"


@dataclass(frozen=True)
class Golden:
    """`trace`: "node:iteration" of each execution in the order that `choose` gives; in others the same ones.
    `output`: the run's output. `loop_counts` at the end.
    """

    workflow: Workflow
    trace: str
    output: Any
    outcome_of: OutcomeOf = field(default_factory=says)
    choose: Choose = orders.first
    loop_counts: dict[str, int] = field(default_factory=dict)


END = {"from": "end", "pass": 0}

SHAPE_1 = flow(
    task("h", "slow", "b1", "c1", "b2", "c2"), task("slow", "L"),
    task("b1", "j1"), task("c1", "j1"), join("j1", "k1"), task("k1", "L"),
    task("b2", "j2"), task("c2", "j2"), join("j2", "k2"), task("k2", "L"),
    loop("L", back="h", done="end", test="iteration < 2"), task("end"),
)  # fmt: skip

SHAPE_2 = flow(
    task("h", "arm", "w"), task("arm", "L", on_error=["sorry"]), task("sorry"),
    loop("w", back="w1", done="L", test="iteration < 1"), task("w1", "w"),
    loop("L", back="h", done="end", test="iteration < 2"), task("end"),
)  # fmt: skip

SHAPE_3 = flow(
    task("o", "h"), task("h", "inner"), loop("inner", back="h", done="outer", test="iteration < 2"),
    loop("outer", back="o", done="end", test="iteration < 2"), task("end"),
)  # fmt: skip

SHAPE_4 = flow(task("draft", "check"), loop("check", back="draft", done="end"), task("end"))

SHAPE_8 = flow(task("a", "b", "c"), task("b", "j"), task("c", "j"), join("j"))

# h does not dominate L, nor L h: the way past h comes to L too, and that counts as a pass.
FORM_3 = flow(
    branch("way", "input.long", ["h"], default=["side"]), task("side", "L"), task("h", "L"),
    loop("L", back="h", done="end", test="iteration < 2"), task("end"),
)  # fmt: skip

# L lies in K and K in L: neither starts the other afresh, or they would go round for ever.
EACH_IN_THE_OTHER = flow(
    task("a", "K"), loop("K", back="a", done="L", test="true"), task("b", "K"),
    loop("L", back="b", done="end", test="true"), task("end"),
)  # fmt: skip

GOLDEN = {
    "1: a join waits for its own arms, not for what reaches it in the next pass": Golden(
        SHAPE_1,
        "h:0 b1:0 c1:0 b2:0 c2:0 j1:0 j2:0 k1:0 k2:0 slow:0 L:1 "
        "h:1 b1:1 c1:1 b2:1 c2:1 j1:1 j2:1 k1:1 k2:1 slow:1 L:2 end:0",
        END,
        choose=orders.starving("slow"),
        loop_counts={"L": 2},
    ),
    "2: what leaves a loop early waits until the loop is over, then fires once": Golden(
        SHAPE_2,
        "h:0 arm:0 w:0 w1:0 w:1 L:1 h:1 arm:1 w:0 w1:0 w:1 L:2 sorry:0 end:0",
        {"sorry": {"from": "sorry", "pass": 0}, "end": END},
        says(arm=lambda i: Failed("too_large", f"pass {i}")),
        loop_counts={"L": 2, "w": 1},
    ),
    "3: an inner loop starts afresh in each outer pass": Golden(
        SHAPE_3,
        "o:0 h:0 inner:1 h:1 inner:2 outer:1 o:1 h:0 inner:1 h:1 inner:2 outer:2 end:0",
        END,
        loop_counts={"outer": 2, "inner": 2},
    ),
    "4: a loop that nothing else enters starts at its target": Golden(
        SHAPE_4,
        "draft:0 check:1 draft:1 check:2 end:0",
        END,
        says(draft=lambda i: {"again": i < 1}),
        loop_counts={"check": 2},
    ),
    "8: a join fires once, whoever comes last": Golden(
        SHAPE_8, "a:0 b:0 c:0 j:0", {"b": {"from": "b", "pass": 0}, "c": {"from": "c", "pass": 0}}
    ),
    "form 3 counts every arrival": Golden(FORM_3, "way:0 side:0 L:1 h:1 L:2 end:0", END, loop_counts={"L": 2}),
    "loops that lie in each other do not start each other afresh": Golden(
        EACH_IN_THE_OTHER,
        "a:0 K:1 a:1 K:2 a:2 K:3 L:1 b:3 K:4 L:2 b:4 K:5 L:3 end:0",
        END,
        loop_counts={"K": 5, "L": 3},
    ),
}

REFUSED = {
    "5: a break_path that points backwards": (1, flow(task("a", "b"), task("b", "L"), loop("L", "b", "a"))),
    "6: passes that overlap": (
        4,
        flow(task("h", "L1", "p"), task("p", "L2"), loop("L1", "h", "end"), loop("L2", "h", "end"), task("end")),
    ),
    "7: a side exit": (5, flow(task("a", "x", "L"), task("x"), loop("L", "a", "end"), task("end"))),
    "a cycle that no entry reaches": (1, flow(task("a"), task("b", "c"), task("c", "b"))),
    "a loop that does not lead back": (2, flow(task("a", "L"), loop("L", "b", "b"), task("b"))),
    "a loop that is join: any": (
        6,
        flow(task("a", "L"), {**loop("L", "a", "b"), "join": "any"}, task("b")),
    ),
    "reading the output of a parallel node": (
        7,
        flow(task("a", "b", "c"), task("b", "d?ctx.c.output.k == 1"), task("c", "d"), task("d")),
    ),
}

# The table of `iteration`: what the condition of L finds at each pass (None: it errs) -> the trace

DO_WHILE = flow(task("h", "L"), loop("L", back="h", done="done", timeout_path=["late"]), task("done"), task("late"))
WHILE = flow(
    task("start", "L"), loop("L", back="h", done="done", timeout_path=["late"]), task("h", "L"),
    task("done"), task("late"),
)  # fmt: skip

DO_WHILE_PASSES: list[tuple[list[bool | None], str]] = [
    ([True, True, True], "h:0 L:1 h:1 L:2 h:2 L:3 late:0"),
    ([True, True, False], "h:0 L:1 h:1 L:2 h:2 L:3 done:0"),
    ([True, True, None], "h:0 L:1 h:1 L:2 h:2 L:3 done:0"),
    ([True, False], "h:0 L:1 h:1 L:2 done:0"),
    ([True, None], "h:0 L:1 h:1 L:2 done:0"),
    ([False], "h:0 L:1 done:0"),
    ([None], "h:0 L:1 done:0"),
]
WHILE_PASSES: list[tuple[list[bool | None], str]] = [
    ([True, True, True, True], "start:0 L:0 h:0 L:1 h:1 L:2 h:2 L:3 late:0"),
    ([True, True, True, False], "start:0 L:0 h:0 L:1 h:1 L:2 h:2 L:3 done:0"),
    ([True, None], "start:0 L:0 h:0 L:1 done:0"),
    ([False], "start:0 L:0 done:0"),
]
