"""Records runs of every kind as this release's scripts write them: `python -m tests.recorder.record_histories NAME`
writes tests/recorder/histories/NAME.json.gz. Those that are there are never written again: they are what was recorded.
"""

import asyncio
import gzip
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import orjson
from redis.asyncio import Redis

from coordinator.timers import Timers
from lua.patching import Patch, Patching
from pavane.embedded.valkey import EmbeddedValkey
from schemas.compiler.compiler import compile_workflow
from schemas.events import Event
from schemas.fold import fold
from schemas.messages import CompletionSignal, Failure
from schemas.revision import revise
from schemas.snapshot import dump_state
from tests.play import Answer, Play, echo
from tests.scripts.workflows import CHAIN, LOOP, cel, edges, mapped, task

FOLDER = Path(__file__).parent / "histories"
BY = {"by": "ada", "reason": "to see"}
EVERY = 5
"""Events between two states that are kept beside the events."""

FORK = [task("a"), task("b"), task("c")]
ANY = {"id": "any", "nodes": [*FORK, task("d", join="any")], "edges": edges("a > b > d", "a > c > d")}
JOIN = {
    "id": "join",
    "nodes": [
        task("a"), task("b", on_error=["sorry"]), task("c"), task("sorry"), {"id": "j", "type": "join"}, task("d"),
    ],
    "edges": edges("a > b > j > d", "a > c > j", "sorry > j"),
}  # fmt: skip
BRANCH = {
    "id": "branch",
    "nodes": [
        task("a"),
        {"id": "sort", "type": "branch", "config": {
            "rules": [{"condition": cel("output.score >= 80"), "next": ["good"]}], "default": ["bad"]}},
        task("good"), task("bad"),
    ],
    "edges": edges("a > sort"),
}  # fmt: skip
HUMAN = {
    "id": "human",
    "nodes": [task("a"), {"id": "ask", "type": "human", "config": {"prompt": "Go on?"}}, task("b")],
    "edges": edges("a > ask > b"),
}
CHILD = {"id": "child", "nodes": [task("c")], "edges": []}
PARENT = {
    "id": "parent",
    "nodes": [{"id": "call", "type": "workflow", "config": {"document": CHILD}}, task("end")],
    "edges": edges("call > end"),
}


class Family(Play):
    """Executes the child's tasks by their own IR too."""

    async def claim(self, task: Any, runner: str = "runner-1", *, reclaimed: bool = False) -> Any:
        known, self.ir = self.ir, self.ir if task.node_id in self.ir.nodes else compile_workflow(CHILD).ir
        try:
            return await super().claim(task, runner, reclaimed=reclaimed)
        finally:
            self.ir = known


def scored(score: int) -> Answer:
    return lambda task, started: {"score": score, "of": task.node_id}


def counting() -> Answer:
    count = iter(range(1, 100))
    return lambda task, started: {"n": next(count)}


def failing(node: str, times: int, *, retryable: bool = True) -> Answer:
    left = [times]

    def answer(task: Any, started: Any) -> Any:
        if task.node_id == node and left[0]:
            left[0] -= 1
            return Failure("handler", "not today", retryable)
        return echo(task, started)

    return answer


async def _plain(redis: Redis, workflow: Mapping[str, Any], answer: Answer = echo, value: Any = None) -> Play:
    play = Play(redis, workflow, answer)
    await play.start(input=value)
    await play.run_to_end()
    return play


async def _retried(redis: Redis) -> Play:
    play = await _plain(redis, CHAIN, failing("b", 1, retryable=False))
    await Timers(play.store).handle_due()
    await play.store.retry_run("run_1", BY)
    await play.run_to_end()
    return play


async def _failed_item(redis: Redis) -> Play:
    """A map of which an item fails; the run is retried."""
    play = await _plain(redis, mapped(), failing("a", 1, retryable=False), {"xs": [1, 2, 3]})
    await play.skip(60_000)
    await play.tick()
    await play.store.retry_run("run_1", BY)
    await play.run_to_end()
    return play


async def _paused(redis: Redis) -> Play:
    play = Play(redis, CHAIN)
    await play.start()
    first = (await play.tasks())[0]
    started = await play.claim(first)
    await play.store.pause_run("run_1", BY)
    await play.finish(first, started, {"text": "x" * 20_000})
    await play.settle()
    await play.skip(5_000)
    await play.store.resume_run("run_1", BY)
    await play.run_to_end()
    return play


