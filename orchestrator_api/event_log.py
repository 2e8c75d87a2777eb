"""A run's events, whole: what Postgres has recorded, and what is still on its way there in the stream."""

from __future__ import annotations

from collections.abc import Collection, Mapping

from history.dropped_events import DroppedEvents, EventsDropped
from history.events import REVISING, Events, NotRecorded
from lua.run_store import RunStore
from schemas.events import Event, read_event
from schemas.fold import fold
from schemas.run_state import RunState

PAGE = 1_000
CLOCK_MARGIN_MS = 60_000  # between the time in a run's hash and the server's own in its stream


class EventLog:
    """Reads without gap or repetition: the recorder deletes an event from the stream only when Postgres has it, so
    whoever reads the stream first and Postgres second sees every event at least once."""

    def __init__(self, store: RunStore, recorded: Events, dropped: DroppedEvents) -> None:
        self.store = store
        self.recorded = recorded
        self.dropped = dropped

    async def after(self, run_id: str, seq: int = 0, limit: int = PAGE) -> list[Event]:
        """The run's events with numbers above `seq`, in order, each once; [] if there are none (yet). Raises
        EventsDropped where there were some."""
        waiting = await self._waiting(run_id, seq)
        if waiting is None:
            return []
        if waiting and waiting[0].seq == seq + 1:  # then Postgres has none of these: it need not even be there
            return waiting[:limit]
        known = {event.seq: event for event in waiting}
        for event in await self.recorded.after(run_id, seq, limit):
            known[event.seq] = event
        found = [known[number] for number in sorted(known)][:limit]
        if not found or found[0].seq > seq + 1:
            await self._expect_kept(run_id, seq)
        return found

    async def revisions(self, run_id: str, after: int = 0, limit: int = PAGE) -> list[Event]:
        """run_started and the run_patched events, those that made a revision above `after`; in order, each once."""
        waiting = await self._waiting(run_id, 0, REVISING) or []
        known = {event.seq: event for event in waiting if event.data["revision"] > after}
        if not waiting or waiting[0].type != "run_started":  # else Postgres has none of them
            for event in await self.recorded.revisions(run_id, after, limit):
                known[event.seq] = event
        if not known:
            await self._expect_kept(run_id)
        return [known[number] for number in sorted(known)][:limit]

    async def state(self, run_id: str, at: int | None = None) -> RunState | None:
        """The folded state after event `at`, by default the last; None if the run has no events.

        It is told by way of the snapshots, and needs no Postgres where all that it follows from waits in the stream.
        Raises EventsDropped, NotRecorded, and BrokenHistory.
        """
        waiting = [event for event in await self._waiting(run_id, 0) or [] if at is None or event.seq <= at]
        whole = [number for number, event in enumerate(waiting) if event.type == "run_restated" or event.seq == 1]
        if whole:
            return fold(waiting[whole[-1] :])
        state = await self._recorded_state(run_id, at)
        reached = state.seq if state else 0
        rest = [event for event in waiting if event.seq > reached]
        if rest and rest[0].seq > reached + 1:
            raise NotRecorded(run_id, reached + 1, rest[0].seq - 1)
        return fold(rest, state) if rest else state

    async def _recorded_state(self, run_id: str, at: int | None) -> RunState | None:
        """What Postgres tells. Raises EventsDropped rather than NotRecorded where events were dropped."""
        try:
            state = await self.recorded.state(run_id, at)
        except NotRecorded:
            await self._expect_kept(run_id)
            raise
        if state is None or at is None or state.seq < at:
            await self._expect_kept(run_id, state.seq if state else 0)
        return state

    async def _expect_kept(self, run_id: str, seq: int = 0) -> None:
        """Raises EventsDropped where events above `seq` were dropped."""
        dropped = await self.dropped.of(run_id)
        if dropped and dropped.seq > seq:
            raise EventsDropped(run_id, dropped)

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
