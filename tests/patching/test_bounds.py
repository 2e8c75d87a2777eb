"""The bounds of `apply_patch`: each with its code, and a sentence that names the limit."""

from __future__ import annotations

import time
import tracemalloc
from dataclasses import replace
from typing import Any

import orjson
import pytest

from schemas.limits import LIMITS
from schemas.patch import apply_patch
from tests.patching.refusals import problem
from tests.patching.rfc6902_cases import op


def nested(depth: int, inner: Any = 1) -> Any:
    for _ in range(depth):
        inner = [inner]
    return inner


def test_too_many_operations() -> None:
    made = [op("add", "/a", 1)] * 100
    assert apply_patch({}, made) == {"a": 1}
    found = problem({}, [*made, op("add", "/a", 1)])
    assert (found.path, found.code) == ("/operations", "too-many-operations")
    assert "100 operations (limit patch_operations), not 101" in found.message
    assert problem({}, [[]] * 1_000_000).code == "too-many-operations"


@pytest.mark.parametrize("value", ["x", "é", [1], {"k": 1}], ids=str)
def test_too_many_bytes(value: Any) -> None:
    def made(count: int) -> list[Any]:
        return [op("add", "/a", [value] * 100), op("add", "/b", "x" * count)]

    rest = LIMITS.patch_bytes - len(orjson.dumps(made(0)))
    assert apply_patch({}, made(rest))["b"] == "x" * rest
    found = problem({}, made(rest + 1))
    assert (found.path, found.code) == ("/operations", "patch-too-large")
    assert "the limit patch_bytes is 256000" in found.message
    assert problem({}, made(10_000_000)).code == "patch-too-large"


def test_members_that_are_ignored_count_too() -> None:
    assert problem({}, [op("add", "/a", 1) | {"note": "x" * 256_000}]).code == "patch-too-large"


def test_a_value_that_is_too_deep() -> None:
    for depth in (67, 300, 10_000, 100_000):
        found = problem({}, [op("add", "/a", nested(depth))])
        assert found.code == "too-deep"
        assert found.path.startswith("/operations/0/value/0/0")
        assert "the limit json_depth is 64" in found.message


def test_a_result_that_is_too_deep() -> None:
    """The root is at no depth: 64 steps lead to the innermost value, as in a document that is submitted."""
    assert apply_patch({}, [op("add", "/a", nested(63))]) == {"a": nested(63)}
    found = problem({}, [op("add", "/a", nested(64))])
    assert (found.path, found.code) == ("/operations", "too-deep")
    assert apply_patch({}, [op("add", "/a", nested(63, []))]) == {"a": nested(63, [])}
    assert apply_patch({}, [op("add", "", {"a": nested(63)})]) == {"a": nested(63)}


@pytest.mark.parametrize("name", ["copy", "move"])
def test_depth_by_many_operations(name: str) -> None:
    document = {"d": [nested(50, []) for _ in range(100)], "e": []}
    inmost = "/d/0" + "/0" * 50 + "/-"
    for count in (1, 3, 10, 60):
        operations = []
        for _ in range(count):
            operations.append(op(name, inmost, source="/d/1"))
            inmost = inmost[:-1] + "0" + "/0" * 50 + "/-"
        found = problem(document, operations)
        assert found.code == "too-deep" and "json_depth" in found.message
        inmost = "/d/0" + "/0" * 50 + "/-"
    assert (
        problem(document, [op(name, inmost, source="/d/1"), op("copy", "/e/-", source="/d/0")] * 50).code == "too-deep"
    )


@pytest.mark.parametrize(
    "last", [op("copy", "/e", source="/d/0"), op("remove", "/d"), op("test", "/d", 1), op("add", "/d", 1)]
)
def test_what_is_hundreds_of_levels_deep_is_not_measured(last: dict[str, Any]) -> None:
    document = {"id": "w", "d": [nested(50, []) for _ in range(10)]}
    # What has grown goes into another one: pointers stay short.
    deep = [op("move", f"/d/{1 - place}" + "/0" * 50 + "/-", source=f"/d/{place}") for place in (0, 1) * 4]
    found = problem(document, [*deep, last])
    assert found.path.startswith("/operations/8/") and found.code == "too-deep"


def test_a_document_may_be_too_deep_on_the_way() -> None:
    document = {"id": "w", "d": [nested(50, []) for _ in range(10)]}
    deep = op("move", "/d/0" + "/0" * 50 + "/-", source="/d/1")
    assert problem(document, [deep]).code == "too-deep"
    assert apply_patch(document, [deep, op("remove", "/d")]) == {"id": "w"}


@pytest.mark.parametrize("path", ["/pad/-", "/pad/0", "/x", "/pad/0/y"])
def test_a_copy_bomb(path: str) -> None:
    document = {"id": "w", "pad": [{"a": "x" * 100} for _ in range(10)]}
    operations = [op("copy", path, source="/pad" if path != "/x" else "") for _ in range(100)]
    tracemalloc.start()
    try:
        found = problem(document, operations, json_depth=200)
        assert tracemalloc.get_traced_memory()[1] < 20_000_000
    finally:
        tracemalloc.stop()
    assert found.code in ("too-large", "too-much-copied")
    assert "workflow_bytes" in found.message


