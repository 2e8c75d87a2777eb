"""explain over random workflows in random orders: what it says agrees with the fold at any event, and it never raises.

`PAVANE_TEST_WORKFLOWS=2000 pytest tests/events/test_explanations.py --timeout 0` plays so many.
"""

from __future__ import annotations

import os
import random

import orjson
import pytest

from schemas.compiler.compiler import validate
from schemas.events import Event
from schemas.explanations.explain import explain
from schemas.explanations.explanation import Execution, Explanation
from schemas.explanations.sentences import sentences
from schemas.fold import fold
from schemas.ir import IR
from schemas.run_state import RunState
from tests.reference.generator import whole_case
from tests.routing.judged import JudgedPlay
from tests.routing.unrest import COURSES

WORKFLOWS = int(os.environ.get("PAVANE_TEST_WORKFLOWS", "16"))
CUTS = 4


@pytest.mark.parametrize("course", ["orders", "retries"])
async def test_every_node_of_random_runs_is_explained(redis, course):
    for seed in range(WORKFLOWS // 2):
        rng = random.Random(f"{course} {seed}")
        unrest = COURSES[course](rng)
        made = whole_case(random.Random(seed), unrest.mortal)
        if validate(made.workflow):
            continue
        await redis.flushdb()
        play = JudgedPlay(redis, made, rng, unrest)
        await play.play()
        events = await play.events()
        for cut in {len(events), *(rng.randrange(1, len(events) + 1) for _ in range(CUTS))}:
            for node in play.ir.nodes:
                found = faults(events[:cut], play.ir, node)
                assert found == [], (seed, cut, node)


def faults(events: list[Event], ir: IR, node: str) -> list[str]:
    """What an explanation has otherwise than the fold of the same events, in words."""
    state = fold(events)
    told = explain(events, {ir.digest: ir}, node, limit=10_000)
    found = _shape(told)
    found += _shape(explain(events, {}, node))  # nothing is known but the events
    if not ir.nodes[node].analysis.map:  # what items did is forgotten with them
        found += _scope(told, state, ir, "")
    for scope in {record.get("scope", "") for record in state.tokens.values()} - {""}:
        found += _scope(told, state, ir, scope)
    return found


def _shape(told: Explanation) -> list[str]:
    found = [] if told.total or told.reasons else ["neither executed nor a reason why not"]
    found += [] if all(paragraph and all(paragraph) for paragraph in sentences(told)) else ["an empty sentence"]
    orjson.dumps(told.as_dict())
    return found


def _scope(told: Explanation, state: RunState, ir: IR, scope: str) -> list[str]:
    node, mine = told.node_id, [one for one in told.executions if one.scope == scope]
    found = []
    completed = [one for one in mine if one.state == "completed"]
    if (node in state.outputs.get(scope, {})) != bool(completed):
        found.append(f"completed {len(completed)} times, and the fold has its output or not")
    records = {t: r for t, r in state.tokens.items() if r["node"] == node and r.get("scope", "") == scope}
    there = {one.token_id: one for one in mine if not one.is_over or one.token_id in records}
    if there.keys() != records.keys():
        found.append(f"tokens {sorted(there)}, and not {sorted(records)}")
    for token, one in there.items():
        found += _token(one, records.get(token, {}), state)
    if completed and not ir.lanes:
        last = max(completed, key=lambda one: one.ended_seq or 0)
        is_last = all((one.ended_seq or 0) <= (last.ended_seq or 0) for one in mine if one.state == "failed")
        if is_last and (node in state.ends.get(scope, ())) != (not last.next):
            found.append(f"it went to {last.next}, and ends are {state.ends.get(scope)}")
    return found


def _token(one: Execution, record: dict, state: RunState) -> list[str]:
    found = []
    if {arrival.source for arrival in one.arrivals} != {origin[0] for origin in record.get("from") or ()}:
        found.append(f"{one.token_id} came from {one.arrivals}, and not {record.get('from')}")
    waits = record.get("state") == "waiting"
    if waits and state.status in ("RUNNING", "PAUSED") and not one.blockers:
        found.append(f"{one.token_id} waits for nothing")
    if waits == bool(one.released) and record.get("state") != "held":
        found.append(f"{one.token_id} is {record.get('state')}, released by {one.released}") if waits else None
    state_of = "failed" if record.get("state") == "dead" else record.get("state")
    if one.state != state_of:
        found.append(f"{one.token_id} is {one.state}, and not {state_of}")
    return found
