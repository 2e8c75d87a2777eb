"""POST /runs/{id}/patch with whatever is sent: wrong media types, no JSON, bombs, depths and bytes."""

from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from schemas.limits import LIMITS
from tests.api.conftest import Api
from tests.api.test_hostile import JSON, expect_refusal, relaxed, values
from tests.api.test_patches import BARE, patch
from tests.api.workflows import HELLO


async def test_a_media_type_that_is_no_patch(api: Api) -> None:
    run_id = await api.start()
    for media in ("text/plain", "application/merge-patch+json", "application/yaml", ""):
        answer = await api.http.post(f"/runs/{run_id}/patch", content=b"[]", headers={"Content-Type": media})
        assert answer.status_code == 415 and "json-patch+json" in answer.headers["accept"]
    alone = await api.post(f"/runs/{run_id}/patch", [], 422)
    assert "json-patch" in alone["detail"]
    twice = await api.post(f"/runs/{run_id}/patch?running=restart", {"operations": []}, 422)
    assert twice["errors"][0]["path"] == "/query/running"


def nested(depth: int) -> bytes:
    value = b"[" * depth + b"]" * depth
    return b'{"operations": [{"op": "add", "path": "/nodes/0/config/args/x", "value": ' + value + b"}]}"


BOMB = [
    {"op": "add", "path": "/nodes/0/config/args/x", "value": "y" * 100_000},
    *({"op": "copy", "from": "/nodes/0/config/args", "path": f"/nodes/0/config/args/x{n}"} for n in range(20)),
]


@pytest.mark.parametrize(
    ("raw", "status", "code"),
    [
        (b"{", 400, None), (b'{"operations": [{"op": "add", "path": "/x", "value": NaN}]}', 400, None),
        (b'{"operations": [{"op": "add", "path": "/x", "value": 1e999}]}', 400, None),
        (b'{"operations": [{"op": "add", "path": "/x", "value": "\\ud800"}]}', 400, None), (b"\xff", 400, None),
        (nested(10_000), 400, None), (nested(300), 422, "too-deep"), (nested(65), 422, "too-deep"),
        (nested(62), 422, "too-deep"), (nested(59), 200, None),
        (b'{"operations": [{"op": "add", "path": "/x", "value": 18446744073709551616}]}', 422, "number-too-large"),
        (b'{"operations": [{"op": "add", "path": "/x", "value": ' + b"9" * 10_000 + b"}]}", 400, None),
        (b'{"operations": [{"op": "add", "op": "remove", "path": "/nodes/0"}]}', 422, "duplicate-key"),
        (b'{"operations": [], "operations": []}', 422, "duplicate-key"),
        (b'{"operations": [{"op": "add", "path": "/name", "value": "a\\u0000b"}]}', 422, "bad-text"),
        (orjson.dumps({"operations": BOMB}), 422, "too-much-copied"),
        (orjson.dumps({"operations": [{"op": "test", "path": "", "value": 1}] * 101}), 422, "too-many-operations"),
        (b'{"operations": {"op": "add"}}', 422, "wrong-type"), (b"{}", 422, "missing-field"),
        (b'{"operations": [], "other": 1}', 422, "unknown-field"), (b'"x"', 422, "wrong-type"),
        (b'{"operations": [], "description": "a\\nb"}', 422, "value-error"),
        (b'{"operations": [], "live_tokens": "keep"}', 422, "literal-error"),
        (b'{"operations": [{"op": "replace", "path": "/id", "value": "other"}]}', 422, "id-changed"),
        (b'{"operations": [{"op": "remove", "path": ""}]}', 422, "whole-document"),
        (b'{"operations": [{"op": "replace", "path": "", "value": {"id": "hello"}}]}', 422, None),
    ],
)  # fmt: skip
async def test_what_is_sent_wrongly(api: Api, raw: bytes, status: int, code: str | None) -> None:
    run_id = await api.start()
    answer = await api.http.post(f"/runs/{run_id}/patch", content=raw, headers=JSON)
    assert answer.status_code == status, answer.text
    if status != 200:
        expect_refusal(answer)
        assert code is None or answer.json()["errors"][0]["code"] == code
        assert (await api.get(f"/runs/{run_id}"))["revision"] == 1


