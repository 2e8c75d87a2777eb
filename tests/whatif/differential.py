"""A run's events held against what the same workflow makes of them: nothing may differ."""

from collections.abc import Sequence
from typing import Any

from pavane.whatif.definitions import Definitions
from pavane.whatif.play import Played, Player, changed
from pavane.whatif.recorded import TYPES, Recorded, Run, read_recorded
from schemas.events import Event
from schemas.fold import fold
from schemas.ir import IR


def recorded_of(events: Sequence[Event], ir: IR) -> Recorded:
    state = fold(events)
    run = Run(
        state.run_id, state.key or "", state.status, state.error, {"id": state.run_id, "workflow_id": ir.workflow_id}
    )
    return read_recorded(run, [event for event in events if event.type in TYPES], lambda digest: ir)


def played_again(recorded: Recorded, ir: IR, loaded: dict[str, Any] | None = None) -> Played:
    return Player(recorded, ir, Definitions(), loaded or {}).play()


def differences(events: Sequence[Event], ir: IR) -> list[str]:
    """What comes out otherwise when a run is routed again by its own workflow."""
    recorded = recorded_of(events, ir)
    played = played_again(recorded, ir)
    found = changed(recorded, played)
    found += [f"needed {node}: {why}" for node, why, _ in played.needed]
    if recorded.path != played.path:
        found.append(f"path {recorded.path} -> {played.path}")
    if dict(recorded.outputs) != dict(played.outputs) and recorded.run.status == "COMPLETED":
        found.append(f"outputs {recorded.outputs} -> {played.outputs}")
    was = [decision for one in recorded.done for decision in one.decisions]
    if was != played.decisions:
        found.append(f"decisions {was} -> {played.decisions}")
    return found
