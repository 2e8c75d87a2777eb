"""Forks: a new run from the state that another one had. Pure.

What was done stays done; what was under way then begins anew, under new ids of tokens.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from schemas.held import held
from schemas.run_state import RunState, Usage

CALLED = ("calling",)
LIVE = ("RUNNING", "PAUSED")
STARTED = frozenset({"mapping", "timed", "listening", "answered"})
"""States of tokens that keep what they have begun."""


def forked(state: RunState, run_id: str, started: Mapping[str, Any], *, at: int, paused: bool) -> RunState:
    """The state that the fork `run_id` begins with at the time `at`. `started` is what its first event says."""
    head = f"{state.run_id}."

    def name(token: str) -> str:
        return f"{run_id}.{token.removeprefix(head)}"

    tokens: dict[str, Mapping[str, Any]] = {
        name(token): _record(record, token in state.answers) for token, record in state.tokens.items()
    }
    live = sum(1 for record in tokens.values() if not record.get("scope"))
    return replace(
        state.copy(),
        run_id=run_id,
        status="PAUSED" if paused else "RUNNING",
        revision=1,
        batch_id=None,
        key=None,
        seq=0,
        last_at=at,
        live=live,
        tokens=tokens,
        arrivals={name(token): values for token, values in state.arrivals.items()},
        maps={name(token): one for token, one in state.maps.items()},
        answers={name(token): answer for token, answer in state.answers.items()},
        opened={},  # people are asked again
        adopted={},
        epoch=0,
        error=None,
        created_at=at,
        ended_at=None,
        paused_at=at if paused else None,
        paused_ms=0,
        batch_mark="",
        usage=Usage(),
        started=started,
    )


def _record(record: Mapping[str, Any], answered: bool) -> dict[str, Any]:
    """A token's record in the fork. What a run called belongs to that run: the fork calls again."""
    kept = {name: value for name, value in record.items() if name not in ("child", "failures")}
    was = record.get("held") or record["state"]
    if was in CALLED:
        kept |= {"state": "deciding", "held": None} if record["state"] in CALLED else {"held": "deciding"}
    kept = {name: value for name, value in kept.items() if value is not None}
    return held(kept, answered=answered) | {"attempt": 0}


def in_the_way(state: RunState, gone: Sequence[str], retyped: Sequence[str]) -> list[tuple[str, str, str]]:
    """(token, node, state) of the tokens that a patch of the fork can not take away or make something else of."""
    found = []
    for token, record in state.tokens.items():
        was = record.get("held") or record["state"]
        if record["node"] in gone or (record["node"] in retyped and was in STARTED):
            found.append((token, str(record["node"]), was))
    return found
