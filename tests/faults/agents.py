"""Runs of agents: what is asked of which models, who works on it where, and what must hold when all is over."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import httpx
import orjson

from lua.gpu_leases import Lease, read_lease
from schemas.compiler.compiler import compile_workflow
from schemas.events import Event, read_event
from schemas.submission import make_start
from tests.faults.conftest import Floor
from tests.faults.processes import Process
from tests.faults.verdict import KEYS


def chain(*models: str, **about: Any) -> dict[str, Any]:
    """Agents one after the other. No task has a second attempt to lose."""
    nodes = [
        {"id": f"n{place}", "type": "agent", "retry": {"max_attempts": 1}, **about,
         "config": {"model": model, "prompt": "{{ output.text }}: go on" if place else "{{ input.n }}: begin"}}
        for place, model in enumerate(models)
    ]  # fmt: skip
    edges = [{"from": f"n{place}", "to": f"n{place + 1}"} for place in range(len(models) - 1)]
    return {"id": "agents", "nodes": nodes, "edges": edges}


async def begin(floor: Floor, document: Mapping[str, Any], count: int, *, prefix: str = "agent") -> list[str]:
    ir = compile_workflow(document).ir
    run_ids = [f"{prefix}-{number}" for number in range(count)]
    starts = [make_start(run_id, ir, {"n": run_id}, request=run_id) for run_id in run_ids]
    assert set(await floor.store.start_runs([start.arguments() for start in starts])) == {"started"}
    return run_ids


# -- what is seen from outside -------------------------------------------------------------------------
async def events(floor: Floor) -> list[Event]:
    """Of all runs, in the order in which they came."""
    return [event for of_run in (await floor.verdict.events()).values() for event in of_run]


async def completed(floor: Floor, count: int) -> bool:
    return sum(event.type == "node_completed" for event in await events(floor)) >= count


async def ended(floor: Floor, run_ids: Sequence[str]) -> bool:
    return all([await floor.redis.hget(KEYS.run(run_id), "ended_at") for run_id in run_ids])


async def starts(floor: Floor) -> list[str]:
    """The runner of each execution, in the order in which they began."""
    entries = [read_event(fields) for _, fields in await floor.redis.xrange(KEYS.events)]
    return [event.data["runner"] for event in entries if event.type == "task_started"]


async def leases(floor: Floor) -> dict[str, Lease]:
    """By runner, of leases that were not taken from it, though they may have ended."""
    found = [read_lease(name, text) for name, text in (await floor.redis.hgetall(KEYS.leases)).items()]
    return {lease.runner_id: lease for lease in found if lease is not None}


async def heartbeat(floor: Floor, runner: Process) -> dict[str, str]:
    fields = await floor.redis.hgetall(KEYS.runner(runner.name))
    return {name.decode(): value.decode() for name, value in fields.items()}


async def states(floor: Floor, runner: Process) -> dict[str, str]:
    """By model, its state on the runner's GPU as the heartbeat says it."""
    models = orjson.loads((await heartbeat(floor, runner)).get("models", "{}"))
    return {pool: about["state"] for pool, about in models.items()}


async def stats(engine: Process) -> dict[str, Any]:
    async with httpx.AsyncClient(trust_env=False) as client:
        return dict((await client.get(f"{engine.said}/simulated/stats")).json())


# -- the verdict ---------------------------------------------------------------------------------------
async def is_right(floor: Floor, run_ids: Sequence[str]) -> None:
    """All are completed, each step of them effectively once, Redis holds what the events tell, and nothing is left."""
    await floor.wait_until(lambda: ended(floor, run_ids))
    by_run = await floor.verdict.events()
    assert {run_id: by_run[run_id][-1].type for run_id in run_ids} == dict.fromkeys(run_ids, "run_completed")
    for run_id in run_ids:
        assert [event.seq for event in by_run[run_id]] == list(range(1, len(by_run[run_id]) + 1))
        done = Counter((event.type, event.token_id) for event in by_run[run_id] if event.type != "task_started")
        assert set(done.values()) == {1}, done
        assert await floor.verdict.fold_differs(run_id, by_run[run_id]) == []
    assert not {event.type for of_run in by_run.values() for event in of_run} & {"task_retried", "node_failed"}
    assert await floor.verdict.letters() == []
    assert await floor.wait_until(lambda: _nothing_left(floor))


async def _nothing_left(floor: Floor) -> bool:
    return not await floor.verdict.left_over()
