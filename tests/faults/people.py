"""What people do to runs while the tests wait: answer, pause and resume, retry, cancel."""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Any

import orjson

from lua.run_store import RunStore
from schemas.messages import CompletionSignal
from schemas.values import encode_value
from tests.faults.courses import case_of
from tests.reference.records import Completed

BY = {"by": "somebody"}


class Clerk:
    """Answers whatever a run asks, with what its script says."""

    def __init__(self, store: RunStore) -> None:
        self.store = store

    async def attend(self) -> None:
        for token, text in (await self.store.redis.hgetall(self.store.keys.approvals)).items():
            asked = orjson.loads(text)
            await self._answer(asked["run_id"], token.decode(), asked["node_id"])

    async def _answer(self, run_id: str, token_id: str, node_id: str) -> None:
        outcome = case_of(run_id).outcome_of(node_id, 1, 0, None)
        assert isinstance(outcome, Completed)
        text, artifact = encode_value(outcome.value)
        result: dict[str, Any] = {"result_ref": text} if artifact else {"result": outcome.value}
        signal = CompletionSignal(token_id, run_id, node_id, None, "completed", **result)
        await self.store.answer_task(run_id, token_id, signal, BY, ("asked",), artifact=artifact)


class Repairer:
    """Retries tours and masses that have failed, now and then before all of them is held."""

    def __init__(self, store: RunStore, run_ids: Sequence[str]) -> None:
        self.store, self.run_ids = store, run_ids
        self.patient = False  # until all is held

    async def failed(self) -> list[str]:
        looked_after = [run_id for run_id in self.run_ids if run_id.startswith(("tour-", "mass-"))]
        statuses = [await self.store.redis.hget(self.store.keys.run(run_id), "status") for run_id in looked_after]
        return [run_id for run_id, status in zip(looked_after, statuses, strict=True) if status == b"FAILED"]

    async def attend(self) -> None:
        failed = await self.failed()  # before the timers are read: a run that fails in between is still to be held
        due = await self.store.redis.zrange(self.store.keys.timers, 0, -1) if self.patient else []
        if not any(member.startswith(b"sweep ") for member in due):
            for run_id in failed:
                await self.store.retry_run(run_id, BY)


class Meddler:
    """Pauses and resumes runs at random, `pauses` times in all; cancels those of `doomed`."""

    def __init__(
        self,
        store: RunStore,
        run_ids: Sequence[str],
        rng: random.Random,
        *,
        pauses: int = 0,
        doomed: Sequence[str] = (),
    ) -> None:
        self.store, self.run_ids, self.rng = store, run_ids, rng
        self.left = pauses
        self.paused: list[str] = []
        self.doomed = list(doomed)

    async def attend(self) -> None:
        if self.doomed and self.rng.random() < 0.1:
            await self.store.end_run(self.doomed.pop(), "CANCELLED", BY)
        if self.paused and (not self.left or self.rng.random() < 0.3):
            await self.store.resume_run(self.paused.pop(0), BY)
        elif self.left and self.rng.random() < 0.3:
            chosen = self.rng.choice(self.run_ids)
            if await self.store.pause_run(chosen, BY) == ["paused"]:
                self.left -= 1
                self.paused.append(chosen)
