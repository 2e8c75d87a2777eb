"""Steps of a run: each of its events in a sentence, with the state after it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from pavane.event_lines import EventLines
from pavane.moments import event_of
from schemas.fold import fold
from schemas.run_state import RunState
from schemas.state_view import shown_state

KEPT_EVERY = 100
"""States that are kept, so that a step back folds no more events than this."""


@dataclass(slots=True)
class Steps:
    """The events of one run, as the API answers them, in order. Places are from 0: the place of an event is its
    number less one, but in a run of which Postgres lost some."""

    events: list[Mapping[str, Any]] = field(default_factory=list)
    lines: list[str] = field(default_factory=list)
    _sentences: EventLines = field(default_factory=EventLines)
    _kept: dict[int, RunState] = field(default_factory=dict)  # by the place after which they are
    _last: tuple[int, RunState] | None = None

    def add(self, events: Sequence[Mapping[str, Any]]) -> None:
        """What happened next."""
        self.events += events
        self.lines += [self._sentences.line(event) for event in events]

    def place_of(self, seq: int) -> int:
        """Of the last event with a number up to `seq`; 0 where there is none."""
        found = [place for place, event in enumerate(self.events) if event["seq"] <= seq]
        return found[-1] if found else 0

    def state(self, place: int) -> dict[str, Any]:
        """As GET /runs/{id}/state answers, large values by their names. Before the first event, at -1: {}."""
        return shown_state(self._state(place)) if place >= 0 else {}

    def _state(self, place: int) -> RunState:
        begin, state = max(
            ((kept, known) for kept, known in (*self._kept.items(), *filter(None, [self._last])) if kept <= place),
            key=lambda one: one[0],
            default=(-1, RunState()),
        )
        for kept in range(begin + 1, place + 1):
            state = fold([event_of(self.events[kept])], state)
            if kept % KEPT_EVERY == 0:
                self._kept[kept] = state
        self._last = place, state
        return state