def test_copies_that_are_removed_again_are_bounded_in_all() -> None:
    document = {"id": "w", "pad": "x" * 100_000}
    pair = [op("copy", "/b", source="/pad"), op("remove", "/b")]
    assert apply_patch(document, pair * 9) == document
    found = problem(document, pair * 10)
    assert (found.path, found.code) == ("/operations/18/from", "too-much-copied")
    assert "1000000 bytes in all (limit workflow_bytes)" in found.message


def test_a_result_that_is_too_large() -> None:
    document = {"id": "w", "pad": "x" * 900_000}
    found = problem(document, [op("test", "/id", "w"), op("add", "/more", "y" * 100_000)])
    assert (found.path, found.code) == ("/operations/1/path", "too-large")
    assert "the limit workflow_bytes is 1000000" in found.message
    assert len(apply_patch(document, [op("replace", "/pad", "z"), op("add", "/more", "y" * 200_000)])) == 3


@pytest.mark.parametrize("key", ["", "k", "é", "😀", 'q"', "\n", "/"])
def test_the_size_counts_keys_as_they_are_written(key: str) -> None:
    document = {"id": "w", "d": {}}
    place = "/d/" + key.replace("/", "~1")
    for operations in ([op("add", place, [1])], [op("add", "/d/x", 1), op("move", place, source="/d/x")]):
        size = max(len(orjson.dumps(apply_patch(document, operations[: n + 1]))) for n in range(len(operations)))
        apply_patch(document, operations, replace(LIMITS, workflow_bytes=size))
        assert problem(document, operations, workflow_bytes=size - 1).code == "too-large"


def test_a_document_that_has_more_may_shrink() -> None:
    """One that came as YAML with aliases may have more bytes as JSON than it had as text."""
    document = {"id": "w", "pad": ["x" * 10] * 100_000}
    assert len(apply_patch(document, [op("remove", "/pad/0")])["pad"]) == 99_999
    assert problem(document, [op("add", "/pad/0", "")]).code == "too-large"


@pytest.mark.parametrize("source", ["/pad", "/big"])
def test_what_takes_the_longest(source: str) -> None:
    """Legal patches at their bounds. A tenth of a second alone; several times that beside other tests."""
    document = {"id": "w", "pad": [[] for _ in range(100_000)], "big": [[[]] for _ in range(60_000)], "e": {}}
    moves = [op("move", "/e/a" if n % 2 == 0 else source, source=source if n % 2 == 0 else "/e/a") for n in range(98)]
    operations = [*moves, op("add", "/v", [[]] * 80_000)]
    began = time.process_time()
    apply_patch(document, operations)
    assert time.process_time() - began < 2


@pytest.mark.parametrize(
    ("value", "code"),
    [
        ("\ud800", "bad-text"),
        ({"\udfff": 1}, "bad-key"),
        ("\0", "bad-text"),
        ({"a\0": 1}, "bad-key"),
        ({1: 2}, "bad-key"),
        (2**64, "not-json"),
        (10**5000, "not-json"),
        (float("nan"), "not-json"),
        (float("inf"), "not-json"),
        (b"x", "not-json"),
        ({1, 2}, "not-json"),
        (object, "not-json"),
    ],
    ids=lambda value: ascii(value)[:30] if not isinstance(value, int) else "",
)
@pytest.mark.parametrize("name", ["add", "replace", "test"])
def test_values_that_are_no_json(name: str, value: Any, code: str) -> None:
    found = problem({"a": 1}, [op(name, "/a", [value])])
    assert (found.path, found.code) == ("/operations/0/value/0", code)
    assert problem({"a": 1}, [op(name, "/a", 1) | {"note": value}]).code == code


@pytest.mark.parametrize("text", ["/a\0", "/\ud800", "/nodes/\udfff"])
def test_pointers_that_are_no_text(text: str) -> None:
    assert problem({"a": 1}, [op("remove", text)]).code == "bad-text"
    assert problem({"a": 1}, [op("copy", "/b", source=text)]).path == "/operations/0/from"


def test_long_pointers() -> None:
    for path, code in {
        "/" * 250_000: "too-deep", "/a" * 120_000: "too-deep", "/a" * 64: "not-found", "/" + "k" * 250_000: "not-found",
        "/l/" + "1" * 250_000: "bad-index", "/l/" + "~1" * 120_000: "bad-index",
    }.items():  # fmt: skip
        found = problem({"l": [1], "a": {}}, [op("remove", path)])
        assert found.code == code
        assert len(found.message) < 600


@pytest.mark.parametrize("path", ["/id", ""])
def test_the_id_can_not_be_changed(path: str) -> None:
    document = {"id": "w", "a": 1}
    other = op("replace", path, "v" if path else {"id": "v"})
    back = op("add", path, "w" if path else document)
    found = problem(document, [op("test", "/a", 1), other, op("test", "/id", "v")])
    assert (found.path, found.code) == ("/operations/1/path", "id-changed")
    assert problem(document, [op("remove", "/id")]).code == "id-changed"
    assert apply_patch(document, [other, back, op("add", "/b", 2)])["id"] == "w"
    assert problem(document, [other, back, op("remove", "/id")]).path == "/operations/2/path"
