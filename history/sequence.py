"""Sequence: which of a page's events follow on what is recorded of their runs. Pure.

known          is recorded with the same content: a repetition, left out
next           has the number after the last one: recorded
another        is recorded with other content: Redis came back older than Postgres, and the run is diverged. It and
               what follows goes to diverged_events, and changes nothing else, until the run has been restored
               from what is recorded: `run_recovered`, with the number after the recorded ones
later          events before it are missing: Postgres lost them. The run is broken; what comes is recorded, until
               `run_restated` tells the run's whole state
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import NamedTuple

import orjson

from history.entry import Entry
from schemas.events import STARTS

Content = tuple[str, str, str]
"""An event's type, token and data."""
Place = tuple[str, int]
"""A run and a number."""


class Known(NamedTuple):
    """A run as it is recorded. `seq` 0: it is not."""

    seq: int = 0
    created_at: datetime = datetime.max
    diverged: bool = False
    broken_at: int | None = None
    snapshot_seq: int = 0


@dataclass(slots=True)
class Sorted:
    """A page's events, and the runs that are not as they were before it.

    `seqs`: the last recorded event of each run that has a new one. `broken`: {run: the event after which some are
    missing}. The runs in `diverged_runs` and `broken` are newly so; those in `restored` and `restated` are not any
    more.
    """

    fresh: list[Entry] = field(default_factory=list)
    again: list[Entry] = field(default_factory=list)
    diverged: list[Entry] = field(default_factory=list)
    seqs: dict[str, int] = field(default_factory=dict)
    diverged_runs: dict[str, int] = field(default_factory=dict)
    restored: set[str] = field(default_factory=set)
    broken: dict[str, int] = field(default_factory=dict)
    restated: set[str] = field(default_factory=set)

    def is_broken(self, run_id: str, known: Mapping[str, Known]) -> bool:
        """Whether events of the run are missing, after this page."""
        before = run_id in known and known[run_id].broken_at is not None
        return run_id in self.broken or (before and run_id not in self.restated)


def suspects(entries: Sequence[Entry], known: Mapping[str, Known]) -> list[Entry]:
    """Those whose number is recorded: their content decides."""
    return [entry for entry in entries if (run := known.get(entry.run_id)) and entry.seq <= run.seq]


def sort(entries: Sequence[Entry], known: Mapping[str, Known], recorded: Mapping[Place, Content]) -> Sorted:
    """`recorded` has what is recorded under the places of the suspects."""
    page = Sorted()
    seqs, fresh = page.seqs, page.fresh
    wrong = {run_id for run_id, run in known.items() if run.diverged or run.broken_at is not None}
    for entry in entries:
        run_id = entry.run_id
        last = seqs.get(run_id)
        if last is None:
            last = known[run_id].seq if run_id in known else 0
        if entry.seq == last + 1 and run_id not in wrong and (last or entry.type in STARTS):
            seqs[run_id] = entry.seq
            fresh.append(entry)
        elif _sort_odd(page, entry, known.get(run_id, Known()), last, recorded):
            wrong.add(run_id)
        else:
            wrong.discard(run_id)
    return page


def _sort_odd(page: Sorted, entry: Entry, run: Known, last: int, recorded: Mapping[Place, Content]) -> bool:
    """Sort an event that does not simply follow; whether its run is diverged or broken after it."""
    run_id, seq = entry.run_id, entry.seq
    diverged = (run.diverged or run_id in page.diverged_runs) and run_id not in page.restored
    broken = (run.broken_at is not None or run_id in page.broken) and run_id not in page.restated
    if seq <= last:
        content = recorded.get((run_id, seq)) or _in_page(page, run_id, seq)
        if content == _content(entry):
            page.again.append(entry)
            if diverged and entry.type == "run_recovered":
                page.restored.add(run_id)
                diverged = False
        elif content is None and broken and not diverged:
            page.fresh.append(entry)  # one of those that were missing
        else:
            page.diverged.append(entry)
            if not diverged:
                page.diverged_runs[run_id] = seq
                page.restored.discard(run_id)
            diverged = True
        return diverged or broken
    if entry.type == "run_restated":
        page.restated.add(run_id)
        page.broken.pop(run_id, None)
        if diverged:
            page.restored.add(run_id)
        diverged = broken = False
    elif diverged and _restores(entry, last):
        page.restored.add(run_id)
        diverged = False
    elif diverged:
        page.diverged.append(entry)
        return True
    if entry.type != "run_restated" and not broken and (seq > last + 1 or (last == 0 and entry.type not in STARTS)):
        page.broken[run_id] = last
        page.restated.discard(run_id)
        broken = True
    page.seqs[run_id] = seq
    page.fresh.append(entry)
    return broken


def _restores(entry: Entry, last: int) -> bool:
    """Whether the run was rebuilt from exactly what is recorded of it."""
    if entry.type != "run_recovered" or entry.seq != last + 1:
        return False
    body = orjson.loads(entry.data)
    return isinstance(body, dict) and body.get("from_seq") == last


def _in_page(page: Sorted, run_id: str, seq: int) -> Content | None:
    """The same event earlier in the page."""
    return next((_content(entry) for entry in page.fresh if (entry.run_id, entry.seq) == (run_id, seq)), None)


def _content(entry: Entry) -> Content:
    return entry.type, entry.token_id, entry.data.decode(errors="replace")
