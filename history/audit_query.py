"""The audit query of a batch: the author's own SQL, whose one row says what there is before the batch, and after it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, TypeGuard

import orjson

from history.named_connections import NamedConnections, Row
from history.query_errors import QueryFailed

MAX_COLUMNS = 16
QUERY_BYTES = 4_096
STATE_BYTES = 4_096
"""Bound on a row, as JSON."""
TIMEOUT_S = 30.0

Value = int | float | str | bool | None
State = dict[str, Value]
"""What a query found: column -> number, text, boolean or null."""


@dataclass(frozen=True, slots=True)
class AuditQuery:
    """One statement for a named connection. It takes no parameters: `%` is nothing special in it."""

    connection: str
    query: str


async def ask_state(connections: NamedConnections, audit: AuditQuery) -> State:
    """The row that the query gives now, in a transaction that is read only whatever the connection may. Raises
    QueryFailed, also for what is no state: not one row, or values that are not plain."""
    found: list[Row] = []
    query = audit.query.replace("%", "%%")  # psycopg looks for parameters, though there are none
    async with connections.reading(audit.connection, query, {}, timeout_s=TIMEOUT_S) as rows:
        async for row in rows:
            found.append(row)
            if len(found) > 1:
                break
    return read_state(found)


def read_state(rows: list[Row]) -> State:
    """The one row that there must be. Raises QueryFailed, which says what to change in the query."""
    if len(rows) != 1:
        raise _unusable(f"the query gives {'no row' if not rows else 'several rows'}, and must give one")
    state = rows[0]
    if not 0 < len(state) <= MAX_COLUMNS:
        raise _unusable(f"the row has {len(state)} columns, and must have 1 to {MAX_COLUMNS}")
    for column, value in state.items():
        if not isinstance(value, Value):
            raise _unusable(f"the column {column[:80]!r} is a list or an object: count it, or cast it to text")
    if len(orjson.dumps(state)) > STATE_BYTES:
        raise _unusable(f"the row is over {STATE_BYTES} bytes of JSON: choose numbers and short texts")
    return state


def _unusable(message: str) -> QueryFailed:
    return QueryFailed("invalid_input", message)


def difference(before: Mapping[str, Any], after: Mapping[str, Any]) -> dict[str, Any]:
    """What changed between two states: of numbers the difference, of everything else `[before, after]`. What is the
    same in both, and is no number, is left out."""
    found: dict[str, Any] = {}
    for name in dict.fromkeys((*before, *after)):
        old, new = before.get(name), after.get(name)
        if _is_number(old) and _is_number(new):
            found[name] = new - old
        elif old != new or type(old) is not type(new):
            found[name] = [old, new]
    return found


def _is_number(value: Any) -> TypeGuard[int | float]:
    return isinstance(value, int | float) and not isinstance(value, bool)
