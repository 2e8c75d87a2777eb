"""RunStore: every change of a run's state in Redis, one method per script.

Methods that lie on the path of a hop take many steps at once and send them in one round trip. Nothing here decides.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import orjson
from redis.asyncio import Redis
from redis.exceptions import NoScriptError, ResponseError

from lua.answers import Loaded, Started, StartedTask, read_loaded, read_started_task
from lua.script import Script, load_script
from schemas.ir import IR
from schemas.keys import Keys
from schemas.limits import LIMITS
from schemas.messages import CompletionSignal, Task
from schemas.plan import Plan, start_plan
from schemas.values import Artifact

RESIGNAL_MS = 10_000
CLOCK_S = 30
"""How long the server's time is kept before it is asked for again."""
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
    reads: Sequence[str]  # nodes in ctx whose outputs it wants
    timeout_ms: int | None
    reclaimed: bool = False


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
    scope: str = ""
    reads: Sequence[str] = ()
    loops: Sequence[str] = ()
    with_input: bool = False


class RunStore:
    """Scripts of one shard on one Redis. Answers are the scripts' own, typed."""

    def __init__(self, redis: Redis, keys: Keys) -> None:
        self.redis: Any = redis  # redis-py types every answer as bytes or str or more; here they are bytes
        self.keys = keys
        self._scripts: dict[str, Script] = {}
        self._offset_ms = 0.0  # from this machine's clock to the server's
        self._asked_at = float("-inf")

    async def now(self) -> int:
        """The server's time in ms: asked now and then, kept by this machine's clock in between."""
        here = time.time()
        # The wall clock sees that a machine was suspended; one that was set back is asked about too.
        if not 0 <= here - self._asked_at < CLOCK_S:
            seconds, micros = await self.redis.time()
            here = self._asked_at = time.time()
            self._offset_ms = seconds * 1_000 + micros / 1_000 - here * 1_000
        return int(here * 1_000 + self._offset_ms)

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
        body = orjson.dumps({**event, "digest": ir.digest, "revision": int(full["revision"])})
        encoded, values = plan.encode(ir, None, len(head) + 3)
        return [*head, encoded, body, *values], [self.keys.run(run_id)]

    async def end_run(self, run_id: str, status: str, event: Mapping[str, Any]) -> list[str]:
        """End a live run as CANCELLED or TIMED_OUT."""
        args = [self.keys.prefix, run_id, await self.now(), status, orjson.dumps(event)]
        return _texts(await self._call("end_run", [self.keys.run(run_id)], args))

    async def retire_run(self, run_ids: Sequence[str]) -> list[str]:
        """Let the keys of recorded runs go after their retention. Answers: retired, live, unknown."""
        calls = [([self.keys.run(run_id)], [self.keys.prefix, run_id]) for run_id in run_ids]
        return [answer[0].decode() for answer in await self._call_many("retire_run", calls)]

    # -- tasks, for runners ------------------------------------------------------------------------
    async def start_task(self, claims: Sequence[Claim], runner_id: str) -> list[StartedTask]:
        now = await self.now()
        calls = [
            (
                [self.keys.run(claim.task.run_id)],
                [
                    self.keys.prefix, claim.task.run_id, now, claim.task.token_id, claim.task.stream,
                    claim.task.entry, runner_id, "1" if claim.reclaimed else "", _deadline(claim.timeout_ms),
                    LIMITS.interruptions, " ".join(claim.reads),
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
        return _texts(await self._call("drop_consumer", [self.keys.stream(stream)], [runner_id]))

    # -- routing, for coordinators -----------------------------------------------------------------
    async def load_tokens(self, wanted: Sequence[Wanted]) -> list[Loaded]:
        if not wanted:
            return []
        asked = orjson.dumps(
            [[w.run_id, w.token_id, list(w.reads), list(w.loops), w.scope, w.with_input] for w in wanted]
        )
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
        return [_texts(answer) for answer in await self._call_many("advance", calls)]

    async def retry_task(self, retries: Sequence[Failed]) -> list[list[str]]:
        """Give tasks another attempt, each after its `delay_ms`. Answers as in lua/retry_task.lua."""
        now = await self.now()
        calls = [self._failed(failed, now, now + (failed.delay_ms or 0)) for failed in retries]
        return [_texts(answer) for answer in await self._call_many("retry_task", calls)]

    async def queue_task(self, run_id: str, token_id: str, attempt: int) -> list[str]:
        args = [self.keys.prefix, run_id, await self.now(), token_id, attempt]
        return _texts(await self._call("queue_task", [self.keys.run(run_id)], args))

    async def fail_run(self, failures: Sequence[Failed]) -> list[list[str]]:
        """End runs by a task that failed for good. Answers as in lua/fail_run.lua."""
        now = await self.now()
        return [
            _texts(answer)
            for answer in await self._call_many("fail_run", [self._failed(failed, now) for failed in failures])
        ]

    def _failed(self, failed: Failed, now: int, *due: int) -> tuple[list[str], list[Any]]:
        args = [self.keys.prefix, failed.run_id, now, failed.token_id, failed.node_id, _number(failed.attempt)]
        return [self.keys.run(failed.run_id)], [*args, failed.digest, *due, failed.body]

    async def resignal(self, run_id: str, token_id: str, attempt: int = 0) -> list[str]:
        """Answers: signalled | running, runner | gone."""
        args = [self.keys.prefix, run_id, await self.now(), token_id, attempt, RESIGNAL_MS]
        return _texts(await self._call("resignal", [self.keys.run(run_id)], args))

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

    # -- calling -----------------------------------------------------------------------------------
    def _script(self, name: str) -> Script:
        script = self._scripts.get(name)
        if script is None:
            script = self._scripts[name] = load_script(name)
        return script

    async def _call(self, name: str, keys: Sequence[str], args: Sequence[Any]) -> Any:
        return (await self._call_many(name, [(keys, args)]))[0]

    async def _call_many(self, name: str, calls: Sequence[tuple[Sequence[str], Sequence[Any]]]) -> list[Any]:
        """EVALSHA for each call, in one round trip; where the server has forgotten the script, once more.

        redis-py's own Script object asks SCRIPT EXISTS with every pipeline.
        """
        if not calls:
            return []
        script = self._script(name)
        answers = await self._evalsha(script, calls)
        missing = [i for i, answer in enumerate(answers) if isinstance(answer, NoScriptError)]
        if missing:
            await self.redis.script_load(script.source)
            again = await self._evalsha(script, [calls[i] for i in missing])
            for i, answer in zip(missing, again, strict=True):
                answers[i] = answer
        for answer in answers:
            if isinstance(answer, ResponseError):
                raise answer
        return answers

    async def _evalsha(self, script: Script, calls: Sequence[tuple[Sequence[str], Sequence[Any]]]) -> list[Any]:
        if len(calls) == 1:
            keys, args = calls[0]
            try:
                return [await self.redis.evalsha(script.sha, len(keys), *keys, *args)]
            except NoScriptError as error:
                return [error]
        pipe = self.redis.pipeline(transaction=False)
        for keys, args in calls:
            pipe.execute_command("EVALSHA", script.sha, len(keys), *keys, *args)
        return list(await pipe.execute(raise_on_error=False))


def _number(value: int | None) -> str | int:
    return "" if value is None else value


def _deadline(timeout_ms: int | None) -> str | int:
    return "" if timeout_ms is None else timeout_ms + TIMEOUT_GRACE_MS


def _texts(answer: Sequence[bytes | int]) -> list[str]:
    return [part.decode() if isinstance(part, bytes) else str(part) for part in answer]
