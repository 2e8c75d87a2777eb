"""`pavane run --sql` against a `pavane up` that may ask a database: rows in, a gate, and rows written."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from click.testing import Result

from tests.cli.conftest import UpProcess
from tests.warehouse import PASSWORD, made_warehouse

WORKFLOW: dict[str, Any] = {
    "id": "authors",
    "nodes": [
        {
            "id": "known",
            "type": "sql",
            "config": {
                "connection": "warehouse",
                "gate": "{{ input.id }}",
                "query": "SELECT id::text AS key, author FROM article WHERE id = ANY(%(keys)s::int[]) AND id > 2",
            },
        },
        {
            "id": "write",
            "type": "sql",
            "config": {
                "connection": "ledger",
                "query": "INSERT INTO verdict VALUES (%(idempotency_key)s, %(note)s) RETURNING note",
                "params": {"note": "{{ size(output.rows) == 0 ? 'nobody' : output.rows[0].author }}"},
            },
        },
    ],
    "edges": [{"from": "known", "to": "write"}],
}


async def test_a_batch_from_a_database_and_back(
    up: Callable[..., UpProcess], up_folder: Path, pavane: Callable[..., Result], tmp_path: Path,
    monkeypatch: Any, database_server: str,
) -> None:  # fmt: skip
    workflow, query = tmp_path / "authors.json", tmp_path / "articles.sql"
    workflow.write_text(json.dumps(WORKFLOW))
    query.write_text("SELECT id FROM article ORDER BY id")
    with made_warehouse(database_server) as warehouse:
        connections = {"warehouse": {"url": warehouse.url}, "ledger": {"url": warehouse.url, "write": True}}
        monkeypatch.setenv("PAVANE_CONNECTIONS", json.dumps(connections))
        running = up("--engine", "simulated")
        here = ("--data", up_folder)
        source = ("--sql", f"@{query}", "--connection", "warehouse", "--key", "string(item.id)")
        started = pavane("run", workflow, *source, "--watch", "--json", *here)
        assert started.exit_code == 0, started.output
        ended = json.loads(started.stdout)
        assert (ended["done"], ended["failed"], ended["total"]) == (6, 0, 6)
        results = pavane("results", ended["batch_id"], *here).stdout.splitlines()
        notes = [json.loads(line)["output"]["rows"][0]["note"] for line in results]
        assert notes == ["nobody", "nobody", "alan", "ada", "alan", "ada"]
        assert warehouse.ask("SELECT count(*) FROM verdict") == 6
        nobody = pavane("run", workflow, "--sql", "SELECT 1", "--connection", "nobody", *here)
        assert nobody.exit_code == 1 and "nobody" in nobody.output
        assert PASSWORD not in running.log.read_text() + started.output + nobody.output
        assert running.interrupt() == 0
