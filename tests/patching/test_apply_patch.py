"""`apply_patch`: RFC 6902 to the letter, by its cases and by random patches."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import jsonpatch
import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from schemas.errors import InvalidDocument
from schemas.limits import LIMITS
from schemas.patch import apply_patch
from tests.docs.pages import ROOT, page, rows
from tests.docs.sources import problem_codes
from tests.patching import naive
from tests.patching.refusals import problem, refused
from tests.patching.rfc6902_cases import CASES, VALUES, Case, Refused, inside, op

every_case = pytest.mark.parametrize("case", CASES, ids=[case[0][:80] for case in CASES])


# -- the RFC's cases ---------------------------------------------------------------------------------


def _check(document: Any, operations: list[dict[str, Any]], wanted: Any) -> None:
    before = copy.deepcopy((document, operations))
    if isinstance(wanted, Refused):
        assert problem(document, operations).code == wanted
    else:
        assert naive.canonical(apply_patch(document, operations)) == naive.canonical(wanted)
    assert (document, operations) == before


@every_case
def test_a_document(case: Case) -> None:
    _check(*case[1:])


@every_case
def test_a_member_of_a_document(case: Case) -> None:
    _, document, operations, wanted = case
    if wanted == "whole-document":
        wanted = {"id": "w"}
    elif not isinstance(wanted, Refused):
        wanted = {"id": "w", "d/~": wanted}
    _check({"id": "w", "d/~": document}, [inside(operation) for operation in operations], wanted)


@pytest.mark.parametrize("document", [[1], "a", 1, None], ids=str)
def test_the_result_must_be_an_object(document: Any) -> None:
    found = problem({}, [op("test", "", {}), op("replace", "", document)])
    assert (found.path, found.code) == ("/operations", "wrong-type")
    assert apply_patch({}, [op("replace", "", document), op("add", "", {"a": 1})]) == {"a": 1}


def test_the_places_of_faults_in_the_request() -> None:
    found = refused({}, [op("spam", "a"), 7, {"op": "move", "path": 1}, op("add", "/a"), {"op": ["add"], "path": ""}])
    assert [(fault.path, fault.code) for fault in found] == [
        ("/operations/0/op", "unknown-op"),
        ("/operations/0/path", "bad-pointer"),
        ("/operations/1", "wrong-type"),
        ("/operations/2/path", "wrong-type"),
        ("/operations/2", "missing-field"),
        ("/operations/3", "missing-field"),
        ("/operations/4/op", "unknown-op"),
    ]
    assert problem({"a": 1}, [op("test", "/a", 1), op("copy", "/b", source="/c")]).path == "/operations/1/from"
    assert problem({"a": 1}, [op("test", "/a", 1), op("copy", "/b/c", source="/a")]).path == "/operations/1/path"


@pytest.mark.parametrize("operations", [None, {}, "[]", b"[]", 1, {"op": "remove", "path": "/a"}, iter([])])
def test_operations_that_are_no_list(operations: Any) -> None:
    found = problem({"a": 1}, operations)
    assert (found.path, found.code) == ("/operations", "wrong-type")


def test_a_failed_test_shows_what_is_there() -> None:
    found = problem({"a": {"b": "x" * 1000}}, [op("test", "/a/b", 1)])
    assert found.message.startswith('The test of `/a/b` failed: there is "xxx')
    assert found.message.count("x") == 199
    assert "`/a/c`" in problem({"a": {}}, [op("test", "/a/c", 1)]).message


def test_a_replaced_key_keeps_its_place() -> None:
    document = {"id": "w", "a": 1, "b": 2}
    assert [*apply_patch(document, [op("replace", "/id", "w"), op("add", "/a", 3)])] == ["id", "a", "b"]


def test_later_operations_change_no_value_of_the_request() -> None:
    operations = [
        op("add", "/a", {"b": []}),
        op("add", "/a/b/-", 1),
        op("copy", "/c", source="/a"),
        op("remove", "/c/b"),
    ]
    before = copy.deepcopy(operations)
    assert apply_patch({}, operations) == {"a": {"b": [1]}, "c": {}}
    assert operations == before


# -- random patches ----------------------------------------------------------------------------------

_keys = st.sampled_from(["a", "b", "", "0", "1", "-", "~", "/", "~1", "é", 'q"', "\u2028", "😀"])
_scalars = st.sampled_from([None, True, False, 0, 1, -1, 1.0, 0.5, 1e300, 2**63, "", "a", "ü", "\n", '"']) | st.text(
    st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=3
)
values = st.recursive(
    _scalars, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(_keys, inner, max_size=4), max_leaves=12
)
documents = st.builds(lambda value: {"id": "w", "d": value}, values)


def pointers_of(value: Any, here: str = "") -> list[str]:
    members = value.items() if isinstance(value, dict) else enumerate(value if isinstance(value, list) else ())
    found = [here]
    for key, member in members:
        found += pointers_of(member, here + "/" + str(key).replace("~", "~0").replace("/", "~1"))
    return found


def _pointers(document: Any) -> st.SearchStrategy[str]:
    there = st.sampled_from(pointers_of(document))
    beside = st.builds(
        lambda path, last: path + last, there, st.sampled_from(["/a", "/-", "/0", "/1", "/2", "/", "/01"])
    )
    return there | beside


@st.composite
def patches(draw: st.DrawFn) -> tuple[Any, list[dict[str, Any]]]:
    """A document and operations, most of which can be carried out when it is their turn."""
    document = current = draw(documents)
    operations: list[dict[str, Any]] = []
    for _ in range(draw(st.integers(1, 8))):
        kind = draw(st.sampled_from(["add", "remove", "replace", "move", "copy", "test"]))
        path, source = draw(_pointers(current)), draw(_pointers(current))
        value = draw(values)
        if kind == "test" and draw(st.booleans()) and path in pointers_of(current):
            value = naive.found(current, path)
        operations.append({"op": kind, "path": path, "value": value, "from": source})
        try:
            current = naive.applied(current, operations[-1])
        except naive.Failed:
            if draw(st.booleans()):
                break
            operations.pop()
    return document, operations


def outcome(apply: Callable[[], Any]) -> str | None:
    """What comes out, in canonical form; None if it is refused. As a workflow: an object with the id it had."""
    try:
        found = apply()
    except (InvalidDocument, naive.Failed, jsonpatch.JsonPatchException, jsonpatch.JsonPointerException):
        return None
    same = isinstance(found, dict) and found.get("id") == "w"
    return naive.canonical(found) if same else None


@given(patches())
def test_a_random_patch_does_what_the_rfc_says(given_patch: tuple[Any, list[dict[str, Any]]]) -> None:
    document, operations = given_patch
    before = copy.deepcopy(given_patch)
    ours = outcome(lambda: apply_patch(document, operations))
    assert given_patch == before
    assert ours == outcome(lambda: naive.patched(document, operations))
    assert ours == outcome(lambda: jsonpatch.apply_patch(document, operations))


@given(documents, documents)
def test_a_difference_applied_makes_the_other(one: Any, other: Any) -> None:
    operations = jsonpatch.make_patch(one, other).patch
    assert naive.canonical(apply_patch(one, operations)) == naive.canonical(other)


@given(patches())
def test_the_size_is_that_of_the_largest_document_on_the_way(given_patch: tuple[Any, list[dict[str, Any]]]) -> None:
    """One byte less is refused, at the operation that makes it."""
    document, operations = given_patch
    sizes, current = [], document
    for operation in operations:
        try:
            current = naive.applied(current, operation)
        except naive.Failed:
            break
        sizes.append(len(orjson.dumps(current)))
    operations = operations[: len(sizes)]
    if not sizes or outcome(lambda: naive.patched(document, operations)) is None:
        return
    largest = max(sizes)
    wide = replace(LIMITS, workflow_bytes=largest, patch_bytes=10**6)
    codes = set() if outcome(lambda: apply_patch(document, operations, wide)) else {"too-much-copied"}
    if codes:  # copies that were removed again
        assert problem(document, operations, workflow_bytes=largest).code in codes
    elif largest > len(orjson.dumps(document)):
        found = problem(document, operations, workflow_bytes=largest - 1)
        at = next(number for number, size in enumerate(sizes) if size > largest - 1)
        assert found.code == "too-much-copied" or (found.path, found.code) == (f"/operations/{at}/path", "too-large")


# -- its page ----------------------------------------------------------------------------------------


def test_every_code_is_documented() -> None:
    codes = problem_codes(ROOT / "schemas" / "patch.py")
    assert {"test-failed", "bad-pointer", "too-deep", "id-changed"} <= codes
    assert codes - rows(page("patching").split("## The patch language")[1]).keys() == set()


def test_there_are_enough_cases() -> None:
    assert len(CASES) > 200 and len(VALUES) > 35
