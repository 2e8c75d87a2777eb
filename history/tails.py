"""Tails: the events of each run since its last snapshot, so that a run that ends or is due for a snapshot is folded.

The newest are kept in memory, up to a bound, as the recorder has written them; the others are read back.
"""

from __future__ import annotations

import asyncio
import logging
from collections import OrderedDict
from collections.abc import Iterable, Mapping, Sequence, Set
from typing import Any, NamedTuple

from psycopg import AsyncConnection

from history.entry import Entry
from history.events import read_entries
from history.snapshots import NOTHING, Row, Snapshot, read_snapshots, take
from schemas.events import STARTS
from schemas.fold import BrokenHistory, fold
from schemas.run_state import RunState

log = logging.getLogger(__name__)

KEPT_BYTES = 64 << 20
ENTRY_BYTES = 400
"""What an entry takes in memory besides its data, about."""
STATE_BYTES = 4
"""What a byte of a state's JSON takes in memory, about."""
READ_AT_ONCE = 100
"""Runs whose events are read back together."""
SLICE = 50
"""Events that are folded before others get their turn."""
UNFOLDABLE = (BrokenHistory, ValueError, KeyError, IndexError, TypeError, AttributeError)


class Tail:
    """The last snapshot of a run and the events after it. `hopeless`: they can not be folded."""

    __slots__ = ("entries", "hopeless", "size", "snapshot")

    def __init__(self, snapshot: Snapshot = NOTHING, entries: Iterable[Entry] = ()) -> None:
        self.snapshot = snapshot
        self.entries: list[Entry] = []
        self.size = snapshot.size * STATE_BYTES
        self.hopeless = False
        self.extend(entries)

    @property
    def seq(self) -> int:
        return self.entries[-1].seq if self.entries else self.snapshot.state.seq

    def extend(self, entries: Iterable[Entry]) -> None:
        for entry in entries:
            self.size += len(entry.data) + ENTRY_BYTES
            self.entries.append(entry)


class Folded(NamedTuple):
    """The states of runs, and the snapshots that are due."""

    states: dict[str, RunState]
    snapshots: list[Row]


class Tails:
    """Of the runs that one recorder records. After a transaction that failed it must be cleared: it would be ahead."""

    def __init__(self, every: int, kept_bytes: int = KEPT_BYTES) -> None:
        self.every = every
        self.kept_bytes = kept_bytes
        self.size = 0
        self._kept: OrderedDict[str, Tail] = OrderedDict()

    def clear(self) -> None:
        self._kept.clear()
        self.size = 0

    def drop(self, run_id: str) -> None:
        if tail := self._kept.pop(run_id, None):
            self.size -= tail.size

    def add(self, run_id: str, entries: Sequence[Entry]) -> Tail | None:
        """Events that were just written. None where what is before them is not in memory."""
        tail = self._kept.get(run_id)
        first = entries[0]
        if first.type == "run_restated" or (first.seq == 1 and first.type in STARTS):
            self._keep(run_id, tail := Tail(NOTHING, entries))
        elif tail and tail.seq == first.seq - 1:
            self.size -= tail.size
            tail.extend(entries)
            self.size += tail.size
            self._kept.move_to_end(run_id)
        else:
            self.drop(run_id)
            tail = None
        while self.size > self.kept_bytes and len(self._kept) > 1:  # that of the newest one always stays
            self.size -= self._kept.popitem(last=False)[1].size
        return tail

    def _keep(self, run_id: str, tail: Tail) -> None:
        self.drop(run_id)
        self._kept[run_id] = tail
        self.size += tail.size

    def add_all(
        self, fresh: Mapping[str, Sequence[Entry]], last: Mapping[str, int], wanted: Set[str]
    ) -> tuple[dict[str, Tail], dict[str, int]]:
        """Add events that are just being written. The tails to fold: of the `wanted` runs and of those whose snapshot
        is due; and the same runs where the tail is to be read first, with their last events.

        `last` are the numbers of the runs' last snapshots.
        """
        tails: dict[str, Tail] = {}
        missing: dict[str, int] = {}
        for run_id, entries in fresh.items():
            tail = self.add(run_id, entries)
            if tail is None and (run_id in wanted or entries[-1].seq - last.get(run_id, 0) >= self.every):
                missing[run_id] = entries[-1].seq
            elif tail and (run_id in wanted or len(tail.entries) >= self.every):
                tails[run_id] = tail
        return tails, missing

    async def read(self, connection: AsyncConnection[Any], seqs: Mapping[str, int]) -> dict[str, Tail]:
        """The tails of the runs up to their `seqs`, as they are recorded; from now on they are kept."""
        tails = await _read(connection, seqs)
        for run_id, tail in tails.items():
            self._keep(run_id, tail)
        return tails

    async def fold(self, tails: Mapping[str, Tail], wanted: Set[str]) -> Folded:
        """The states of the `wanted` runs, and the snapshots that are due of all runs. A state that can not be folded
        is left out, with a line in the log. Others have their turn in between."""
        folded = Folded({}, [])
        worked = 0
        for run_id, tail in tails.items():
            if (worked := worked + len(tail.entries)) > SLICE:
                worked = 0
                await asyncio.sleep(0)
            restated = tail.entries and tail.entries[0].type == "run_restated"
            if not tail.hopeless and (restated or len(tail.entries) >= self.every):
                folded.snapshots.extend(self._snapshots(run_id, tail))
            if run_id in wanted:
                if not tail.hopeless and (state := _fold(run_id, tail)):
                    folded.states[run_id] = state
                self.drop(run_id)
        return folded

    def _snapshots(self, run_id: str, tail: Tail) -> list[Row]:
        try:
            rows, snapshot, rest = take(tail.entries, tail.snapshot, self.every)
        except UNFOLDABLE as error:
            _complain(run_id, error)
            tail.hopeless = True
            return []
        if rows:
            self._keep(run_id, Tail(snapshot, rest))
            tail.snapshot, tail.entries = snapshot, rest
        return rows


def _fold(run_id: str, tail: Tail) -> RunState | None:
    try:
        return fold([entry.event() for entry in tail.entries], tail.snapshot.state)
    except UNFOLDABLE as error:
        _complain(run_id, error)
        return None


def _complain(run_id: str, error: Exception) -> None:
    log.error("%s can not be folded: %s: %s", run_id, type(error).__name__, error, extra={"run_id": run_id})


def parts(seqs: Mapping[str, int]) -> list[dict[str, int]]:
    """Runs, with their last events, as many as are read together."""
    names = list(seqs)
    return [
        {name: seqs[name] for name in names[first : first + READ_AT_ONCE]}
        for first in range(0, len(names), READ_AT_ONCE)
    ]


async def _read(connection: AsyncConnection[Any], seqs: Mapping[str, int]) -> dict[str, Tail]:
    """The tails of the runs, up to their `seqs`."""
    snapshots = await read_snapshots(connection, seqs)
    after = {run_id: snapshots[run_id].state.seq if run_id in snapshots else 0 for run_id in seqs}
    entries = await read_entries(connection, after)
    return {run_id: Tail(snapshots.get(run_id, NOTHING), entries.get(run_id, ())) for run_id in seqs}
