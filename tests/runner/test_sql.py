"""SQL tasks through a whole runner, on a real database: rows, failures, and gates that ask once for many items."""

import asyncio
import dataclasses
from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest

from agent_runner.nodes.sql import SqlNodes
from history.named_connections import NamedConnections
from lua.run_store import RunStore
from tests.runner.conftest import FAST, Serve, Signals
from tests.runner.workflows import Made, make_ir, start
from tests.warehouse import Warehouse, made_warehouse

WIDE = dataclasses.replace(FAST, slots=1_000)
ARTICLE = "SELECT id, words FROM article WHERE id = %(id)s"
GATE = (
    "SELECT id::text AS key, statement_timestamp() AS asked FROM article "
    "WHERE id = ANY(%(keys)s::int[]) AND id > %(least)s"
)


@pytest.fixture
def warehouse(database_server: str) -> Iterator[Warehouse]:
    with made_warehouse(database_server) as made:
        yield made


@pytest.fixture
async def nodes(warehouse: Warehouse) -> AsyncIterator[dict[str, Any]]:
    named = {"w": warehouse.options(), "writing": warehouse.options(write=True)}
    async with NamedConnections(named) as connections:
        yield {"sql": SqlNodes(connections)}


def sql(query: str, connection: str = "w", *, extra: Any = None, **config: Any) -> Made:
    return Made("a", "sql", {"connection": connection, "query": query, **config}, extra=extra or {})


def gate(query: str = GATE, least: Any = 0, **config: Any) -> Made:
    return sql(query, params={"least": least}, gate="{{ input.id }}", **config)


async def ask(store: RunStore, signals: Signals, node: Made, *values: Any, **options: Any) -> list[dict[str, Any]]:
    """The signals of one run for each input, in their order."""
    for number, value in enumerate(values):
        await start(store, f"run_{number:03}", make_ir(node), value, **options)
    return await signals(len(values))


def rows(signal: dict[str, Any]) -> Any:
    return signal["result_data"]["rows"]


def error(signal: dict[str, Any]) -> tuple[str, bool]:
    return signal["metadata"]["error_type"], signal["metadata"]["retryable"]


async def test_rows_are_the_output(store: RunStore, serve: Serve, signals: Signals, nodes: Any) -> None:
    serve(nodes=nodes)
    found = await ask(store, signals, sql(ARTICLE, params={"id": "{{ input.id }}"}), {"id": 3}, {"id": 99})
    assert [signal["result_data"] for signal in found] == [{"rows": [{"id": 3, "words": 4.5}]}, {"rows": []}]
    assert found[0]["metadata"].keys() == {"execution_time_ms", "runner"}


async def test_the_token_is_the_idempotency_key(
    store: RunStore, serve: Serve, signals: Signals, nodes: Any, warehouse: Warehouse
) -> None:
    serve(nodes=nodes)
    insert = "INSERT INTO verdict VALUES (%(idempotency_key)s) ON CONFLICT DO NOTHING RETURNING id"
    (signal,) = await ask(store, signals, sql(insert, "writing"), None)
    assert rows(signal) == [{"id": "run_000.1"}] and warehouse.ask("SELECT id FROM verdict") == "run_000.1"


@pytest.mark.parametrize(
    ("node", "expected"),
    [
        (sql("SELECT 1", "nowhere"), ("not_found", False)),
        (sql("SELEC 1"), ("invalid_input", False)),
        (sql("SELECT * FROM secret"), ("permanent", False)),
        (sql("DELETE FROM article RETURNING id"), ("permanent", False)),
        (sql("SELECT pg_sleep(60)", extra={"timeout_ms": 200}), ("timeout", True)),
        (sql(ARTICLE, params={"id": "{{ input.nothing }}"}), ("template", False)),
        (sql("SELECT n FROM generate_series(1, 20000) n"), ("too_large", False)),
        (gate(least=True), ("invalid_input", False)),
        (sql("SELECT id FROM article WHERE id = ANY(%(keys)s::int[])", gate="3"), ("invalid_input", False)),
        (sql("SELECT 1", gate="{{ [1] }}"), ("invalid_input", False)),
    ],
)
async def test_the_class_of_a_failure(
    store: RunStore, serve: Serve, signals: Signals, nodes: Any, node: Made, expected: tuple[str, bool]
) -> None:
    serve(nodes=nodes)
    (signal,) = await ask(store, signals, node, {"id": 1})
    assert error(signal) == expected


