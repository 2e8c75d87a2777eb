"""Register, read, list and validate workflows."""

import orjson
import yaml

from tests.api.conftest import Api
from tests.api.workflows import ASK, HELLO


async def test_versions(api: Api) -> None:
    assert await api.post("/workflows", HELLO, 201) == {"workflow_id": "hello", "version": 1}
    same = orjson.dumps(HELLO, option=orjson.OPT_SORT_KEYS | orjson.OPT_INDENT_2)
    again = await api.http.post("/workflows", content=same, headers={"Content-Type": "application/json"})
    assert (again.status_code, again.json()) == (200, {"workflow_id": "hello", "version": 1})
    assert (await api.post("/workflows", HELLO | {"description": "x"}, 201))["version"] == 2
    assert (await api.post("/workflows", HELLO, 200))["version"] == 1, "an old version is still that version"
    assert (await api.get("/workflows/hello"))["document"] == HELLO | {"description": "x"}
    assert (await api.get("/workflows/hello/versions/1"))["document"] == HELLO
    await api.get("/workflows/hello/versions/3", 404)
    await api.get("/workflows/hello/versions/0", 422)
    await api.get("/workflows/nobody", 404)


async def test_lists_by_pages(api: Api) -> None:
    for name in ("a", "b", "c"):
        await api.post("/workflows", HELLO | {"id": name}, 201)
    first = await api.get("/workflows?limit=2")
    assert [one["workflow_id"] for one in first["workflows"]] == ["a", "b"]
    rest = await api.get(f"/workflows?limit=2&cursor={first['next_cursor']}")
    assert [one["workflow_id"] for one in rest["workflows"]] == ["c"] and rest["next_cursor"] is None


async def test_yaml(api: Api) -> None:
    text = yaml.safe_dump(ASK)
    answer = await api.http.post("/workflows", content=text, headers={"Content-Type": "application/yaml"})
    assert answer.status_code == 201
    assert (await api.get("/workflows/ask"))["document"] == ASK
    broken = await api.http.post("/workflows", content="id: [", headers={"Content-Type": "application/yaml"})
    assert broken.status_code == 422 and broken.json()["errors"][0]["code"] == "not-yaml"


async def test_validate_names_every_fault(api: Api) -> None:
    bad = ASK | {"edges": [{"from": "answer", "to": "nobody"}], "colour": "red"}
    found = await api.post("/workflows/validate", bad)
    assert not found["valid"]
    assert {problem["path"] for problem in found["errors"]} >= {"/edges/0/to", "/colour"}
    assert all(problem.keys() == {"path", "code", "message"} for problem in found["errors"])
    assert await api.post("/workflows/validate", HELLO) == {"valid": True, "errors": [], "warnings": []}
    assert (await api.get("/workflows"))["workflows"] == []
    refused = await api.post("/workflows", bad, 422)
    assert refused["errors"] == found["errors"]
    inline = await api.post("/runs", {"workflow": bad, "input": {}}, 422)
    assert [p["path"] for p in inline["errors"]] == ["/workflow" + p["path"] for p in found["errors"]]


async def test_validate_what_is_no_document(api: Api) -> None:
    assert not (await api.post("/workflows/validate", [1]))["valid"]
    json = {"Content-Type": "application/json"}
    assert (await api.http.post("/workflows/validate", content=b"{", headers=json)).status_code == 400
    twice = b'{"id": "a", "id": "b", "nodes": []}'
    problem = (await api.http.post("/workflows/validate", content=twice, headers=json)).json()
    assert problem["errors"][0]["code"] == "duplicate-key"
    large = b'"' + b"x" * 1_000_000 + b'"'
    refused = await api.http.post("/workflows", content=large, headers=json)
    assert refused.status_code == 413 and refused.json()["limit"] == "workflow_bytes"
