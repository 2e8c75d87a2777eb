"""RunStore: every change of a run's state in Redis, one method per script.

Methods that lie on the path of a hop take many steps at once and send them in one round trip. Nothing here decides.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import orjson

from lua.answers import Loaded, Started, StartedTask, read_loaded, read_started_task, read_token
from lua.caller import texts
from lua.gpu_leases import GpuLeases
from lua.run_control import RunControl, answer_of
from schemas.ir import IR
from schemas.keys import scope_of
from schemas.limits import LIMITS
from schemas.messages import CompletionSignal, Task
from schemas.plan import Plan, places, start_plan
from schemas.values import Artifact

ADOPTED_AT_ONCE = 50
"""Items of a map that follow a patch in one step."""
TOLD_AS_FIELDS = ("timeout_ms", "retention_ms", "depth", "parent_signal", "parent_epoch", "batch_patch")
"""Fields of a run's hash that its first event tells as they are: a rebuild of the run needs them."""
TIMEOUT_GRACE_MS = 5_000
"""A runner ends an execution that is over its time itself; the timer is for a runner that does not."""


@dataclass(frozen=True, slots=True)
class Advance:
    """One step of `advance`: the signal's token moves on by `plan`."""

    run_id: str
    token_id: str
    node_id: str
    attempt: int | None
    ir: IR
    plan: Plan
    body: bytes  # the event's JSON


@dataclass(frozen=True, slots=True)
class Failed:
    """A step of `retry_task` or `fail_run`: the signal's token failed."""

    run_id: str
    token_id: str
    node_id: str
    attempt: int | None
    digest: str  # of the IR that it was decided on
    body: bytes  # the event's JSON
    delay_ms: int | None = None  # retry_task


@dataclass(frozen=True, slots=True)
class Claim:
    """A stream entry that a runner wants to execute."""

    task: Task
    digest: str  # of the IR that the next two are of
    reads: Sequence[str]  # nodes in ctx whose outputs it wants, as IR.addresses gives them
    timeout_ms: int | None
    reclaimed: bool = False


@dataclass(frozen=True, slots=True)
class PatchStep:
    """One step of `patch_run`. `change` and `places` as in lua/patch_run.lua, JSON."""

    run_id: str
    revision: int  # the one that it is made on
    digest: str
    ir_text: str
    change: bytes
    places: bytes
    body: bytes  # the event's JSON
    dry: bool = False


@dataclass(frozen=True, slots=True)
class Finish:
    """The outcome of one execution."""

    task: Task
    signal: CompletionSignal
    artifact: Artifact | None = None


@dataclass(frozen=True, slots=True)
class Wanted:
    """What routing one signal needs to know."""

    run_id: str
    token_id: str
    reads: Sequence[str] = ()  # as IR.addresses gives them
    loops: Sequence[str] = ()
    with_input: bool = False


@dataclass(frozen=True, slots=True)
class MapStart:
    """A map's token knows its items: `items` is the stored text of the list."""

    run_id: str
    token_id: str
    node_id: str
    attempt: int | None
    digest: str
    items: str
    total: int
    parallel: int
    body: bytes  # the event's JSON
    artifact: Artifact | None = None


@dataclass(frozen=True, slots=True)
class Opening:
    """A node that ends later begins to wait, in state asked, timed, listening or calling."""

    run_id: str
    token_id: str
    node_id: str
    attempt: int | None
    digest: str
    state: str
    fields: Mapping[str, Any]  # of the token's record: due (ms), remind_ms, event and key, child
    body: bytes  # the event's JSON
    approval: Mapping[str, Any] | None = None


