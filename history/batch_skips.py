"""Batch skips: items that a batch was handed and does not take, because their key was worked on; kept with the reason
and the run that did it, so that nothing is left out in silence."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol, TypeVar

from psycopg import AsyncConnection

Reason = Literal["done", "running", "twice"]
"""Another batch has done the key, or works on it; or the batch itself has it twice."""


class Keyed(Protocol):
    """An item as it is handed in."""

    @property
    def run_id(self) -> str: ...
    @property
    def key(self) -> str | None: ...


Item = TypeVar("Item", bound=Keyed)


@dataclass(frozen=True, slots=True)
class Skip:
    """An item that is not taken. `position`: in the list that was handed in, from 0; the run and batch are those that
    have the key."""

    position: int
    key: str
    reason: Reason
    run_id: str
    batch_id: str


def choose_items(
    items: Sequence[Item], known: Mapping[str, tuple[Reason, str, str]], batch_id: str
) -> tuple[list[Item], list[Skip]]:
    """The items to take and those to skip. `known`: keys that were worked on -> (reason, run, batch). An item without a
    key is always taken."""
    taken, skips = [], []
    seen = dict(known)
    for position, item in enumerate(items):
        if item.key is None:
            taken.append(item)
        elif item.key in seen:
            skips.append(Skip(position, item.key, *seen[item.key]))
        else:
            taken.append(item)
            seen[item.key] = ("twice", item.run_id, batch_id)
    return taken, skips


async def known_keys(
    connection: AsyncConnection[Any], digest: str, items: Sequence[Item]
) -> dict[str, tuple[Reason, str, str]]:
    """Keys of these items that batches of this workflow version have done or are working on, as `choose_items` takes
    them."""
    cursor = await connection.execute(
        "SELECT DISTINCT ON (item.key) item.key, CASE item.state WHEN 'done' THEN 'done' ELSE 'running' END, "
        "item.run_id, item.batch_id FROM batch_items AS item JOIN batches AS batch USING (batch_id) "
        "WHERE item.key = ANY(%s) AND batch.digest = %s AND item.state IN ('pending', 'admitted', 'done') "
        "ORDER BY item.key, item.state = 'done' DESC, batch.created_at DESC",
        ([item.key for item in items if item.key is not None], digest),
    )
    return {key: (reason, run_id, batch_id) for key, reason, run_id, batch_id in await cursor.fetchall()}


async def keep_skips(connection: AsyncConnection[Any], batch_id: str, skips: Sequence[Skip]) -> None:
    if not skips:
        return
    columns = "batch_id, position, key, reason, earlier_run_id, earlier_batch_id"
    async with connection.cursor() as cursor, cursor.copy(f"COPY batch_skips ({columns}) FROM STDIN") as copy:
        for skip in skips:
            await copy.write_row((batch_id, skip.position, skip.key, skip.reason, skip.run_id, skip.batch_id))
