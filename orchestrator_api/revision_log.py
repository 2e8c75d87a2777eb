"""A run's revisions: what each of them was, made again from the run's first IR and its events."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any

import orjson

from history.run_irs import RunIRs
from history.workflows import Workflows
from lua.run_store import RunStore
from orchestrator_api.event_log import EventLog
from schemas.events import Event
from schemas.ir import IR
from schemas.revision import workflow_after

PAGE = 100
"""Revisions that are read at once; the operations of each may have 256 KB."""


class RevisionLog:
    def __init__(self, store: RunStore, log: EventLog, workflows: Workflows) -> None:
        self.store = store
        self.log = log
        self.workflows = workflows

    async def events(self, run_id: str, after: int = 0, limit: int = PAGE) -> list[Event]:
        """run_started (revision 1) and each run_patched, those with a revision above `after`, in order."""
        return await self.log.revisions(run_id, after, limit)

    async def event(self, run_id: str, revision: int) -> Event | None:
        """The one that made the revision; None if there is none."""
        found = await self.events(run_id, revision - 1, 1)
        return found[0] if found and revision_of(found[0]) == revision else None

    async def workflow(self, run_id: str, revision: int) -> Mapping[str, Any] | None:
        """The document of a revision; None if the run has none with that number."""
        texts = await self._texts(run_id)
        if texts.get(revision):
            return _document(texts[revision])
        return await self._derived(run_id, revision, texts.get(1))

    async def ir(self, run_id: str, digest: str) -> str | None:
        """The IR, as text, that a run has or had under this digest; None if nobody knows what it follows from."""

        async def text_of(wanted: str) -> str | None:
            return await self.workflows.ir(wanted) or await self._first(run_id, wanted)

        ir = await RunIRs(self.log, text_of).get(run_id, digest)
        return ir.text if ir else None

    async def _first(self, run_id: str, digest: str) -> str | None:
        """The IR of a live run's first revision, if it has this digest: it may not be recorded yet."""
        keys = self.store.keys
        for text in await self.store.redis.mget(keys.first_ir(run_id), keys.ir(run_id)):
            if text and (await asyncio.to_thread(IR.from_json, text.decode())).digest == digest:
                return str(text.decode())
        return None

    async def _derived(self, run_id: str, revision: int, first: str | None) -> Mapping[str, Any] | None:
        workflow: Mapping[str, Any] | None = None
        reached = 0
        while page := await self.events(run_id, reached, min(PAGE, revision - reached)):
            if workflow is None:
                text = first or await self.workflows.ir(page[0].data["digest"])
                if text is None:
                    return None
                workflow = _document(text)
            workflow = await asyncio.to_thread(workflow_after, workflow, page)
            reached = revision_of(page[-1])
            if reached >= revision:
                return workflow
        return None

    async def _texts(self, run_id: str) -> dict[int, str]:
        """The IRs that Redis has, by their revision: the newest, and the first."""
        keys = self.store.keys
        async with self.store.redis.pipeline(transaction=True) as pipe:
            pipe.hget(keys.run(run_id), "revision")
            pipe.mget(keys.ir(run_id), keys.first_ir(run_id))
            revision, (newest, first) = await pipe.execute()
        if not revision or not newest:
            return {}
        return {1: first, int(revision): newest} if first else {int(revision): newest}


def revision_of(event: Event) -> int:
    return int(event.data["revision"])


def _document(text: str | bytes) -> Mapping[str, Any]:
    document: Mapping[str, Any] = orjson.loads(text)["workflow"]
    return document
