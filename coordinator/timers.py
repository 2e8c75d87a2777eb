"""Timers: everything that is due at a time lies in one sorted set; each kind is answered by one idempotent script.

A member reads `<kind> <run> <token> <attempt>`. It is removed by the script that makes it void, so that a coordinator
that dies after reading loses nothing, and two that read the same do no harm.
"""

from __future__ import annotations

import asyncio
import logging
import re
from dataclasses import dataclass

from coordinator.adoption import Adoption
from coordinator.ir_cache import IRCache
from coordinator.service_loop import PASSING, repeat
from lua.answers import Token, read_token
from lua.run_store import Finish, RunStore
from schemas.keys import scope_of
from schemas.messages import CompletionSignal, Task

log = logging.getLogger("pavane.timers")

RUN_TIMEOUT = {"class": "timeout", "message": "the run was over its timeout_ms"}
BY_PARENT = {"by": "parent"}
SLICE = 200
LONGEST_SLEEP_S = 0.25


@dataclass(frozen=True, slots=True)
class Due:
    """What it means that a token's time is up: it passes on what arrived, or fails with a class and a message."""

    states: tuple[str, ...]
    failure: str | None = None
    message: str = ""


DUE = {
    "wait": Due(("timed",)),
    "deadline": Due(("asked", "listening"), "deadline", "no answer before the deadline"),
    "queue": Due(
        ("queued",),
        "queue_timeout",
        "for longer than queue_timeout_ms no runner served its model or type",
    ),
}


@dataclass(frozen=True, slots=True)
class Timer:
    kind: str
    run_id: str
    token_id: str
    attempt: int


def read_timer(member: str) -> Timer | None:
    """None for a member that nobody of us wrote."""
    parts = member.split(" ")
    if len(parts) != 4 or not re.fullmatch(r"[0-9]{1,9}", parts[3]):
        return None
    return Timer(parts[0], parts[1], parts[2], int(parts[3]))


class Timers:
    """Handles what is due on one shard."""

    def __init__(self, store: RunStore, irs: IRCache | None = None) -> None:
        self.store = store
        self.adoption = Adoption(store, irs or IRCache(store))

    async def run(self, stop: asyncio.Event) -> None:
        await repeat("timers", stop, self.handle_due)

    async def handle_due(self, now: int | None = None) -> float:
        """Handle one slice of what is due; answers the seconds until it is worth looking again."""
        at = await self.store.now() if now is None else now
        key = self.store.keys.timers
        due = await self.store.redis.zrangebyscore(key, "-inf", at, start=0, num=SLICE)
        for member in due:
            await self._handle_or_drop(member)
        if len(due) == SLICE:
            return 0.0
        following = await self.store.redis.zrange(key, 0, 0, withscores=True)
        wait_s = (following[0][1] - at) / 1_000 if following else LONGEST_SLEEP_S
        return min(max(wait_s, 0.005), LONGEST_SLEEP_S)

    async def _handle_or_drop(self, raw: bytes) -> None:
        member = raw.decode(errors="replace")
        try:
            if await self._handle(member):
                return
            await self.store.dead_letter("malformed_timer", member)
        except PASSING:
            raise  # it stays due
        except Exception as error:
            log.exception("timer %r failed", member)
            await self.store.dead_letter("failed_timer", f"{member}: {type(error).__name__}: {error}")
        await self.store.redis.zrem(self.store.keys.timers, raw)

    async def _handle(self, member: str) -> bool:
        """False for a member that nobody of us wrote. The scripts move or remove the timer."""
        timer = read_timer(member)
        if timer is None:
            return False
        match timer.kind:
            case "retry":
                await self.store.queue_task(timer.run_id, timer.token_id, timer.attempt)
            case "signal":
                await self.store.resignal(timer.run_id, timer.token_id, timer.attempt)
            case "run":
                await self.store.end_run(timer.run_id, "TIMED_OUT", {"error": RUN_TIMEOUT})
            case "timeout":
                await self._time_out_task(timer)
                await self.store.redis.zrem(self.store.keys.timers, member)
            case "sweep":
                await self.store.sweep_map(timer.run_id, timer.token_id)
            case "adopt":
                await self.adoption.slice(timer.run_id, timer.token_id)
            case "cancel":
                await self.store.end_run(timer.run_id, "CANCELLED", BY_PARENT)
                await self.store.redis.zrem(self.store.keys.timers, member)
            case "follow":
                await self.store.follow_parent(timer.run_id, BY_PARENT)
            case "unpark":
                await self.store.unpark_run(timer.run_id)
            case "remind":
                await self.store.remind_task(timer.run_id, timer.token_id, timer.attempt)
            case "wait" | "deadline" | "queue":
                await self._answer(timer)
            case _:
                return False
        return True

    async def _answer(self, timer: Timer) -> None:
        """A token's time is up: a wait is over, or nobody answered or executed it in time."""
        due = DUE[timer.kind]
        node = await self._node(timer)
        if due.failure is None:
            signal = CompletionSignal(*node, "completed", metadata={"passes_on": True})
        else:
            metadata = {"error_type": due.failure, "error_message": due.message, "retryable": False}
            signal = CompletionSignal(*node, "failed", metadata=metadata)
        await self.store.answer_task(
            timer.run_id, timer.token_id, signal, {"by": "timer"}, due.states, timer=timer.kind
        )

    async def _node(self, timer: Timer) -> tuple[str, str, str, int]:
        """The head of a signal for the timer's token; the script looks whether there is one."""
        scope = scope_of(timer.run_id, timer.token_id)
        record = await self.store.redis.hget(self.store.keys.tokens(timer.run_id, scope), timer.token_id)
        return timer.token_id, timer.run_id, read_token(record).node if record else "gone", timer.attempt

    async def _time_out_task(self, timer: Timer) -> None:
        """The outcome of an execution whose runner did not end it in time."""
        scope = scope_of(timer.run_id, timer.token_id)
        record = await self.store.redis.hget(self.store.keys.tokens(timer.run_id, scope), timer.token_id)
        token = read_token(record) if record else None
        if token is None or token.attempt != timer.attempt or token.state != "running":
            return
        await self.store.finish_task([failed_outcome(timer, token, "timeout", "no answer before the deadline")])


def failed_outcome(timer: Timer, token: Token, klass: str, message: str) -> Finish:
    """A failure that is stored in place of a runner's answer."""
    task = Task(timer.run_id, timer.token_id, token.node, token.scope, "", token.stream or "", token.entry or "")
    signal = CompletionSignal(
        token_id=timer.token_id,
        run_id=timer.run_id,
        node_id=token.node,
        attempt=timer.attempt,
        status="failed",
        metadata={"error_type": klass, "error_message": message, "retryable": True},
    )
    return Finish(task, signal)
