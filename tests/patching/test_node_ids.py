"""Our extension of JSON pointers: a node by its id, wherever a list holds nodes."""

from __future__ import annotations

import copy
from typing import Any

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from schemas.errors import InvalidDocument
from schemas.patch import apply_patch
from tests.patching import naive
from tests.patching.refusals import problem
from tests.patching.rfc6902_cases import op
from tests.patching.test_apply_patch import outcome, pointers_of


def _agent(node_id: str, **config: Any) -> dict[str, Any]:
    return {"id": node_id, "type": "agent", "config": {"prompt": node_id, **config}}


def workflow() -> dict[str, Any]:
    inline = {"id": "child", "nodes": [_agent("x"), _agent("y")], "edges": []}
    inner = {"id": "deep", "type": "map", "config": {"items": "item", "nodes": [_agent("g"), _agent("h")]}}
    return {
        "id": "w",
        "nodes": [
            _agent("a", tools=[{"sql": {}}, {"workflow": {"document": copy.deepcopy(inline)}}]),
            _agent("b", list=[{"id": "m"}], nodes=[{"id": "n"}]),
            {"id": "each", "type": "map", "config": {"items": "input.i", "nodes": [_agent("f"), inner]}},
            {"id": "child", "type": "workflow", "config": {"document": inline}},
        ],
        "edges": [{"id": "e", "from": "a", "to": "b"}],
        "nodes_of": {"nodes": [{"id": "a"}]},
    }


SAME = {
    "/nodes/a": "/nodes/0",
    "/nodes/each/type": "/nodes/2/type",
    "/nodes/b/config/prompt": "/nodes/1/config/prompt",
    "/nodes/each/config/nodes/f/id": "/nodes/2/config/nodes/0/id",
    "/nodes/2/config/nodes/deep/config/nodes/h": "/nodes/2/config/nodes/1/config/nodes/1",
    "/nodes/each/config/nodes/1/config/nodes/g/config/prompt": "/nodes/2/config/nodes/1/config/nodes/0/config/prompt",
    "/nodes/child/config/document/nodes/y/type": "/nodes/3/config/document/nodes/1/type",
    "/nodes/a/config/tools/1/workflow/document/nodes/x": "/nodes/0/config/tools/1/workflow/document/nodes/0",
}
every_name = pytest.mark.parametrize("named", SAME)


@every_name
@pytest.mark.parametrize("kind", ["add", "remove", "replace", "move", "copy", "test"])
def test_an_id_is_the_index(kind: str, named: str) -> None:
    document, indexed = workflow(), SAME[named]
    before = copy.deepcopy(document)
    if kind in ("move", "copy"):
        patches = [[op(kind, "/x", source=path)] for path in (named, indexed)]
    else:
        patches = [[op(kind, path, naive.found(document, indexed))] for path in (named, indexed)]
    one, other = (apply_patch(document, operations) for operations in patches)
    assert one == other
    assert (one == document) == (kind in ("test", "replace") or (kind == "add" and not indexed[-1].isdigit()))
    assert document == before


@pytest.mark.parametrize(
    "path",
    ["/edges/e", "/edges/a", "/nodes/1/config/list/m", "/nodes_of/nodes/a", "/nodes/a/config/tools/sql", "/nodes/01",
     "/nodes/+1", "/nodes/my-node", "/nodes/٣", "/nodes/" + "a" * 65],
)  # fmt: skip
def test_where_no_name_is_taken(path: str) -> None:
    assert problem(workflow(), [op("remove", path)]).code == "bad-index"
    assert problem(workflow(), [op("add", path, 1)]).code == "bad-index"


