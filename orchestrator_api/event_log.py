"""A run's events, whole: what Postgres has recorded, and what is still on its way there in the stream."""

from __future__ import annotations

from collections.abc import Collection, Mapping

from history.events import REVISING, Events
from lua.run_store import RunStore
from schemas.events import Event, read_event
from schemas.fold import RunState, fold

PAGE = 1_000
CLOCK_MARGIN_MS = 60_000  # between the time in a run's hash and the server's own in its stream


class EventLog:
    """Reads without gap or repetition: the recorder deletes an event from the stream only when Postgres has it, so
    whoever reads the stream first and Postgres second sees every event at least once."""

    def __init__(self, store: RunStore, recorded: Events) -> None:
        self.store = store
        self.recorded = recorded

    async def after(self, run_id: str, seq: int = 0, limit: int = PAGE) -> list[Event]:
        """The run's events with numbers above `seq`, in order, each once; [] if there are none (yet)."""
        waiting = await self._waiting(run_id, seq)
        if waiting is None:
            return []
        if waiting and waiting[0].seq == seq + 1:  # then Postgres has none of these: it need not even be there
            return waiting[:limit]
        known = {event.seq: event for event in waiting}
        for event in await self.recorded.after(run_id, seq, limit):
            known[event.seq] = event
        return [known[number] for number in sorted(known)][:limit]

    async def revisions(self, run_id: str, after: int = 0, limit: int = PAGE) -> list[Event]:
        """run_started and the run_patched events, those that made a revision above `after`; in order, each once."""
        waiting = await self._waiting(run_id, 0, REVISING) or []
        known = {event.seq: event for event in waiting if event.data["revision"] > after}
        if not waiting or waiting[0].type != "run_started":  # else Postgres has none of them
            for event in await self.recorded.revisions(run_id, after, limit):
                known[event.seq] = event
        return [known[number] for number in sorted(known)][:limit]

    async def state(self, run_id: str, at: int | None = None) -> RunState | None:
        """The folded state after event `at`, by default the last; None if the run has no events."""
        state: RunState | None = None
        while True:
            reached = state.seq if state else 0
            wanted = [e for e in await self.after(run_id, reached) if at is None or e.seq <= at]
            if not wanted:
                return state
            state = fold(wanted, state)

    async def _waiting(self, run_id: str, seq: int, types: Collection[str] = ()) -> list[Event] | None:
        """Those in the stream, of all types or the given ones; None if Redis knows the run and it has no event above
        `seq`."""
        keys = self.store.keys
        last, created_at = await self.store.redis.hmget(keys.run(run_id), "seq", "created_at")
        if last is not None and int(last) <= seq:
            return None
        position = f"{max(0, int(created_at) - CLOCK_MARGIN_MS)}-0" if created_at else "-"
        found: list[Event] = []
        wanted, kinds = run_id.encode(), {kind.encode() for kind in types}
        while True:
            page = await self.store.redis.xrange(keys.events, position, count=PAGE)
            entries = [fields for _, fields in page if fields.get(b"run") == wanted]
            ours = [try_event(fields) for fields in entries if not kinds or fields.get(b"type") in kinds]
            found += [event for event in ours if event]
            if len(page) < PAGE:
                return [event for event in found if event.seq > seq]
            position = f"({page[-1][0].decode()}"


def try_event(fields: Mapping[bytes, bytes]) -> Event | None:
    """The event of an entry; None for one that is none, which the recorder puts to the dead letters."""
    try:
        return read_event(fields)
    except (KeyError, ValueError):
        return None
