"""IRs of runs: that of any revision, made again from the first one and the run's patches where it was not recorded."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Protocol

from schemas.events import Event
from schemas.ir import IR
from schemas.kept import Kept
from schemas.revision import ir_after

PAGE = 100
"""Revisions that are read at once; the operations of each may have 256 KB."""


class Revisions(Protocol):
    """Where a run's revisions are told: recorded events, with or without those that are still in the stream."""

    async def revisions(self, run_id: str, after: int = 0, limit: int = PAGE) -> Sequence[Event]: ...


class RunIRs:
    """`text_of` gives a recorded IR's text by its digest, None where it is not recorded."""

    def __init__(self, log: Revisions, text_of: Callable[[str], Awaitable[str | None]]) -> None:
        self._log = log
        self._text_of = text_of
        self._kept = Kept()

    async def get(self, run_id: str, digest: str) -> IR | None:
        """The IR that the run has, or had, under this digest; None if nobody recorded what it follows from."""
        ir: IR | None = self._kept.get(digest)
        if ir is not None:
            return ir
        ir = await self._recorded(digest) or await self._derived(run_id, digest)
        return None if ir is None else self._keep(ir)

    async def first(self, run_id: str) -> IR | None:
        """The IR that the run began with."""
        events = await self._log.revisions(run_id, 0, 1)
        return await self.get(run_id, events[0].data["digest"]) if events else None

    async def _recorded(self, digest: str) -> IR | None:
        text = await self._text_of(digest)
        return await asyncio.to_thread(IR.from_json, text) if text else None

    async def _derived(self, run_id: str, digest: str) -> IR | None:
        events: list[Event] = []
        while page := await self._log.revisions(run_id, events[-1].data["revision"] if events else 0, PAGE):
            events += page
        numbers = [number for number, event in enumerate(events, 1) if event.data["digest"] == digest]
        first = await self._recorded(events[0].data["digest"]) if numbers else None
        return None if first is None else await asyncio.to_thread(ir_after, first, events[: numbers[-1]])

    def _keep(self, ir: IR) -> IR:
        self._kept.put(ir.digest, ir, len(ir.text))
        return ir