def test_a_node_that_is_not_there() -> None:
    found = problem(workflow(), [op("remove", "/nodes/eech/config")])
    assert (found.path, found.code) == ("/operations/0/path", "not-found")
    assert "no node `eech` in `/nodes` (did you mean `each`?)" in found.message
    assert problem(workflow(), [op("add", "/nodes/new", _agent("new"))]).code == "not-found"
    assert problem(workflow(), [op("copy", "/nodes/-", source="/nodes/f")]).path == "/operations/0/from"
    assert problem(workflow(), [op("test", "/nodes/f/id", "f")]).code == "test-failed"


def test_add_at_an_id_inserts_before_it() -> None:
    patched = apply_patch(workflow(), [op("add", "/nodes/b", _agent("n")), op("add", "/nodes/-", _agent("z"))])
    assert _ids(patched) == ["a", "n", "b", "each", "child", "z"]


def test_an_id_means_the_node_when_it_is_its_turn() -> None:
    operations = [
        op("remove", "/nodes/a"),
        op("replace", "/nodes/each/config/items", "input.j"),
        op("add", "/nodes/0", _agent("a", first=True)),
        op("replace", "/nodes/a/config/prompt", "new"),
        op("replace", "/nodes/b/id", "c"),
        op("test", "/nodes/c/config/prompt", "b"),
        op("move", "/nodes/0", source="/nodes/child"),
    ]
    patched = apply_patch(workflow(), operations)
    assert _ids(patched) == ["child", "a", "c", "each"]
    assert patched["nodes"][1]["config"] == {"prompt": "new", "first": True}
    assert patched["nodes"][3]["config"]["items"] == "input.j"


@pytest.mark.parametrize(
    ("source", "path", "ids"),
    [
        ("/nodes/a", "/nodes/each", ["b", "a", "each", "child"]),
        ("/nodes/0", "/nodes/each", ["b", "a", "each", "child"]),
        ("/nodes/child", "/nodes/b", ["a", "child", "b", "each"]),
        ("/nodes/a", "/nodes/b", ["a", "b", "each", "child"]),
        ("/nodes/a", "/nodes/2", ["b", "each", "a", "child"]),
        ("/nodes/a", "/nodes/-", ["b", "each", "child", "a"]),
        ("/nodes/each", "/nodes/each", ["a", "b", "each", "child"]),
        ("/nodes/2", "/nodes/each", ["a", "b", "each", "child"]),
        ("/nodes/each", "/nodes/2", ["a", "b", "each", "child"]),
        ("/nodes/a", "/nodes/each/config/nodes/f", ["b", "each", "child"]),
    ],
)
def test_move_by_id(source: str, path: str, ids: list[str]) -> None:
    """What follows is looked up without the node that is moved: it lands before the one that is named."""
    patched = apply_patch(workflow(), [op("move", path, source=source)])
    assert _ids(patched) == ids
    if path.endswith("f"):
        assert [node["id"] for node in patched["nodes"][1]["config"]["nodes"]] == ["a", "f", "deep"]


def test_a_node_becomes_part_of_the_next_one() -> None:
    """`/nodes/0` is another node when the first is out: only an index that means the moved node itself is refused."""
    patched = apply_patch(workflow(), [op("move", "/nodes/b/config/x", source="/nodes/a")])
    assert patched["nodes"][0]["config"]["x"]["id"] == "a"


@pytest.mark.parametrize("source", ["/nodes/each", "/nodes/2"])
@pytest.mark.parametrize("path", ["/nodes/each/config/nodes/f", "/nodes/2/x", "/nodes/each/config/nodes/-"])
def test_no_node_moves_into_itself(source: str, path: str) -> None:
    found = problem(workflow(), [op("move", path, source=source)])
    assert (found.path, found.code) == ("/operations/0/path", "into-itself")


def test_an_id_that_two_nodes_have() -> None:
    twice = op("copy", "/nodes/-", source="/nodes/a")
    found = problem(workflow(), [twice, op("remove", "/nodes/a")])
    assert (found.path, found.code) == ("/operations/1/path", "ambiguous-id")
    assert "2 nodes `a`" in found.message
    assert problem(workflow(), [twice, op("copy", "/x", source="/nodes/a/config")]).path == "/operations/1/from"
    patched = apply_patch(workflow(), [twice, op("replace", "/nodes/4/id", "a2"), op("remove", "/nodes/a")])
    assert _ids(patched) == ["b", "each", "child", "a2"]


