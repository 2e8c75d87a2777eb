"""Maps: items, their scripts, and what is said of them."""

from __future__ import annotations

from typing import Any

from tests.rehearsal.stories import Document, function, play, transform, workflow


def mapped(*nodes: Document, edges: Any = (), **config: Any) -> Document:
    pairs = [{"from": a, "to": b} for a, b in (edge.split(" -> ") for edge in edges)]
    inner = {"items": "input.xs", "nodes": list(nodes), "edges": pairs, **config}
    return workflow({"id": "m", "type": "map", "config": inner})


GRADED = mapped(
    function("grade", args={"x": "{{ item }}"}, retry={"backoff_ms": 10}),
    transform("double", n="output * 2"),
    edges=["grade -> double"],
)


async def test_items_take_the_replies_in_their_order() -> None:
    played = await play(GRADED, input={"xs": ["a", "b", "c"]}, outputs={"grade": [1, 2, 3]}, expect={
        "output": [{"n": 2}, {"n": 4}, {"n": 6}], "path": ["m"], "times": {"grade": 3},
        "outputs": {"grade": [1, 2, 3]}, "where": "took_ms == 0",
    })  # fmt: skip
    assert played.passed, (played.fault, played.differences)


async def test_items_are_named_by_index_and_by_what_they_are() -> None:
    outputs = {"grade": [{"item": 1, "output": 10}, {"when": "item == 'c'", "output": 20}, 0]}
    played = await play(GRADED, input={"xs": ["a", "b", "c", "d"]}, outputs=outputs,
                        expect={"outputs": {"grade": [0, 10, 20, 0]}})  # fmt: skip
    assert played.passed, (played.fault, played.differences)


async def test_an_item_that_fails_once() -> None:
    outputs = {"grade": [{"item": 1, "attempt": 1, "error": "rate_limit"}, 5]}
    played = await play(GRADED, input={"xs": [1, 2]}, outputs=outputs, expect={"attempts": {"grade": 3}})
    assert played.passed, (played.fault, played.differences)


async def test_an_item_that_fails_for_good() -> None:
    outputs = {"grade": [{"item": 1, "error": "permanent"}, 5]}
    wanted = {"class": "item", "message": "item 1"}
    failed = await play(GRADED, input={"xs": [1, 2]}, outputs=outputs, expect={"error": wanted})
    assert failed.passed, (failed.fault, failed.differences)
    collecting = mapped(function("grade"), on_item_error="collect")
    collected = await play(collecting, input={"xs": [1, 2, 3]}, outputs=outputs,
                           expect={"output": [5, {"error": {"class": "permanent"}}, 5]})  # fmt: skip
    assert collected.passed, (collected.fault, collected.differences)


async def test_no_items() -> None:
    played = await play(GRADED, input={"xs": []}, expect={"output": [], "never": ["grade"]})
    assert played.passed, (played.fault, played.differences)


async def test_more_items_than_a_slice() -> None:
    document, items = mapped(function("grade"), max_parallel=3), list(range(250))
    played = await play(document, input={"xs": items}, outputs={"grade": 1}, expect={"times": {"grade": 250}})
    assert played.passed, (played.fault, played.differences)


async def test_a_map_in_a_map() -> None:
    inner = {"id": "n", "type": "map", "config": {"items": "item", "nodes": [function("f", args={"x": "{{ item }}"})]}}
    outputs = {"f": [{"when": "item == 4", "output": "four"}, {"item": 0, "output": "first"}, "x"]}
    played = await play(mapped(inner), input={"xs": [[1, 2], [3, 4, 5]]}, outputs=outputs, expect={
        "output": [["first", "x"], ["first", "four", "x"]], "outputs": {"f": ["first", "x", "first", "four", "x"]},
    })  # fmt: skip
    assert played.passed, (played.fault, played.differences)


async def test_of_a_map_that_was_executed_twice_the_newest_outputs_count() -> None:
    again = {"id": "again", "type": "loop", "config": {
        "condition": {"type": "cel", "expression": "iteration < 2"}, "loop_back_to": "m", "max_iterations": 3,
        "break_path": [],
    }}  # fmt: skip
    document = mapped(function("f"))
    document["nodes"].append(again)
    document["nodes"].append(function("begin"))
    document["edges"] = [{"from": "begin", "to": "m"}, {"from": "m", "to": "again"}]
    outputs = {"begin": 0, "f": [1, 2, 3, 4]}
    played = await play(document, input={"xs": [0, 0]}, outputs=outputs, expect={"outputs": {"f": [3, 4], "m": [3, 4]}})
    assert played.passed, (played.fault, played.differences)
