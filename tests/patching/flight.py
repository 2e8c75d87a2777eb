"""A run in flight: played on the real scripts, patched where the test says, and looked at as a whole."""

from __future__ import annotations

from collections import Counter
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any

import orjson
import pytest

from coordinator.adoption import Adoption
from lua.answers import StartedTask
from lua.patching import Patch, Patched, Patching, PatchRefused
from lua.run_store import Claim, RunStore
from schemas.ir import IR
from schemas.keys import scope_of
from schemas.messages import Task
from schemas.revision import ir_after, revise
from tests.play import Answer, Play, echo
from tests.routing.bookkeeping import Bookkeeping
from tests.scripts.workflows import CHAIN

BY = {"by": "ada"}
AT_WORK = ("queued", "running")


@dataclass(frozen=True)
class Document:
    """What Bookkeeping asks of a case."""

    workflow: Mapping[str, Any]


@dataclass
class Flight(Play):
    """Claims tasks as runners do: under the newest IR, once the task's item has followed."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self.case = Document(self.workflow)
        self.first = self.ir
        self.patching = Patching(self.store)
        self.adoption = Adoption(self.store, self.irs)
        self.books = Bookkeeping(self)  # type: ignore[arg-type]

    # -- patches -----------------------------------------------------------------------------------
    async def patch(self, *operations: Mapping[str, Any], run_id: str = "run_1", **options: Any) -> Patched:
        """Raises as Patching.patch does."""
        done = await self.patching.patch(run_id, Patch(lambda ir: revise(ir, list(operations)), BY, **options))
        if not options.get("dry"):
            await self.read_ir(run_id)
        return done

    async def read_ir(self, run_id: str = "run_1") -> None:
        """Go on with the IR that the run has."""
        self.ir = IR.from_json(await self.store.ir_text(run_id) or "")
        self.books.follow(dict(self.ir.workflow))

    async def claim(self, task: Task, runner: str = "runner-1", *, reclaimed: bool = False) -> StartedTask:
        while True:
            claim = await self._claim_of(task, reclaimed)
            started = (await self.store.start_task([claim], runner))[0]
            if started.state == "unadopted":
                await self.adoption.items([(task.run_id, task.scope)])
            elif started.state != "stale":
                return started

    async def _claim_of(self, task: Task, reclaimed: bool) -> Claim:
        digest = await self.field("digest", task.run_id)
        ir = await self.irs.get(digest, task.run_id)
        node = ir.nodes.get(task.node_id) if ir else None
        if ir is None or node is None:  # it is gone
            return Claim(task, digest, (), None, reclaimed)
        return Claim(task, digest, ir.addresses(node.id, node.analysis.task_reads), node.timeout_ms, reclaimed)

    def just_before(self, method: str, act: Callable[[], Awaitable[Any]], store: RunStore | None = None) -> None:
        """Let `act` happen once, between what was read and what the store's `method` writes."""
        owner = store or self.store
        write, done = getattr(owner, method), False

        async def late(*args: Any, **kwargs: Any) -> Any:
            nonlocal done
            if not done:
                done = True
                await act()
            return await write(*args, **kwargs)

        setattr(owner, method, late)

    def when_read(self, times: int, act: Callable[[], Awaitable[Any]]) -> None:
        """Let `act` happen once, after its patches have read their runs `times` times."""
        read, seen = self.patching.bases, 0

        async def reading(run_ids: Any) -> Any:
            nonlocal seen
            found, seen = await read(run_ids), seen + 1
            if seen == times:
                await act()
            return found

        setattr(self.patching, "bases", reading)  # noqa: B010

    # -- what is wrong -----------------------------------------------------------------------------
    async def wrong(self, over: bool = False) -> list[str]:
        """Everything that is not as it must be, of the one run there is, in words."""
        found = await self.books.differences(over=over)
        events = await self.events()
        if ir_after(self.first, events).text != await self.store.ir_text("run_1"):
            found.append("the IR is not the one that the events lead to")
        return found + await self._streams() + await self._revisions()

    async def _streams(self) -> list[str]:
        """Each task lies on its stream, nothing else does, and the counters say how many they are."""
        tokens = {t: one for t, one in (await self.tokens()).items() if one.state in AT_WORK}
        found, entries, known = [], {}, await self.redis.smembers(self.keys.streams)
        for key in await self.redis.keys("wf.tasks.*"):
            if key not in known:
                found.append(f"{key!r} is not in streams")
            entries |= {entry.decode(): (key.decode(), fields) for entry, fields in await self.redis.xrange(key)}
        for token_id, token in tokens.items():
            stream, fields = entries.pop(token.entry or "", ("", {}))
            if (stream, fields.get(b"token"), fields.get(b"node")) != (
                token.stream, token_id.encode(), token.node.encode(),
            ):  # fmt: skip
                found.append(f"{token_id} on {token.node} is not on {token.stream}, but on {stream!r}: {fields}")
        found += [
            f"{entry} of {stream} belongs to nobody: {fields}"
            for entry, (stream, fields) in entries.items()
            if fields[b"run"] == b"run_1"
        ]
        expected: Counter[tuple[str, str]] = Counter()
        for token in tokens.values():
            pool = (token.stream or "").removeprefix("wf.tasks.agent.")
            if pool != token.stream:
                expected[pool.removesuffix(":interactive"), token.state] += 1
        for key in await self.redis.keys("model:*"):
            for state in AT_WORK:
                count, pool = int(await self.redis.hget(key, state) or 0), key.decode().removeprefix("model:")
                if count != expected[pool, state]:
                    found.append(f"{pool} has {count} {state}, and {expected[pool, state]} are")
        return found + await self._batch()

    async def _batch(self) -> list[str]:
        batch = await self.field("batch")
        counts = {k.decode(): int(n) for k, n in (await self.redis.hgetall(self.keys.batch(batch))).items()}
        states = Counter(
            f"{t.node}|{t.state}" for t in (await self.tokens()).values() if t.state in AT_WORK and t.scope is not None
        )
        names = {*states, *(name for name in counts if name.endswith(("|queued", "|running")))} if batch else set()
        return [f"batch: {n} is {counts.get(n)}, and not {states[n]}" for n in names if counts.get(n, 0) != states[n]]

    async def _revisions(self) -> list[str]:
        """Each task was started under the revision that the run had then."""
        found, revision = [], 1
        for event in await self.events():
            if event.type == "run_patched":
                if event.data["revision"] != revision + 1:
                    found.append(f"revision {event.data['revision']} follows {revision}")
                revision = event.data["revision"]
            if event.type == "task_started" and event.data["revision"] != revision:
                found.append(f"{event.token_id} was started under {event.data['revision']}, and not {revision}")
        return found

    # -- what can be seen --------------------------------------------------------------------------
    async def in_state(self, node: str, state: str) -> list[str]:
        return sorted(t for t, token in (await self.tokens()).items() if (token.node, token.state) == (node, state))

    async def dump(self) -> dict[bytes, bytes | None]:
        """Every key with its value, as the server would write it down, and how long it stays."""
        return {
            key: (await self.redis.dump(key), await self.redis.pttl(key) > 0)  # type: ignore[misc]
            for key in sorted(await self.redis.keys("*"))
        }

    async def raw(self, token_id: str) -> dict[str, Any]:
        record: dict[str, Any] = orjson.loads(
            await self.redis.hget(self.keys.tokens("run_1", scope_of("run_1", token_id)), token_id)
        )
        return record

    async def task_on(self, node: str) -> Task:
        """The oldest queued task of the node."""
        return next(task for task in await self.tasks() if task.node_id == node)

    async def finish_all(self) -> None:
        """Go on to the end, which must be a right one."""
        await self.run_to_end()
        assert await self.status() == "COMPLETED", (await self.events())[-1]
        assert await self.wrong(over=True) == []


