"""What the events of runs say: how long they took, how long streams went unserved, how long people waited."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import orjson
from psycopg import AsyncConnection

_SELECT = """
    SELECT run_id, type, extract(epoch FROM at)::float8, node_id, token_id, data->>'tokens' FROM execution_events
    WHERE type <> 'tool_called' ORDER BY at, run_id, seq
"""
ENDS = ("run_completed", "run_failed", "run_cancelled", "run_timed_out")


@dataclass(frozen=True, slots=True)
class Event:
    """`at` is in seconds; `queued` are the tokens that this step put on a stream."""

    run_id: str
    type: str
    at: float
    node_id: str
    token_id: str
    queued: Iterable[str]


@dataclass(slots=True)
class Account:
    """Seconds of the wall clock."""

    began: float = float("inf")  # the first of the ordinary runs
    ended: float = 0.0  # the last of them
    completed: int = 0  # of all runs
    unserved_s: float = 0.0  # the longest time for which a model's ordinary tasks waited and none was started
    waits_s: list[float] = field(default_factory=list)  # of interactive runs, from start to end

    @property
    def seconds(self) -> float:
        return self.ended - self.began


async def read_events(connection: AsyncConnection[Any]) -> list[Event]:
    """All that was recorded, in order."""
    found = []
    for run_id, kind, at, node_id, token_id, text in await (await connection.execute(_SELECT)).fetchall():
        records: Mapping[str, Any] = orjson.loads(text or "{}")
        queued = [token for token, record in records.items() if record["state"] == "queued"]
        found.append(Event(run_id, kind, at, node_id, token_id, queued))
    return found


def account(events: Iterable[Event], model_of: Mapping[str, str | None], interactive: str) -> Account:
    """`model_of`: of each node of the ordinary runs; `interactive`: what the ids of the others begin with."""
    result = Account()
    started: dict[str, float] = {}  # interactive run -> when
    queued: dict[str, float] = {}  # token -> since when
    served: dict[str | None, float] = {}  # model -> when a task of it was last started
    for event in events:
        result.completed += event.type == "run_completed"
        if event.run_id.startswith(interactive):
            if event.type == "run_started":
                started[event.run_id] = event.at
            elif event.type in ENDS:
                result.waits_s.append(event.at - started[event.run_id])
            continue
        queued |= dict.fromkeys(event.queued, event.at)
        result.began = min(result.began, event.at)
        if event.type in ENDS:
            result.ended = event.at
        elif event.type == "task_started":
            model = model_of[event.node_id]
            waited_s = event.at - queued.pop(event.token_id, event.at)
            since_s = event.at - served.get(model, float("-inf"))
            result.unserved_s = max(result.unserved_s, min(waited_s, since_s))
            served[model] = event.at
    return result