def test_members_that_are_no_nodes() -> None:
    document = {"id": "w", "nodes": [1, None, "a", ["a"], {"id": ["a"]}, {"id": "a", "n": 1}]}
    assert apply_patch(document, [op("remove", "/nodes/a/n")])["nodes"][5] == {"id": "a"}


def test_an_id_in_a_list_that_is_too_long() -> None:
    document = {"id": "w", "nodes": [_agent(f"n{number}") for number in range(1_000)]}
    assert apply_patch(document, [op("remove", "/nodes/n999")])["nodes"][-1]["id"] == "n998"
    document["nodes"].append(_agent("last"))
    found = problem(document, [op("remove", "/nodes/n1")])
    assert (found.path, found.code) == ("/operations/0/path", "too-many-nodes")
    assert "limit workflow_nodes" in found.message


def _ids(document: Any) -> list[str]:
    return [node["id"] for node in document["nodes"]]


# -- random patches ----------------------------------------------------------------------------------


def named(document: Any, path: str) -> str:
    """The pointer with ids for indexes, wherever a list of nodes has a node there whose id no other has."""
    value, steps, held = document, [], False
    for part in path.split("/")[1:]:
        if isinstance(value, list):
            known = [node.get("id") if isinstance(node, dict) else None for node in value]
            here = known[int(part)] if part.isdigit() and int(part) < len(value) else None
            unique = held and isinstance(here, str) and known.count(here) == 1
            steps.append(here if unique else part)
            value = value[int(part)] if part.isdigit() and int(part) < len(value) else None
            held = False
        else:
            steps.append(part)
            value = value.get(part) if isinstance(value, dict) else None
            held = part == "nodes" and steps[-2:-1] in ([], ["config"], ["document"])
    return "".join(f"/{step}" for step in steps)


@st.composite
def _patches(draw: st.DrawFn) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """The same operations by index and by id. Nodes lie in nodes' places only, as `named` takes it."""
    current, indexed, by_id = workflow(), [], []
    for number in range(draw(st.integers(1, 6))):
        there = [path for path in pointers_of(current) if path.startswith("/nodes/")]
        nodes = [path for path in there if path.split("/")[-2] == "nodes"]
        kind = draw(st.sampled_from(["add", "remove", "replace", "move", "copy"]))
        source = draw(st.sampled_from(nodes if kind in ("move", "copy", "add") else there))
        path = draw(st.sampled_from(nodes)) if kind in ("move", "copy", "add") else source
        value = _agent(f"new{number}") if kind == "add" else "text"
        assume(kind != "move" or not path.startswith(source))
        made = {"op": kind, "path": path, "value": value, "from": source}
        try:
            without = naive.applied(current, op("remove", source)) if kind == "move" else current
            after = naive.applied(current, made)
        except naive.Failed:
            continue
        by_id.append(made | {"path": named(without, path), "from": named(current, source)})
        indexed.append(made)
        current = after
    return indexed, by_id


@given(_patches())
def test_random_patches_by_id_and_by_index(patches: tuple[list[dict[str, Any]], list[dict[str, Any]]]) -> None:
    indexed, by_id = patches
    document = workflow()
    wanted = outcome(lambda: naive.patched(document, indexed))
    assert outcome(lambda: apply_patch(document, indexed)) == wanted
    assert outcome(lambda: apply_patch(document, by_id)) == wanted
    assert document == workflow()


def test_a_fault_undoes_what_went_before_it() -> None:
    document = workflow()
    with pytest.raises(InvalidDocument):
        apply_patch(document, [op("remove", "/nodes/a"), op("remove", "/nodes/a")])
    assert document == workflow()