class RunStore(RunControl, GpuLeases):
    """Scripts of one shard on one Redis. Answers are the scripts' own, typed."""

    # -- runs --------------------------------------------------------------------------------------
    async def start_run(
        self, run_id: str, ir: IR, fields: Mapping[str, str], input_text: str, *,
        event: Mapping[str, Any], artifacts: Iterable[Artifact] = (), plan: Plan | None = None,
    ) -> Started:  # fmt: skip
        """Create a run. `fields` of the run hash (docs/redis.md), all text; `input_text` a stored text."""
        args, keys = self._start_args(
            run_id, ir, fields, input_text, event, artifacts, plan or start_plan(ir), await self.now()
        )
        return Started((await self._call("start_run", keys, args))[0].decode())

    async def start_runs(self, runs: Sequence[Mapping[str, Any]]) -> list[Started]:
        """Many runs in one round trip; each mapping holds the arguments of `start_run`."""
        now = await self.now()
        calls = []
        for run in runs:
            args, keys = self._start_args(
                run["run_id"], run["ir"], run["fields"], run["input_text"], run["event"],
                run.get("artifacts", ()), run.get("plan") or start_plan(run["ir"]), now,
            )  # fmt: skip
            calls.append((keys, args))
        return [Started(answer[0].decode()) for answer in await self._call_many("start_run", calls)]

    def _start_args(
        self, run_id: str, ir: IR, fields: Mapping[str, str], input_text: str, event: Mapping[str, Any],
        artifacts: Iterable[Artifact], plan: Plan, now: int,
    ) -> tuple[list[Any], list[str]]:  # fmt: skip
        plan.artifacts.extend(artifacts)
        streams = {n.analysis.stream for n in ir.nodes.values() if n.analysis.stream}
        if fields.get("priority") == "interactive":
            streams |= {f"{stream}:interactive" for stream in streams}
        full = {
            **fields,
            "digest": ir.digest,
            "revision": fields.get("revision", "1"),
            "loops": " ".join(ir.loops),
            "streams": " ".join(sorted(streams)),
            "created_at": str(now),
        }
        head = [self.keys.prefix, run_id, now, orjson.dumps(full), ir.text, input_text]
        told = {name: fields[name] for name in TOLD_AS_FIELDS if fields.get(name)}
        body = orjson.dumps({**event, "digest": ir.digest, "revision": int(full["revision"]), "fields": told})
        encoded, values = plan.encode(ir, None, len(head) + 3)
        return [*head, encoded, body, *values], [self.keys.run(run_id)]

    # -- tasks, for runners ------------------------------------------------------------------------
    async def start_task(self, claims: Sequence[Claim], runner_id: str) -> list[StartedTask]:
        now = await self.now()
        calls = [
            (
                [self.keys.run(claim.task.run_id)],
                [
                    self.keys.prefix, claim.task.run_id, now, claim.task.token_id, claim.task.stream,
                    claim.task.entry, runner_id, "1" if claim.reclaimed else "", claim.digest,
                    _deadline(claim.timeout_ms), LIMITS.interruptions, " ".join(claim.reads),
                ],
            )
            for claim in claims
        ]  # fmt: skip
        answers = await self._call_many("start_task", calls)
        return [read_started_task(answer, claim.reads) for answer, claim in zip(answers, claims, strict=True)]

    async def finish_task(self, finishes: Sequence[Finish]) -> list[str]:
        """Store outcomes. Answers: finished, held, fenced, over."""
        now = await self.now()
        calls = [
            (
                [self.keys.run(finish.task.run_id)],
                [
                    self.keys.prefix, finish.task.run_id, now, finish.task.token_id,
                    _number(finish.signal.attempt), finish.task.stream, finish.task.entry,
                    finish.signal.to_json(),
                    finish.artifact.name if finish.artifact else "",
                    finish.artifact.packed if finish.artifact else "",
                ],
            )
            for finish in finishes
        ]  # fmt: skip
        return [answer[0].decode() for answer in await self._call_many("finish_task", calls)]

    async def drop_consumer(self, stream: str, runner_id: str) -> list[str]:
        """Take a runner from a stream's group. Answers: dropped | pending. Raises ResponseError without a group."""
        return texts(await self._call("drop_consumer", [self.keys.stream(stream)], [runner_id]))

    # -- routing, for coordinators -----------------------------------------------------------------
    async def load_tokens(self, wanted: Sequence[Wanted]) -> list[Loaded]:
        if not wanted:
            return []
        asked = orjson.dumps([[w.run_id, w.token_id, list(w.reads), list(w.loops), w.with_input] for w in wanted])
        answer = await self._call("load_tokens", [self.keys.run(wanted[0].run_id)], [self.keys.prefix, asked])
        return [read_loaded(part, want.reads, want.loops) for part, want in zip(answer, wanted, strict=True)]

    async def advance(self, steps: Sequence[Advance]) -> list[list[str]]:
        """Answers as in lua/advance.lua, one a step."""
        now = await self.now()
        calls = []
        for step in steps:
            plan, values = step.plan.encode(step.ir, step.node_id, 9)
            calls.append(
                (
                    [self.keys.run(step.run_id)],
                    [
                        self.keys.prefix, step.run_id, now, step.token_id, step.node_id, _number(step.attempt),
                        plan, step.body, *values,
                    ],
                )
            )  # fmt: skip
        return [texts(answer) for answer in await self._call_each("advance", calls)]

    async def retry_task(self, retries: Sequence[Failed]) -> list[list[str]]:
        """Give tasks another attempt, each after its `delay_ms`. Answers as in lua/retry_task.lua."""
        now = await self.now()
        calls = [self._failed(failed, now, now + (failed.delay_ms or 0)) for failed in retries]
        return [texts(answer) for answer in await self._call_each("retry_task", calls)]

    async def queue_task(self, run_id: str, token_id: str, attempt: int) -> list[str]:
        return await self._of_run("queue_task", run_id, token_id, attempt)

    async def fail_run(self, failures: Sequence[Failed]) -> list[list[str]]:
        """End runs by a task that failed for good. Answers as in lua/fail_run.lua."""
        now = await self.now()
        return [
            texts(answer)
            for answer in await self._call_each("fail_run", [self._failed(failed, now) for failed in failures])
        ]

    def _failed(self, failed: Failed, now: int, *due: int) -> tuple[list[str], list[Any]]:
        args = [self.keys.prefix, failed.run_id, now, failed.token_id, failed.node_id, _number(failed.attempt)]
        return [self.keys.run(failed.run_id)], [*args, failed.digest, *due, failed.body]

    # -- patches -----------------------------------------------------------------------------------
    async def patch_run(self, steps: Sequence[PatchStep]) -> list[list[str]]:
        """Answers as in lua/patch_run.lua, one a step."""
        now = await self.now()
        calls = [
            (
                [self.keys.run(step.run_id)],
                [
                    self.keys.prefix, step.run_id, now, step.revision, step.digest, step.ir_text, step.change,
                    step.places, "1" if step.dry else "", step.body,
                ],
            )
            for step in steps
        ]  # fmt: skip
        return [texts(answer) for answer in await self._call_each("patch_run", calls)]

    async def adopt_items(self, run_id: str, map_token: str, ir: IR | None, indexes: Iterable[str] = ()) -> list[str]:
        """The next slice of a map's items, or the given ones, follow the run's last patch; `ir` is its newest, None of
        a run that is gone."""
        node = await self._node_of(run_id, map_token)
        digest, encoded = "", b"{}"
        if ir is not None and node is not None and node in ir.nodes and ir.nodes[node].map is not None:
            digest, encoded = ir.digest, orjson.dumps(places(ir, node))
        return await self._of_run("adopt_items", run_id, map_token, digest, encoded, " ".join(indexes))

    async def adopt_scopes(self, run_id: str, scopes: Iterable[str], ir: IR | None) -> list[list[str]]:
        """The items that are these scopes follow, after those that enclose them. The answers of adopt_items."""
        by_level: list[dict[str, dict[str, None]]] = []  # path of the map's token -> indexes
        for scope in scopes:
            parts = scope.split(".")
            for level in range(len(parts)):
                path, _, index = ".".join(parts[: level + 1]).rpartition("-")
                if len(by_level) == level:
                    by_level.append({})
                by_level[level].setdefault(path, {})[index] = None
        answers = []
        for maps in by_level:
            for path, indexes in maps.items():
                for first in range(0, len(indexes), ADOPTED_AT_ONCE):
                    some = list(indexes)[first : first + ADOPTED_AT_ONCE]
                    answers.append(await self.adopt_items(run_id, f"{run_id}.{path}", ir, some))
        return answers

    async def _node_of(self, run_id: str, token_id: str) -> str | None:
        record = await self.redis.hget(self.keys.tokens(run_id, scope_of(run_id, token_id)), token_id)
        return read_token(record).node if record else None

    # -- nodes that end later ----------------------------------------------------------------------
    async def start_map(self, step: MapStart) -> list[str]:
        artifact = step.artifact
        return await self._of_run(
            "start_map", step.run_id, step.token_id, step.node_id, _number(step.attempt), step.digest, step.items,
            step.total, step.parallel, step.body,
            artifact.name if artifact else "", artifact.packed if artifact else "",
        )  # fmt: skip

    async def start_items(self, run_id: str, token_id: str, ir: IR, first: int, plan: Plan, body: bytes) -> list[str]:
        """Start items of a map from index `first` on: `plan.items` with the plan of one (`start_plan`)."""
        encoded, values = plan.encode(ir, None, 8)
        return await self._of_run("start_items", run_id, token_id, first, encoded, body, *values)

    async def end_item(self, failed: Failed, scope: str, result: str) -> list[str]:
        """The item that is `scope` ends with `result`, one of its tasks having failed."""
        return await self._fail_task("end_item", failed, scope, result)

    async def fail_item(self, failed: Failed, signal: CompletionSignal) -> list[str]:
        """The map of the item fails; `signal` is for the map's token."""
        told = b',"map_answer":' + orjson.dumps(answer_of(signal)) + b"}"
        return await self._fail_task("fail_item", replace(failed, body=failed.body[:-1] + told), signal.to_json())

    async def _fail_task(self, name: str, failed: Failed, *more: Any) -> list[str]:
        return await self._of_run(
            name, failed.run_id, failed.token_id, failed.node_id, _number(failed.attempt), failed.digest, *more,
            failed.body,
        )  # fmt: skip

    async def open_task(self, step: Opening) -> list[str]:
        return await self._of_run(
            "open_task", step.run_id, step.token_id, step.node_id, _number(step.attempt), step.digest, step.state,
            orjson.dumps(step.fields), orjson.dumps(step.approval) if step.approval else "", step.body,
        )  # fmt: skip

    async def map_results(self, run_id: str, path: str, most: int) -> dict[int, str]:
        """index -> stored text of the results of a map's items. It stops when they have more than `most` bytes."""
        results: dict[int, str] = {}
        size = 0
        async for index, text in self.redis.hscan_iter(self.keys.results(run_id, path), count=1_000):
            size += len(text)
            results[int(index)] = text.decode()
            if size > most:
                break
        return results

    # -- beside the scripts ------------------------------------------------------------------------
    async def dead_letter(self, reason: str, detail: str, **fields: str) -> None:
        """Keep what cannot be worked on, with its reason (no run's state: a plain append)."""
        entry = {"reason": reason, "detail": detail[:10_000], "at": str(await self.now()), **fields}
        await self.redis.xadd(self.keys.dead_letters, entry, maxlen=100_000, approximate=True)
        await self.redis.hincrby(self.keys.counters, reason, 1)

    async def ignore(self, kinds: Mapping[str, int]) -> None:
        """Count signals that changed nothing, by kind."""
        async with self.redis.pipeline(transaction=False) as pipe:
            for kind, count in kinds.items():
                pipe.hincrby(self.keys.counters, kind, count)
            await pipe.execute()

    async def artifact(self, run_id: str, name: str) -> bytes | None:
        """Packed bytes of an artifact that a live run needs."""
        packed: bytes | None = await self.redis.hget(self.keys.artifacts(run_id), name)
        return packed

    async def has_artifact(self, run_id: str, name: str) -> bool:
        return bool(await self.redis.hexists(self.keys.artifacts(run_id), name))

    async def ir_text(self, run_id: str) -> str | None:
        """The newest IR of a run, None if the run is unknown."""
        text = await self.redis.get(self.keys.ir(run_id))
        return text.decode() if text is not None else None


def _number(value: int | None) -> str | int:
    return "" if value is None else value


def _deadline(timeout_ms: int | None) -> str | int:
    return "" if timeout_ms is None else timeout_ms + TIMEOUT_GRACE_MS