async def begun(redis: Any, workflow: Mapping[str, Any] = CHAIN, answer: Answer = echo, **fields: Any) -> Flight:
    """A run whose first tasks are queued."""
    play = Flight(redis, workflow, answer)
    await play.start(**fields)
    await play.settle()
    return play


async def refused(call: Awaitable[Any]) -> PatchRefused:
    with pytest.raises(PatchRefused) as info:
        await call
    return info.value


# -- operations ------------------------------------------------------------------------------------
def set_to(path: str, value: Any) -> dict[str, Any]:
    return {"op": "replace", "path": path, "value": value}


def add(path: str, value: Any) -> dict[str, Any]:
    return {"op": "add", "path": path, "value": value}


def remove(path: str) -> dict[str, Any]:
    return {"op": "remove", "path": path}


def edge(source: str, target: str) -> dict[str, Any]:
    return add("/edges/-", {"from": source, "to": target})


# -- documents -------------------------------------------------------------------------------------
def agent(node_id: str, model: str = "m1", **more: Any) -> dict[str, Any]:
    return {"id": node_id, "type": "agent", "config": {"model": model, "prompt": "Go"}, **more}


def map_of(*nodes: Mapping[str, Any], node_id: str = "each", items: str = "input.xs", **config: Any) -> dict[str, Any]:
    edges = config.pop("edges", [])
    return {"id": node_id, "type": "map", "config": {"items": items, "nodes": list(nodes), "edges": edges, **config}}


def flow(*nodes: Mapping[str, Any], edges: list[dict[str, Any]] | None = None, **more: Any) -> dict[str, Any]:
    return {"id": "w", "nodes": list(nodes), "edges": edges or [], **more}
