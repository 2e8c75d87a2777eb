"""Whatever is sent, the answer is a refusal that names the place; never a fault of ours, never a crash."""

from typing import Any
from urllib.parse import quote

import httpx
import orjson
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from orchestrator_api.bodies import read_json, read_shape
from orchestrator_api.problems import Refusal
from orchestrator_api.requests import BatchPatchRequest, BatchRequest, CompleteRequest, RunRequest
from tests.api.conftest import Api
from tests.api.workflows import HELLO

JSON = {"Content-Type": "application/json"}
NDJSON = {"Content-Type": "application/x-ndjson"}

values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**63)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=12,
)
field_names = ("workflow", "workflow_id", "version", "input", "run_id", "priority", "labels", "timeout_ms", "items",
               "key", "force", "requested_by", "other")  # fmt: skip
bodies = values | st.dictionaries(st.sampled_from(field_names), values, max_size=6)
near = st.fixed_dictionaries(
    {"workflow": st.just(HELLO), "input": values},
    optional={
        "run_id": st.text(max_size=5), "labels": st.dictionaries(st.text(max_size=3), st.text(max_size=3)),
        "timeout_ms": st.integers(-(2**63), 2**64 - 1), "priority": st.sampled_from(["normal", "interactive", "now"]),
    },
)  # fmt: skip
near_batches = st.fixed_dictionaries(
    {"workflow": st.just(HELLO), "items": st.lists(values | st.just({"name": "Ada"}), max_size=4)},
    optional={"key": st.sampled_from(["item.name", "item", "index", "1/0", "item.name.name", "["]),
              "requested_by": st.text(max_size=5), "labels": st.dictionaries(st.text(max_size=3), st.text(max_size=3))},
)  # fmt: skip
relaxed = settings(
    max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
)


def expect_refusal(answer: httpx.Response) -> None:
    assert answer.status_code < 500, answer.text
    if answer.status_code >= 400:
        assert answer.headers["content-type"] == "application/problem+json"
        problem = answer.json()
        assert problem["status"] == answer.status_code and problem["detail"]
        assert "Traceback" not in answer.text


@relaxed
@given(body=bodies | near)
async def test_any_json_as_a_run(api: Api, body: Any) -> None:
    expect_refusal(await api.http.post("/runs", content=orjson.dumps(body), headers=JSON))


@relaxed
@given(body=bodies | near_batches)
async def test_any_json_as_a_batch(api: Api, body: Any) -> None:
    expect_refusal(await api.http.post("/batches", content=orjson.dumps(body), headers=JSON))


near_actions = st.dictionaries(
    st.sampled_from(["reason", "why", "class", "node", "limit", "cursor", "output", "error", "token_id", "key"]), values
)
POSTS = (
    *(f"/runs/run_1/{action}" for action in ("pause", "resume", "retry", "cancel", "nodes/greet/complete")),
    *(f"/batches/batch_1/{action}" for action in ("pause", "resume", "retry", "cancel")),
    *("/events/paid", "/dead-letters/retry", "/dead-letters/1-0/retry", "/dead-letters/1-0/drop"),
)


@relaxed
@given(body=values | near_actions, path=st.sampled_from(POSTS))
async def test_any_json_as_an_action(api: Api, body: Any, path: str) -> None:
    await api.http.post("/runs", json={"workflow": HELLO, "input": {"name": "Ada"}, "run_id": "run_1"})
    expect_refusal(await api.http.post(path, content=orjson.dumps(body), headers=JSON))


@relaxed
@given(
    body=st.binary(max_size=200),
    path=st.sampled_from(["/runs", "/batches", "/workflows", "/workflows/validate", *POSTS]),
    media=st.sampled_from(["application/json", "application/yaml", "application/x-ndjson", "text/plain", ""]),
)
async def test_any_bytes(api: Api, body: bytes, path: str, media: str) -> None:
    expect_refusal(await api.http.post(path, content=body, headers={"Content-Type": media}))


@relaxed
@given(path=st.text(max_size=30), query=st.text(max_size=30), last=st.text(alphabet="0123456789-xé", max_size=12))
async def test_any_path_and_query(api: Api, path: str, query: str, last: str) -> None:
    for start in ("/runs/", "/batches/", "/workflows/", "/dead-letters", "/dead-letters/", "/approvals"):
        headers = {"Last-Event-ID": last.encode(), "Accept": "text/event-stream"}
        expect_refusal(await api.http.get(f"{start}{quote(path)}?{quote(query, safe='=&')}", headers=headers))
    expect_refusal(await api.http.post(f"/events/{quote(path)}"))
    expect_refusal(await api.http.post(f"/runs/run_1/nodes/{quote(path)}/complete", json={"output": {}}))


@pytest.mark.parametrize(
    "raw",
    [b"", b"{", b'{"a": NaN}', b"[Infinity]", b"[1e999]", b'"\xff"', b'["\\ud800"]', b"[1,]", b"{'a': 1}",
     b"\xef\xbb\xbf{", b"[" * 100_000, b"{}{}", b"[01]", b"nul"],
)  # fmt: skip
async def test_what_is_no_json(api: Api, raw: bytes) -> None:
    answer = await api.http.post("/runs", content=raw, headers=JSON)
    assert answer.status_code == 400 and answer.json()["detail"].startswith("The body is not JSON")


