"""Maps with what they must do, by hand from routing.md. In a trace `q:0/1.2` is q in item 2 of a map in item 1."""

from typing import Any

from tests.reference import orders
from tests.reference.golden import Golden, Node, flow, join, loop, task
from tests.reference.interpreter import Completed, Failed


def each(name: str, items: str, *nodes: Node, after: tuple[str, ...] = (), **fields: Any) -> Node:
    """A map whose sub-graph is made of `nodes`; `fields` are those of its config, and `on_error`."""
    node = {"on_error": fields.pop("on_error")} if "on_error" in fields else {}
    graph = flow(*nodes)
    config = {"items": items, "nodes": graph["nodes"], "edges": graph["edges"], **fields}
    return {"id": name, "type": "map", "config": config, "after": after, **node}


def names(node: str, attempt: int, iteration: int, output: Any) -> Completed | Failed:
    """Each task gives its name with what arrived; a `bad` one fails when "no" arrives."""
    if node == "bad" and output == "no":
        return Failed("too_large", "no")
    return Completed([node, output])


def lists(node: str, attempt: int, iteration: int, output: Any) -> Completed:
    """`make` gives one item in its first pass, and none in the next."""
    return Completed({"list": [[7], []][iteration]} if node == "make" else {"from": node})


def error(node: str, klass: str, message: str) -> dict[str, Any]:
    return {"error": {"class": klass, "message": message, "attempts": 1, "node": node}}


IN_ORDER = flow(
    task("a", "m"),
    each("m", '["x", "y"]', task("p", "q"), task("q"), after=("z",)),
    task("z"),
)  # fmt: skip

ONE_AT_A_TIME = flow(
    each("m", '["x", "y", "z"]', task("p", "q"), task("q"), max_parallel=1),
)  # fmt: skip

COLLECT = flow(
    each("m", '["x", "no", "y"]', task("bad", "q"), task("q"), max_parallel=1, on_item_error="collect", after=("z",)),
    task("z"),
)  # fmt: skip

TAKEN_OVER = flow(
    task("a", "m", "b"),
    each("m", '["no"]', task("bad"), after=("j",), on_error=["sorry"]),
    task("sorry", "j"), task("b", "j"), join("j"),
)  # fmt: skip

# The item 2 ends before it reaches `q`: its result is null. The join waits for the map as for any node.
BEFORE_A_JOIN = flow(
    task("a", "m", "b"),
    each("m", "[1, 2]", {**task("p", "q?index == 0")}, task("q"), after=("j",)),
    task("b", "j"), join("j", "z"), task("z"),
)  # fmt: skip

# In the second pass the map has no items: its result is [], at once.
IN_A_LOOP = flow(
    task("make", "m"),
    each("m", "output.list", task("p"), after=("L",)),
    loop("L", back="make", done="end", test="iteration < 2"), task("end"),
)  # fmt: skip

NESTED = flow(
    each(
        "m", "[[1, 2], []]",
        task("p", "inner"), each("inner", "item", task("q"), after=("r",)), task("r"),
    ),
)  # fmt: skip

# Each item has its own passes, its own joins and its own `ctx`.
LOOPS_AND_JOINS_INSIDE = flow(
    each(
        "m", "[3, 1]",
        task("h", "b", "c"), task("b", "j"), task("c", "j"), join("j", "L"),
        loop("L", back="h", done="x", test="iteration < item", passes=2), task("x"),
        max_parallel=1,
    ),
)  # fmt: skip

PASS = "h:{0}/{1} b:{0}/{1} c:{0}/{1} j:{0}/{1} L:{2}/{1}"

GOLDEN_MAPS = {
    "results come in item order": Golden(
        IN_ORDER,
        "a:0 p:0/1 q:0/1 p:0/0 q:0/0 m:0 z:0",
        ["z", [["q", ["p", "x"]], ["q", ["p", "y"]]]],
        names,
        choose=orders.last,
    ),
    "max_parallel: an item starts when another is over": Golden(
        ONE_AT_A_TIME,
        "p:0/0 q:0/0 p:0/1 q:0/1 p:0/2 q:0/2 m:0",
        [["q", ["p", "x"]], ["q", ["p", "y"]], ["q", ["p", "z"]]],
        names,
    ),
    "collect: an item that fails has its error as its result": Golden(
        COLLECT,
        "bad:0/0 q:0/0 bad:0/1 bad:0/2 q:0/2 m:0 z:0",
        ["z", [["q", ["bad", "x"]], error("bad", "too_large", "no"), ["q", ["bad", "y"]]]],
        names,
    ),
    "fail: on_error of the map takes over": Golden(
        TAKEN_OVER,
        "a:0 b:0 bad:0/0 m:0 sorry:0 j:0",
        {"b": ["b", ["a", {"long": False, "text": "t"}]], "sorry": ["sorry", error("m", "item", "an item failed")]},
        names,
    ),
    "a map in a parallel part, one item ends early": Golden(
        BEFORE_A_JOIN,
        "a:0 b:0 p:0/0 p:0/1 q:0/0 m:0 j:0 z:0",
        ["z", {"m": [["q", ["p", 1]], None], "b": ["b", ["a", {"long": False, "text": "t"}]]}],
        names,
    ),
    "a map in a loop, and no items": Golden(
        IN_A_LOOP,
        "make:0 p:0/0 m:0 L:1 make:1 m:1 L:2 end:0",
        {"from": "end"},
        lists,
        loop_counts={"L": 2},
    ),
    "nested maps": Golden(
        NESTED,
        "p:0/0 p:0/1 inner:0/1 q:0/0.0 q:0/0.1 inner:0/0 r:0/1 r:0/0 m:0",
        [["r", [["q", 1], ["q", 2]]], ["r", []]],
        names,
    ),
    "loops and joins inside a map": Golden(
        LOOPS_AND_JOINS_INSIDE,
        f"{PASS.format(0, 0, 1)} {PASS.format(1, 0, 2)} x:0/0 {PASS.format(0, 1, 1)} x:0/1 m:0",
        [
            ["x", {"b": ["b", ["h", {"b": ["b", ["h", 3]], "c": ["c", ["h", 3]]}]],
                   "c": ["c", ["h", {"b": ["b", ["h", 3]], "c": ["c", ["h", 3]]}]]}],
            ["x", {"b": ["b", ["h", 1]], "c": ["c", ["h", 1]]}],
        ],
        names,
    ),
}  # fmt: skip
