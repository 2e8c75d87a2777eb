"""RunControl: what people and timers do to a whole run, or to a task from outside; one method per script."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

import orjson
from redis.exceptions import WatchError

from lua.caller import Caller
from schemas.messages import CompletionSignal
from schemas.values import Artifact

RESIGNAL_MS = 10_000
Command = tuple[Any, ...]
"""A Redis command and its arguments."""


class RunControl(Caller):
    """Answers are as in lua/<method>.lua."""

    async def end_run(self, run_id: str, status: str, event: Mapping[str, Any]) -> list[str]:
        """End a live run as CANCELLED or TIMED_OUT."""
        return await self._of_run("end_run", run_id, status, orjson.dumps(event))

    async def pause_run(self, run_id: str, event: Mapping[str, Any]) -> list[str]:
        return await self._of_run("pause_run", run_id, orjson.dumps(event))

    async def resume_run(self, run_id: str, event: Mapping[str, Any]) -> list[str]:
        return await self._of_run("resume_run", run_id, orjson.dumps(event))

    async def follow_parent(self, run_id: str, event: Mapping[str, Any]) -> list[str]:
        return await self._of_run("follow_parent", run_id, orjson.dumps(event))

    async def unpark_run(self, run_id: str) -> list[str]:
        return await self._of_run("unpark_run", run_id)

    async def retry_run(self, run_id: str, event: Mapping[str, Any], *, paused: bool = False) -> list[str]:
        """Let a failed run go on, or be PAUSED, so that it can be patched first."""
        return await self._of_run("retry_run", run_id, "1" if paused else "", orjson.dumps(event))

    async def retire_run(self, run_ids: Sequence[str]) -> list[str]:
        """Let the keys of recorded runs go after their retention. Answers: retired, live, unknown."""
        calls = [([self.keys.run(run_id)], [self.keys.prefix, run_id]) for run_id in run_ids]
        return [answer[0].decode() for answer in await self._call_many("retire_run", calls)]

    async def drop_run(self, run_id: str, before: int | None = None) -> list[str]:
        """Take a run out of Redis; with `before` only if it has not come to that event."""
        return await self._of_run("drop_run", run_id, "" if before is None else before)

    async def restate_run(self, run_id: str, seq: int, body: bytes) -> list[str]:
        """Tell the state that the run had at `seq` in an event, if that is where it is."""
        return await self._of_run("restate_run", run_id, seq, body)

    async def restore_run(
        self, run_id: str, commands: Sequence[Command], kind: str, event: Mapping[str, Any], at: int
    ) -> bool:
        """Write a run by `commands` (lua/run_image.py) and wake it; False, and nothing, if there is one with this id.

        `kind`: run_recovered or run_forked. `at`: the time of the event.
        """
        args = [self.keys.prefix, run_id, at, kind, orjson.dumps(event)]
        # In a transaction an EVALSHA of a script that the server has forgotten is too late.
        wake = ("EVAL", self._script("restore_run").source, 1, self.keys.run(run_id), *args)
        return await self.write_run(run_id, [*commands, wake])

    async def write_run(self, run_id: str, commands: Sequence[Command]) -> bool:
        """Write a run, all of it or nothing; False if there is one with this id."""
        async with self.redis.pipeline(transaction=True) as pipe:
            await pipe.watch(self.keys.run(run_id))
            if await pipe.exists(self.keys.run(run_id)):
                return False
            pipe.multi()
            for command in commands:
                pipe.execute_command(*command)
            try:
                await pipe.execute()
            except WatchError:
                return False
        return True

    async def sweep_map(self, run_id: str, token_id: str) -> list[str]:
        return await self._of_run("sweep_map", run_id, token_id)

    async def resignal(self, run_id: str, token_id: str, attempt: int = 0) -> list[str]:
        return await self._of_run("resignal", run_id, token_id, attempt, RESIGNAL_MS)

    async def remind_task(self, run_id: str, token_id: str, attempt: int) -> list[str]:
        return await self._of_run("remind_task", run_id, token_id, attempt)

    async def answer_task(
        self, run_id: str, token_id: str, signal: CompletionSignal, event: Mapping[str, Any], states: Sequence[str], *,
        artifact: Artifact | None = None, timer: str = "",
    ) -> list[str]:  # fmt: skip
        """An outcome from outside for a token in one of `states`; `signal.attempt` None: whatever attempt it has."""
        reference = signal.result_ref
        return await self._of_run(
            "answer_task", run_id, token_id, "" if signal.attempt is None else signal.attempt, " ".join(states), timer,
            signal.to_json(), artifact.name if artifact else "", artifact.packed if artifact else "",
            orjson.dumps({**event, "answer": answer_of(signal), **({"artifacts": [reference]} if reference else {})}),
        )  # fmt: skip

    async def record_call(self, run_id: str, token_id: str, attempt: int, body: bytes) -> list[str]:
        """Event `tool_called`: recorded | fenced."""
        return await self._of_run("record_call", run_id, token_id, attempt, body)


def answer_of(signal: CompletionSignal) -> dict[str, Any]:
    """What an outcome says, for its event: `signal_of` makes the signal again."""
    metadata = {"metadata": dict(signal.metadata)} if signal.metadata else {}
    if signal.status == "failed":
        return {"failed": True, **metadata}
    if signal.result_ref:
        return {"stored_result": signal.result_ref, **metadata}
    return {"result": signal.result, **metadata}


def signal_of(answer: Mapping[str, Any], token_id: str, run_id: str, node_id: str) -> CompletionSignal:
    """The completion signal of an answer that an event tells."""
    status: Literal["completed", "failed"] = "failed" if answer.get("failed") else "completed"
    return CompletionSignal(
        token_id, run_id, node_id, None, status, answer.get("result"), answer.get("stored_result"),
        answer.get("metadata"),
    )  # fmt: skip