async def test_a_stopped_runner_cancels_its_queries(
    store: RunStore, serve: Serve, nodes: Any, warehouse: Warehouse, wait_until: Any
) -> None:
    serving = serve(settings=dataclasses.replace(FAST, drain_ms=50), nodes=nodes)
    await start(store, "run_1", make_ir(sql("SELECT pg_sleep(60)")))
    await start(store, "run_2", make_ir(sql("SELECT pg_sleep(60), %(keys)s::text[]", gate="x")))
    await wait_until(lambda: warehouse.active() == 2)
    await serving.stop()
    await wait_until(lambda: warehouse.active() == 0)
    assert (await store.redis.xpending("wf.tasks.sql", "runners"))["pending"] == 2  # another runner goes on with them


# -- gates -------------------------------------------------------------------------------------------


async def test_one_query_for_all_items(store: RunStore, serve: Serve, signals: Signals, nodes: Any) -> None:
    values = [{"id": number} for number in (1, 2, 99, 6, 2)]
    for number, value in enumerate(values):
        await start(store, f"run_{number}", make_ir(gate()), value, batch_id="b")
    serve(nodes=nodes, settings=WIDE)
    found = await signals(len(values))
    assert [[row["key"] for row in rows(signal)] for signal in found] == [["1"], ["2"], [], ["6"], ["2"]]
    assert len({row["asked"] for signal in found for row in rows(signal)}) == 1


async def test_a_gate_on_500_items(store: RunStore, serve: Serve, signals: Signals, nodes: Any) -> None:
    """Items come while the runner serves; each has an outcome of its own, and few queries were asked."""
    serve(nodes=nodes, settings=WIDE)
    query = "SELECT key, statement_timestamp() AS asked FROM unnest(%(keys)s::text[]) AS key"
    ir = make_ir(sql(query, gate="{{ input }}"))
    for first in range(0, 500, 50):
        items = range(first, first + 50)
        await asyncio.gather(*(start(store, f"run_{n}", ir, f"item {n}", batch_id="b") for n in items))
    found = await signals(500)
    assert all([row["key"] for row in rows(signal)] == [f"item {signal['run_id'][4:]}"] for signal in found)
    assert len({row["asked"] for signal in found for row in rows(signal)}) <= 10


async def test_another_batch_and_other_params_are_asked_apart(
    store: RunStore, serve: Serve, signals: Signals, nodes: Any
) -> None:
    ir = make_ir(gate(least="{{ input.least }}"))
    for number, (batch, least) in enumerate([("b", 0), ("b", 0), ("b", 2), ("c", 0)]):
        await start(store, f"run_{number}", ir, {"id": 3, "least": least}, batch_id=batch)
    serve(nodes=nodes, settings=WIDE)
    asked = [rows(signal)[0]["asked"] for signal in await signals(4)]
    assert asked[0] == asked[1] and len(set(asked)) == 3


async def test_an_item_that_spoils_the_query_fails_alone(
    store: RunStore, serve: Serve, signals: Signals, nodes: Any
) -> None:
    values = [{"id": key} for key in (1, 2, "no number", 3, 4, "\0")]
    for number, value in enumerate(values):
        await start(store, f"run_{number}", make_ir(gate()), value, batch_id="b")
    serve(nodes=nodes, settings=WIDE)
    found = await signals(len(values))
    assert [signal["status"] == "completed" for signal in found] == [True, True, False, True, True, False]
    assert error(found[2]) == error(found[5]) == ("invalid_input", False)
    assert "no number" in found[2]["metadata"]["error_message"]


async def test_many_small_answers_are_not_too_large(
    store: RunStore, serve: Serve, signals: Signals, nodes: Any
) -> None:
    """4 items with 3,000 rows each: over the connection's max_rows together, and each within it."""
    query = "SELECT key, n FROM unnest(%(keys)s::text[]) AS key, generate_series(1, 3000) n"
    for number in range(4):
        await start(store, f"run_{number}", make_ir(sql(query, gate="{{ input }}")), f"k{number}", batch_id="b")
    serve(nodes=nodes, settings=WIDE)
    assert all(signal["status"] == "completed" for signal in await signals(4))