async def _patched(redis: Redis) -> Play:
    play = Play(redis, CHAIN)
    await play.start()
    await play.execute((await play.tasks())[0])
    operations: list[dict[str, Any]] = [
        {"op": "add", "path": "/nodes/-", "value": task("z")},
        {"op": "add", "path": "/edges/-", "value": {"from": "b", "to": "z"}},
    ]
    await Patching(play.store).patch_all(["run_1"], Patch(lambda ir: revise(ir, operations), BY))
    text = await play.store.ir_text("run_1")
    assert text
    play.ir = revise(play.ir, operations).ir
    await play.run_to_end()
    return play


async def _human(redis: Redis) -> Play:
    play = await _plain(redis, HUMAN)
    (token,) = [name for name, one in (await play.tokens()).items() if one.node == "ask"]
    signal = CompletionSignal(token, "run_1", "ask", None, "completed", {"ok": True})
    assert await play.store.answer_task("run_1", token, signal, BY, ("asked",)) == ["answered"]
    await play.run_to_end()
    return play


async def _child(redis: Redis) -> Play:
    play = Family(redis, PARENT)
    await play.start(input={"n": 7})
    await play.run_to_end()
    return play


async def _cancelled(redis: Redis) -> Play:
    play = Play(redis, CHAIN)
    await play.start()
    await play.execute((await play.tasks())[0])
    await play.settle()
    await play.store.end_run("run_1", "CANCELLED", BY)
    return play


KINDS: dict[str, Any] = {
    "plain": lambda redis: _plain(redis, CHAIN),
    "branch": lambda redis: _plain(redis, BRANCH, scored(85)),
    "attempts": lambda redis: _plain(
        redis, {"id": "w", "nodes": [task("a", retry={"max_attempts": 3, "backoff_ms": 5})], "edges": []},
        failing("a", 2),
    ),
    "join": lambda redis: _plain(redis, JOIN),
    "join_any": lambda redis: _plain(redis, ANY),
    "on_error": lambda redis: _plain(redis, JOIN, failing("b", 1, retryable=False)),
    "loop": lambda redis: _plain(redis, LOOP, counting()),
    "map": lambda redis: _plain(redis, mapped(max_parallel=2), echo, {"xs": [1, 2, 3, 4]}),
    "map_large": lambda redis: _plain(redis, mapped(), lambda task, _: "y" * 17_000, {"xs": [1, 2]}),
    "failed": lambda redis: _plain(redis, CHAIN, failing("b", 1, retryable=False)),
    "retried": _retried,
    "failed_item": _failed_item,
    "paused": _paused,
    "patched": _patched,
    "human": _human,
    "child": _child,
    "cancelled": _cancelled,
}  # fmt: skip


def written(events: list[Event]) -> dict[str, Any]:
    """A run as the file holds it: its events, and its state after some of them as `dump_state` gives it."""
    seqs = [*range(EVERY, len(events), EVERY), len(events)]
    return {
        "events": [[e.seq, e.type, e.at, e.node_id, e.token_id, e.scope, e.data] for e in events],
        "states": {str(seq): orjson.loads(dump_state(fold(events[:seq]))) for seq in seqs},
    }


async def record(url: str) -> dict[str, Any]:
    """{kind: {run: what `written` gives}}."""
    redis: Redis = Redis.from_url(url)
    found: dict[str, Any] = {}
    for kind, play_it in KINDS.items():
        await redis.flushdb()
        play = await play_it(redis)
        runs: dict[str, list[Event]] = {}
        for event in await play.events(None):
            runs.setdefault(event.run_id, []).append(event)
        found[kind] = {run_id: written(events) for run_id, events in runs.items()}
    await redis.aclose()
    return found


def main() -> None:
    file = FOLDER / f"{sys.argv[1]}.json.gz"
    if file.exists():
        sys.exit(f"{file} is recorded already: give the new one another name")
    with tempfile.TemporaryDirectory() as folder, EmbeddedValkey(Path(folder) / "valkey") as server:
        found = asyncio.run(record(server.url))
    file.write_bytes(gzip.compress(orjson.dumps(found), mtime=0))
    for kind, runs in found.items():
        ends = {
            run_id: f"{len(run['events'])} events, {list(run['states'].values())[-1]['status']}"
            for run_id, run in runs.items()
        }
        print(f"{kind:12} {ends}")
    print(f"{file}: {file.stat().st_size:,} bytes")


if __name__ == "__main__":
    main()
