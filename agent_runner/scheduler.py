"""Which model a GPU serves next. Pure: a view in, a choice out.

    item first:  A B C A B C A B C     a load for nearly every task
    here:        A A A B B B C C C     a model stays until its stream is empty, then the longest stream is next

The next model begins while the last tasks of the old one still run, if it has work for all slots; less than that could
grow while the old one's tail ends, and might be the old model's again.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Backlog:
    """What waits for one model, in tasks."""

    queued: int = 0
    interactive: int = 0

    @property
    def total(self) -> int:
        return self.queued + self.interactive


@dataclass(frozen=True, slots=True)
class View:
    """What one runner knows when it decides. `running`: tasks that it executes."""

    models: Mapping[str, Backlog]
    focus: str | None
    running: int
    slots: int


@dataclass(frozen=True, slots=True)
class Choice:
    """The model to claim tasks of; None as long as there is nothing to do. `reason` is for people."""

    model: str | None
    reason: str


def next_model(view: View) -> Choice:
    """Stay while the focus has work; else the longest stream (equal ones: interactive tasks, then the name)."""
    if view.focus is not None and view.models.get(view.focus, Backlog()).total:
        return Choice(view.focus, "it has work")
    waiting = {model: backlog for model, backlog in view.models.items() if backlog.total}
    if not waiting:
        return Choice(view.focus, "no stream has work")
    longest = min(waiting, key=lambda model: (-waiting[model].total, -waiting[model].interactive, model))
    if view.running and waiting[longest].total < view.slots:
        return Choice(view.focus, "its last tasks are running, and no other model could fill the slots")
    return Choice(longest, "its stream is the longest")
