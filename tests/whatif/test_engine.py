"""A batch in Postgres, asked over HTTP."""

from collections.abc import AsyncIterator
from typing import Any

import httpx
import orjson
import psycopg
import pytest
from psycopg_pool import AsyncConnectionPool

from history.history import History
from lua.run_store import RunStore
from orchestrator_api.app import create_app
from orchestrator_api.options import ApiOptions
from pavane.whatif.engine import WhatIf
from schemas.keys import Keys
from schemas.values import pack
from tests.whatif.histories import events_of, grading

IR = grading()
SCORES = [60, 72, 75, 79, 80, 99]
PATH = "/nodes/quality/config/rules/0/condition/expression"
LARGE = 3
"""The run whose grade is an artifact."""


def lower(to: int) -> list[dict[str, Any]]:
    return [{"op": "replace", "path": PATH, "value": f"output.score >= {to}"}]


async def _fill(connection: psycopg.AsyncConnection[Any]) -> None:
    await connection.execute("INSERT INTO irs (digest, ir) VALUES (%s, %s)", (IR.digest, IR.text))
    await connection.execute(
        "INSERT INTO batches (batch_id, workflow_id, digest, status, priority, labels, total, skipped, state_before, "
        "expected_work, created_at) VALUES ('b', 'grading', %s, 'RUNNING', 'normal', '{}', %s, 0, '{}', '{}', now())",
        (IR.digest, len(SCORES) + 1),
    )
    grade = pack({"score": SCORES[LARGE]})
    await connection.execute("INSERT INTO artifacts (name, packed) VALUES (%s, %s)", (grade.name, grade.packed))
    for number, score in enumerate(SCORES):
        run_id, key = f"run_{number}", f"k{number}"
        await connection.execute(
            "INSERT INTO batch_items (batch_id, position, key, run_id, input, state) "
            "VALUES ('b', %s, %s, %s, '{}', 'done')",
            (number, key, run_id),
        )
        await connection.execute(
            "INSERT INTO run_projection (run_id, workflow_id, status, revision, digest, batch_id, key, labels, "
            "priority, seq, input, created_at) "
            "VALUES (%s, 'grading', 'COMPLETED', 1, %s, 'b', %s, '{}', 'normal', 9, '{}', now())",
            (run_id, IR.digest, key),
        )
        for event in events_of(IR, score, number):
            data = dict(event.data)
            if number == LARGE and event.node_id == "grade":
                data |= {"outputs": {}, "stored": dict.fromkeys(("grade", "quality"), grade.reference)}
            await connection.execute(
                "INSERT INTO execution_events VALUES (%s, %s, %s, now(), %s, %s, '', %s)",
                (event.run_id, event.seq, event.type, event.node_id, event.token_id, orjson.dumps(data).decode()),
            )
    await connection.execute(  # one that waits to be admitted
        "INSERT INTO batch_items (batch_id, position, key, run_id, input) VALUES ('b', 99, 'late', 'run_99', '{}')"
    )


@pytest.fixture
async def asked(database_url: str, fake_redis: Any) -> AsyncIterator[httpx.AsyncClient]:
    async with AsyncConnectionPool(database_url, min_size=1, max_size=3, open=False) as pool:
        history = History(pool)
        await history.migrate()
        async with pool.connection() as connection:
            await _fill(connection)
        app = create_app(RunStore(fake_redis, Keys()), history, ApiOptions(), what_if=WhatIf(history))
        transport = httpx.ASGITransport(app=app, client=("127.0.0.1", 1))
        async with httpx.AsyncClient(transport=transport, base_url="http://localhost") as client:
            yield client


async def test_a_batch_is_routed_again(asked: httpx.AsyncClient) -> None:
    """Runs are counted by what would have become of them; an artifact is read where a rule reads it; bad questions are
    refused with their places; one question is worked on at a time."""

    async def ask(body: Any, status: int = 200, batch: str = "b") -> Any:
        answer = await asked.post(f"/batches/{batch}/whatif", json=body)
        assert answer.status_code == status, answer.text
        return answer.json()

    lowered = await ask({"operations": lower(70)})
    assert lowered["sentences"][0] == "With 70 instead of 80, 3 items would have skipped improve."
    assert lowered["runs"] == {
        "routed": 6, "unchanged": 3, "changed": 3, "undecided": 0, "outputs_changed": 0, "unended": 0, "left_out": 0,
    }  # fmt: skip
    assert [run["key"] for run in lowered["changed"]] == ["k1", "k2", "k3"]
    assert lowered["gpu"] == {"before_s": 16.0, "saved_s": 3.0, "added_s": 0.0, "difference_s": -3.0, "added": []}

    raised = await ask({"operations": lower(90)})
    assert (raised["runs"]["undecided"], raised["needed"][0]["node"], raised["gpu"]["added_s"]) == (1, "improve", 1.0)
    same = await ask({"workflow": IR.workflow})
    assert same["runs"]["unchanged"] == len(SCORES)
    assert "no item would have taken another way" in same["sentences"][0]

    swept = await ask({"sweep": {"path": "nodes.quality.rules.0", "values": [70, 75, 80, 90]}})
    assert [row["targets"] for row in swept["values"]] == [
        {"publish": 5, "improve": 1},
        {"publish": 4, "improve": 2},
        {"publish": 2, "improve": 4},
        {"publish": 1, "improve": 5},
    ]
    assert [row["now"] for row in swept["values"]] == [False, False, True, False]
    change = "nodes.quality.config.rules.0.condition.expression=output.score >= 75"
    assert swept["apply"][1] == f"pavane patch b --set '{change}'"

    bad = await ask({"operations": [{"op": "remove", "path": "/nodes/nobody"}]}, 422)
    assert bad["errors"][0]["path"] == "/operations/0/path"
    assert (await ask({"workflow": {"id": "x"}}, 422))["errors"][0]["path"].startswith("/workflow")
    assert (await ask({"sweep": {"path": "nodes.x", "values": [1]}}, 422))["errors"][0]["path"] == "/sweep/path"
    await ask({"operations": [], "workflow": {}}, 422)
    await ask({}, 422)
    await ask({"operations": lower(70)}, 404, "nobody")
    async with asked._transport.app.state.services.asking:  # type: ignore[attr-defined]
        await ask({"operations": lower(70)}, 429)


@pytest.mark.parametrize("lost", ["diverged = true", "broken_at = 3"])
async def test_a_run_of_which_events_are_lost_is_left_out(
    asked: httpx.AsyncClient, database: psycopg.AsyncConnection[Any], lost: str
) -> None:
    await database.execute(f"UPDATE run_projection SET {lost} WHERE run_id = 'run_1'")
    answer = (await asked.post("/batches/b/whatif", json={"operations": lower(70)})).json()
    assert (answer["runs"]["routed"], answer["runs"]["left_out"]) == (5, 1)
