"""Rows that the tests put in: IRs, items, and events as the recorder writes them."""

from typing import Any

import orjson
from psycopg import AsyncConnection

from history.batches import NewBatch, NewItem
from history.entry import Entry
from history.journal import Journal, Page
from schemas.ir import IR, Analysis
from schemas.values import encode_value

NOW = 1_760_000_000_000


def ir(workflow_id: str = "demo", **more: Any) -> IR:
    """An IR of one function node; `more` goes into its document."""
    node = {"id": "a", "type": "function", "config": {"handler": "echo"}}
    return IR.build({"id": workflow_id, **more, "nodes": [node]}, ("a",), {"a": Analysis(0)})


def item(number: int, key: str | None = None, value: Any = None) -> NewItem:
    text, artifact = encode_value({"n": number} if value is None else value)
    return NewItem(f"run_{number}", key, text, artifact)


def batch(number: int, items: list[NewItem], **more: Any) -> NewBatch:
    """Batches of one workflow, an hour apart."""
    return NewBatch(
        **{
            "batch_id": f"batch_{number}", "workflow_id": "demo", "version": 1, "digest": "sha256-demo",
            "items": items, "created_at": NOW + number * 3_600_000, **more,
        }
    )  # fmt: skip


def entry(run_id: str, seq: int, kind: str, at: int = NOW, node: str = "", token: str = "", **data: Any) -> Entry:
    return Entry(run_id, seq, kind, at + seq, node, token, "", orjson.dumps(data))


def run_events(run_id: str, output: Any = 1, *, at: int = NOW, error: Any = None, **started: Any) -> list[Entry]:
    """A run of one node, from its start to its end; it fails if there is an error."""
    first = {"workflow_id": "demo", "version": 1, "revision": 1, "digest": "sha256-demo", "input": {"of": run_id}}
    record = {"node": "a", "state": "queued", "attempt": 0, "depth": 0, "lane": "", "since": at}
    events = [
        entry(run_id, 1, "run_started", at, **{**first, **started}, tokens={"t1": record}, live=1),
        entry(run_id, 2, "task_started", at, "a", "t1", attempt=1, tokens={}, live=1),
    ]
    if error:
        dead = record | {"state": "dead"}
        events.append(entry(run_id, 3, "node_failed", at, "a", "t1", error=error, tokens={"t1": dead}, live=0))
        return [*events, entry(run_id, 4, "run_failed", at, error=error)]
    text, artifact = encode_value(output)
    values = {"stored": {"a": text}, "outputs": {}} if artifact else {"outputs": {"a": output}}
    done = {**values, "ends": ["a"], "usage": {"prompt_tokens": 3}, "gone": ["t1"], "tokens": {}, "live": 0}
    return [*events, entry(run_id, 3, "node_completed", at, "a", "t1", **done), entry(run_id, 4, "run_completed", at)]


async def record(connection: AsyncConnection[Any], *entries: Entry, **more: Any) -> None:
    """Write events as the recorder does."""
    await Journal("").write(connection, Page("1-1", entries, **more))
