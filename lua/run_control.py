"""RunControl: what people and timers do to a whole run, or to a task from outside; one method per script."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import orjson

from lua.caller import Caller
from schemas.messages import CompletionSignal
from schemas.values import Artifact

RESIGNAL_MS = 10_000


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
        return await self._of_run(
            "answer_task", run_id, token_id, "" if signal.attempt is None else signal.attempt, " ".join(states), timer,
            signal.to_json(), artifact.name if artifact else "", artifact.packed if artifact else "",
            orjson.dumps(event),
        )  # fmt: skip

    async def record_call(self, run_id: str, token_id: str, attempt: int, body: bytes) -> list[str]:
        """Event `tool_called`: recorded | fenced."""
        return await self._of_run("record_call", run_id, token_id, attempt, body)