@pytest.mark.parametrize(
    ("raw", "code"),
    [
        (b"[18446744073709551616]", "number-too-large"),
        (b"[-9223372036854775809]", "number-too-large"),
        (b"[" + b"9" * 300 + b"]", "number-too-large"),
        (b"[" * 65 + b"]" * 65, "too-deep"),
        (b'{"a":' * 65 + b"1" + b"}" * 65, "too-deep"),
    ],
)
def test_json_over_its_bounds(raw: bytes, code: str) -> None:
    with pytest.raises(Refusal) as refused:
        read_json(raw)
    assert refused.value.status == 422 and refused.value.errors[0].code == code


def test_json_at_its_bounds() -> None:
    assert read_json(b"[18446744073709551615,-9223372036854775808]") == [2**64 - 1, -(2**63)]
    assert read_json(b"[1e300, 12345678901234567890.5]") == [1e300, 12345678901234567890.5]
    assert read_json(b'"' + b"9" * 50 + b"[" * 100 + b'"') == "9" * 50 + "[" * 100
    assert read_json(b"[" * 64 + b"]" * 64)


@pytest.mark.parametrize(
    ("change", "path", "code"),
    [
        ({"colour": "red"}, "/colour", "unknown-field"),
        ({"run_id": "a b"}, "/run_id", None),
        ({"run_id": "run_1\n"}, "/run_id", None),
        ({"version": 1}, "", None),
        ({"workflow_id": "hello"}, "", None),
        ({"priority": "urgent"}, "/priority", None),
        ({"labels": {"a": 1}}, "/labels/a", None),
        ({"labels": {"a\0": "1"}}, "/labels", None),
        ({"labels": {str(n): "" for n in range(33)}}, "/labels", None),
        ({"timeout_ms": 0}, "/timeout_ms", None),
        ({"timeout_ms": True}, "/timeout_ms", None),
        ({"timeout_ms": 1.5}, "/timeout_ms", None),
        ({"input": {"name": 7}}, "/input/name", "schema"),
        ({"input": {}}, "/input", "schema"),
        ({"input": {"name": ""}}, "/input/name", "schema"),
        ({"workflow": {"id": "x", "nodes": 1}}, "/workflow/nodes", "wrong-type"),
        ({"workflow": []}, "/workflow", None),
    ],
)
async def test_each_fault_has_its_place(api: Api, change: dict[str, Any], path: str, code: str | None) -> None:
    problem = await api.post("/runs", {"workflow": HELLO, "input": {"name": "Ada"}} | change, 422)
    assert path in {error["path"] for error in problem["errors"]}
    assert code is None or code in {error["code"] for error in problem["errors"]}
    assert await api.store.redis.exists("events") == 0


MANY = {str(n): 1 for n in range(50_000)}
OF_ANY = {"operations": []}


@pytest.mark.parametrize(
    ("shape", "body", "path"),
    [
        (RunRequest, {"workflow": HELLO, "input": 1, **MANY}, ""),
        (RunRequest, {"workflow": HELLO, "input": 1, "labels": MANY}, "/labels"),
        (BatchRequest, {"workflow": HELLO, "source": {"connection": "c", "query": "q", **MANY}}, "/source"),
        (CompleteRequest, {"error": MANY}, "/error"),
        (BatchPatchRequest, {**OF_ANY, "filter": {"keys": [{}] * 50_000}}, "/filter/keys/0"),
        (BatchPatchRequest, {**OF_ANY, "filter": {"keys": ["a"] * 10_001}}, "/filter/keys"),
        (BatchPatchRequest, {**OF_ANY, "filter": {"nodes": [{}] * 50_000}}, "/filter/nodes/0"),
        (BatchPatchRequest, {**OF_ANY, "filter": {"nodes": ["a"] * 1_001}}, "/filter/nodes"),
        (BatchPatchRequest, {**OF_ANY, "canary": MANY}, "/canary"),
    ],
)
def test_what_is_wrong_many_times_is_found_once(shape: Any, body: dict[str, Any], path: str) -> None:
    """A million faults would take longer to list than all else; everyone waits meanwhile."""
    with pytest.raises(Refusal) as refused:
        read_shape(shape, body)
    assert [error.path for error in refused.value.errors] == [path]
    assert refused.value.detail.startswith(path or "the body") and "more)" not in refused.value.detail


async def test_the_first_faults_are_listed_and_all_are_counted(api: Api) -> None:
    many = {"workflow": {**HELLO, **{f"x{n}": 1 for n in range(150)}}, "input": {"name": "Ada"}}
    problem = await api.post("/runs", many, 422)
    assert len(problem["errors"]) == 100 and problem["detail"].endswith("(and 149 more)")


async def test_a_run_without_input(api: Api) -> None:
    problem = await api.post("/runs", {"workflow": HELLO}, 422)
    assert problem["errors"] == [{"path": "", "code": "missing-field", "message": "There must be a field `input`."}]


async def test_text_that_only_json_can_hold(api: Api, record: Any) -> None:
    text = "nul \0, a quote ', \\, \u2028, 🙂, </script>"
    run_id = await api.start(input={"name": text})
    await api.play(answer=lambda task, started: {"text": text})
    await record()
    await api.store.redis.flushdb()
    shown = await api.get(f"/runs/{run_id}")
    assert shown["input"] == {"name": text} and shown["output"] == {"text": text}