async def test_a_document_as_deep_as_one_may_be(api: Api) -> None:
    """The levels of the request around it do not count."""
    run_id = await api.start()
    for depth, status in ((59, 200), (60, 422)):
        deep = orjson.loads(b"[" * depth + b"]" * depth)
        greet = {**HELLO["nodes"][0], "config": {"handler": "greet", "args": {"x": deep}}}
        whole = {**HELLO, "nodes": [greet, HELLO["nodes"][1]]}
        await patch(api, run_id, [{"op": "replace", "path": "", "value": whole}], status)


async def test_too_many_bytes(api: Api) -> None:
    """The limit is of the operations; what is beside them has its own room."""
    run_id = await api.start()

    def operations(size: int) -> list[Any]:
        empty = [{"op": "add", "path": "/nodes/greet/config/args/text", "value": ""}]
        return [{**empty[0], "value": "x" * (size - len(orjson.dumps(empty)))}]

    assert (await patch(api, run_id, operations(LIMITS.patch_bytes), description="d" * 250))["revision"] == 2
    for size in (LIMITS.patch_bytes + 1, LIMITS.patch_bytes + 100_000):
        refused = await patch(api, run_id, operations(size), 413)
        assert refused["limit"] == "patch_bytes"
        bare = await api.http.post(f"/runs/{run_id}/patch", content=orjson.dumps(operations(size)), headers=BARE)
        assert bare.status_code == 413


async def test_a_batch_patch_has_room_for_keys_only(api: Api) -> None:
    """What is beside the operations is bounded too, whether there is such a batch or not."""
    for keys, status in (([{}] * 50_000, 422), (["k" * 90] * 10_000, 404), (["k"] * 10_001, 422)):
        refused = await api.post("/batches/batch_1/patch", {"operations": [], "filter": {"keys": keys}}, status)
        assert len(orjson.dumps(refused)) < 1_000
    assert "the limit patch_keys is 10000" in refused["detail"]
    too_many = await api.post("/batches/batch_1/patch", {"operations": [], "filter": {"keys": [{}] * 700_000}}, 413)
    assert too_many["limit"] == "patch_bytes"


pointers = st.sampled_from(
    ["", "/nodes", "/nodes/-", "/nodes/greet", "/nodes/0/config/args", "/edges/0", "/x", "x", "/~2"]
)
operations = st.lists(
    st.dictionaries(st.sampled_from(["op", "path", "from", "value"]), values, max_size=4)
    | st.fixed_dictionaries(
        {"op": st.sampled_from(["add", "remove", "replace", "move", "copy", "test"]), "path": pointers},
        optional={"from": pointers, "value": values},
    ),
    max_size=4,
)


@relaxed
@given(
    body=values | st.fixed_dictionaries({"operations": operations}, optional={"description": values, "other": values}),
    bare=operations | values,
    if_match=st.text(alphabet='"1, W/*x\t', max_size=8),
    query=st.text(max_size=20),
)
async def test_any_json_as_a_patch(api: Api, body: Any, bare: Any, if_match: str, query: str) -> None:
    await api.http.post("/runs", json={"workflow": HELLO, "input": {"name": "Ada"}, "run_id": "run_1"})
    for path in ("patch", "rollback"):
        expect_refusal(await api.http.post(f"/runs/run_1/{path}", content=orjson.dumps(body), headers=JSON))
    headers = {**BARE, "If-Match": if_match}
    url = api.http.build_request("POST", "/runs/run_1/patch", params={"dry_run": query}).url
    expect_refusal(await api.http.post("/runs/run_1/patch", content=orjson.dumps(bare), headers=headers))
    expect_refusal(await api.http.post(url, content=orjson.dumps(bare), headers=BARE))
