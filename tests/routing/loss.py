"""A loss: Redis goes empty while runs are under way, and they are rebuilt from their events."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from lua.run_image import Rebuilt
from lua.run_rebuild import RunRebuild
from schemas.events import CONTINUING, STATUS_OF, Event, read_event
from schemas.fold import fold
from schemas.ir import IR
from schemas.run_state import RunState

if TYPE_CHECKING:
    from tests.play import Play

LIVE = ("RUNNING", "PAUSED")
MOVED = ("node_completed", "node_failed")


@dataclass
class Loss:
    """What is recorded of the runs of one Redis: all entries of its stream but the last ones."""

    play: Play
    entries: Sequence[tuple[bytes, Mapping[bytes, bytes]]]
    events: Mapping[str, list[Event]]  # by run
    irs: Mapping[str, IR]  # by digest
    artifacts: Mapping[str, Mapping[bytes, bytes]]  # by run

    @classmethod
    async def of(cls, play: Play, lost: int = 0) -> Loss:
        """The last `lost` events were not recorded; the first one was."""
        entries = await play.redis.xrange(play.keys.events)
        kept = max(1, len(entries) - lost)
        while kept < len(entries) and _continues(entries[kept - 1][1], entries[kept][1]):
            kept += 1
        entries = entries[:kept]
        events: dict[str, list[Event]] = {}
        for _, fields in entries:
            event = read_event(fields)
            events.setdefault(event.run_id, []).append(event)
        irs, artifacts = {}, {}
        for run_id in events:
            text = await play.redis.get(play.keys.ir(run_id))
            ir = IR.from_json(text.decode())
            irs[ir.digest] = ir
            artifacts[run_id] = await play.redis.hgetall(play.keys.artifacts(run_id))
        return cls(play, entries, events, irs, artifacts)

    @property
    def states(self) -> dict[str, RunState]:
        return {run_id: fold(events) for run_id, events in self.events.items()}

    @property
    def is_being_held(self) -> bool:
        """A run has failed, and the items of its maps are not all held yet."""
        failed = [state for state in self.states.values() if state.status == "FAILED"]
        return any(record["state"] not in ("held", "dead") for state in failed for record in state.tokens.values())

    def is_recorded(self, token_id: str) -> bool:
        """Whether it is recorded what came of the token: it moved on, was answered, or its run has ended."""
        run_id = token_id.split(".", maxsplit=1)[0]
        state = self.states[run_id]
        if token_id in state.answers or token_id in self._tokens_of_children():
            return True
        moved = any(event.token_id == token_id and event.type in MOVED for event in self.events[run_id])
        return moved or state.status not in LIVE

    def _tokens_of_children(self) -> set[str]:
        """Tokens whose child run has done its one task, or has ended."""
        over = (*MOVED, *STATUS_OF)
        done = [events for events in self.events.values() if any(event.type in over for event in events)]
        return {events[0].data.get("parent_token", "") for events in done}

    async def happen(self) -> None:
        play, states = self.play, self.states
        await play.redis.flushdb()
        for entry, fields in self.entries:
            await play.redis.xadd(play.keys.events, dict(fields), id=entry)
        rebuild = RunRebuild(play.store)
        now = await play.store.now()
        for run_id, state in states.items():
            packed = {name.decode(): part for name, part in self.artifacts[run_id].items()}
            rebuilt = Rebuilt(state, self.irs[state.digest], packed)
            if state.status not in LIVE:
                await rebuild.keep(rebuilt)
                continue
            event: dict[str, Any] = {"from_seq": state.seq, "reason": "a test", "by": "judge"}
            if state.paused_at is None:
                state.paused_ms += now - state.last_at
            assert await rebuild.restore(rebuilt, "run_recovered", event, now)


def _continues(before: Mapping[bytes, bytes], after: Mapping[bytes, bytes]) -> bool:
    return before[b"run"] == after[b"run"] and after[b"type"].decode() in CONTINUING
