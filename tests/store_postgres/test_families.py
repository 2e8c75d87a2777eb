"""Which run called which; dead letters that were dropped."""

import psycopg

from history.families import Child
from history.history import History
from tests.store_postgres.samples import entry, record, run_events


async def test_children_and_their_parent(history: History, database: psycopg.AsyncConnection) -> None:
    opened = entry("run_1", 2, "node_opened", node="call", token="run_1.1", state="calling")
    await record(database, run_events("run_1")[0], opened)
    await record(database, *run_events("run_1:1:0", parent="run_1", parent_token="run_1.1"))
    await record(database, run_events("run_1:1:1", at=1_760_000_000_500, parent="run_1", parent_token="run_1.1")[0])
    assert await history.families.parent("run_1") is None
    assert await history.families.parent("run_1:1:0") == "run_1"
    assert await history.families.children("run_1", 10) == [
        Child("run_1:1:1", "run_1.1", "RUNNING"),
        Child("run_1:1:0", "run_1.1", "COMPLETED"),
    ]
    assert await history.families.children("run_1", 1) == [Child("run_1:1:1", "run_1.1", "RUNNING")]
    assert await history.families.nodes("run_1", ["run_1.1", "run_1.2"]) == {"run_1.1": "call"}


async def test_dropped_letters(history: History) -> None:
    letters = history.dropped_letters
    for number in range(3):
        letter = {"id": f"{number}-0", "reason": "task", "run_id": "run_\0", "detail": "\0"}
        await letters.add("", letter, by="me", reason=f"known {number}")
    await letters.add("", {"id": "1-0"}, by="you", reason="once more")
    await letters.add("other:", {"id": "1-0"}, by="you", reason="another shard")
    found = await letters.page("", 2)
    assert [(one["id"], one["dropped"]["reason"]) for one in found] == [("2-0", "known 2"), ("1-0", "known 1")]
    assert [one["id"] for one in await letters.page("", 2, found[-1]["dropped"]["number"])] == ["0-0"]
    kept = await letters.get("", "1-0")
    assert kept and (kept["dropped"]["by"], kept["detail"]) == ("me", "\0")
    assert await letters.get("", "9-0") is None
