"""SQL nodes: a query to a database that the operator named, and its rows as the output."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import orjson

from agent_runner.failure import TaskFailed
from agent_runner.nodes.gate import Gates
from agent_runner.work import Result, Work
from history.named_connections import NamedConnections, Row
from history.query_errors import QueryFailed

KEYS = "keys"
"""The parameter of a gate that holds the keys of all items."""
KEY = "key"
"""The column of a gate that says whose row it is."""
IDEMPOTENCY_KEY = "idempotency_key"


@dataclass(frozen=True, slots=True)
class _Question:
    """What the tasks of a gate must have in common to be asked together."""

    batch: str
    digest: str  # of the IR
    node_id: str
    params: bytes  # as JSON


class SqlNodes:
    """Executes sql nodes. The output is {rows}. The connections belong to the caller."""

    def __init__(self, connections: NamedConnections) -> None:
        self._connections = connections
        self._gates: Gates[list[Row] | QueryFailed] = Gates()

    async def execute(self, work: Work, variables: Mapping[str, Any]) -> Result:
        rendered = {name: template.render(variables) for name, template in work.node.templates.items()}
        params: Mapping[str, Any] = rendered.get("params") or {}
        began = time.monotonic()
        try:
            async with asyncio.timeout(work.timeout_s):
                if "gate" in rendered:
                    rows = await self._decide(work, params, _key(rendered["gate"]))
                else:
                    rows = await self._fetch(work, {IDEMPOTENCY_KEY: work.task.token_id, **params})
        except TimeoutError:
            raise TaskFailed("timeout", f"the query was not over within {work.timeout_s:g} s") from None
        except QueryFailed as failure:
            raise TaskFailed(failure.klass, failure.message, retryable=failure.retryable) from None
        return Result({"rows": rows}, {"execution_time_ms": round((time.monotonic() - began) * 1000)})

    async def close(self) -> None:
        """What nobody waits for any more has ended already."""

    async def _fetch(self, work: Work, params: Mapping[str, Any]) -> list[Row]:
        config = work.node.config
        return await self._connections.fetch(config["connection"], config["query"], params, timeout_s=work.timeout_s)

    async def _decide(self, work: Work, params: Mapping[str, Any], key: str) -> list[Row]:
        """This item's rows of one query for all items that are at this gate now. Raises QueryFailed."""

        async def ask(keys: Sequence[str]) -> Mapping[str, list[Row] | QueryFailed]:
            return await self._rows_by_key(work, params, keys)

        started, node = work.started, work.node
        question = _Question(started.batch, work.program.ir.digest, node.id, orjson.dumps(params))
        answer = await self._gates.ask(question, key, ask)
        if isinstance(answer, QueryFailed):
            raise answer
        return answer

    async def _rows_by_key(
        self, work: Work, params: Mapping[str, Any], keys: Sequence[str]
    ) -> dict[str, list[Row] | QueryFailed]:
        found: dict[str, list[Row] | QueryFailed] = {}
        try:
            rows = await self._fetch(work, {**params, KEYS: list(keys)})
            by_key = _by_key(rows)
        except QueryFailed as failure:
            if not failure.of_data or len(keys) == 1:
                return {**dict.fromkeys(keys, failure)}
            # One item's key, or the size of its rows, is nothing to the others: found by halves.
            half = len(keys) // 2
            for some in (keys[:half], keys[half:]):
                found |= await self._rows_by_key(work, params, some)
            return found
        return {key: by_key.get(key, []) for key in keys}


def _key(value: Any) -> str:
    if isinstance(value, bool) or not isinstance(value, str | int):
        raise TaskFailed("invalid_input", "the `gate` of an item must give a string or a whole number")
    return str(value)


def _by_key(rows: Sequence[Row]) -> dict[str, list[Row]]:
    found: dict[str, list[Row]] = {}
    if rows and KEY not in rows[0]:
        raise QueryFailed("invalid_input", f"the rows of a gate need a column `{KEY}`, which says whose row it is")
    for row in rows:
        key = row[KEY]
        if key is not None:
            found.setdefault(key if isinstance(key, str) else orjson.dumps(key).decode(), []).append(row)
    return found
