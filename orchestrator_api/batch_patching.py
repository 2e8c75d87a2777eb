"""Batch patching: one patch for the runs of a batch, each asked for itself, so that one that refuses harms no other.

What was asked is kept before the first run is asked, and a run's own hash says which batch patch it had
(schemas/batch_mark.py): so what was cut off is completed by asking again, and no run is patched twice.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Awaitable, Callable, Mapping, Sequence, Set
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import orjson

from history.batch_patches import ALL, Asked, BatchPatch, OpenItem, Result
from history.history import History
from lua.patching import LIVE, SLICE, Base, Patch, Patched, Patching, PatchRefused
from orchestrator_api.requests import Canary, PatchFilter
from schemas.batch_mark import reverted
from schemas.compiler.compiler import compile_workflow
from schemas.errors import InvalidDocument
from schemas.ir import IR
from schemas.revision import Difference, Revision, restore, revise

TRIES = 3
"""Times that a run is asked which somebody else patches at the same moment."""
SHOWN = 20
"""Tokens, or faults, that are kept of a run that refuses."""
EXISTS_AT_ONCE = 1_000

Asking = Callable[[Sequence[OpenItem]], Awaitable[list[Result]]]


@dataclass(frozen=True, slots=True)
class Manner:
    """How live runs go over, and what their events say."""

    event: Mapping[str, Any]
    cancel: bool = False
    restart: bool = False
    dry: bool = False


class BatchPatching:
    """Patches the runs of one batch for one request."""

    def __init__(self, patching: Patching, history: History, batch_id: str) -> None:
        self.patching = patching
        self.history = history
        self.batch_id = batch_id
        self._recorded: set[str] = set()  # digests of IRs that Postgres has, so that the way back is known
        self._revisions: dict[str, Revision | InvalidDocument] = {}

    # -- what a patch is about -----------------------------------------------------------------------
    async def base(self) -> IR:
        """The IR with which the last of the items begin now."""
        return await self.ir(await self.history.batch_patches.begins_with(self.batch_id))

    async def canary(self, canary: Canary, total: int) -> int:
        """The last position of a canary; -1 if everything has ended."""
        items = (await self.history.batch_patches.open_items(self.batch_id))[: canary_size(canary, total)]
        return items[-1].position if items else -1

    async def filtered(self, chosen: PatchFilter) -> list[OpenItem]:
        """The items whose runs live and are chosen."""
        items, _ = await self.open()
        if chosen.keys is not None:
            keys = set(chosen.keys)
            items = [item for item in items if item.key in keys]
        if chosen.nodes is None:
            return items
        found = []
        for slice_ in _slices(items, SLICE):
            on = await self._nodes(slice_)
            found += [item for item, nodes in zip(slice_, on, strict=True) if nodes & set(chosen.nodes)]
        return found

    async def open(self, through: int | None = ALL, chosen: Set[int] | None = None) -> tuple[list[OpenItem], int]:
        """The items that have a run and have not ended, as far as is recorded, and how many have not started: those up
        to a position, or those `chosen`. An admission that died may have started runs without saying so: they count."""
        items = [
            item
            for item in await self.history.batch_patches.open_items(self.batch_id)
            if (
                item.position in chosen if chosen is not None else item.position <= (-1 if through is None else through)
            )
        ]
        there = await self._there([item for item in items if not item.admitted])
        started = [item for item in items if item.admitted or item.run_id in there]
        return started, len(items) - len(started)

    async def _there(self, items: Sequence[OpenItem]) -> set[str]:
        """Those of the runs that Redis has. Of 100,000 items nearly none has: they are asked for by the thousand."""
        store, found = self.patching.store, set[str]()
        for slice_ in _slices(items, EXISTS_AT_ONCE):
            if await store.redis.exists(*(store.keys.run(item.run_id) for item in slice_)):
                async with store.redis.pipeline(transaction=False) as pipe:
                    for item in slice_:
                        pipe.exists(store.keys.run(item.run_id))
                    answers = await pipe.execute()
                found |= {item.run_id for item, there in zip(slice_, answers, strict=True) if there}
        return found

    async def _nodes(self, items: Sequence[OpenItem]) -> list[set[str]]:
        """The nodes on which each run has live tokens of its own."""
        store = self.patching.store
        async with store.redis.pipeline(transaction=False) as pipe:
            for item in items:
                pipe.hvals(store.keys.tokens(item.run_id))
            return [{orjson.loads(record)["node"] for record in records} for records in await pipe.execute()]

    # -- runs are asked ------------------------------------------------------------------------------
    async def ask(self, items: Sequence[OpenItem], asking: Asking, keep: BatchPatch | None) -> list[Result]:
        """Ask the runs, a slice at a time; what came of each is kept as that of `keep`, if there is one."""
        results: list[Result] = []
        for slice_ in _slices(items, SLICE):
            found = await asking(slice_)
            if keep is not None:
                await self.history.batch_patches.keep_results(keep, found)
            results += found
        return results

    def forward(self, asked: Asked | BatchPatch, number: int, manner: Manner) -> Asking:
        """Runs get the patch. Those that have it, or began with it, are left as they are."""

        def make(ir: IR) -> Revision:
            if not manner.dry and ir.digest not in self._recorded:  # patched since it was looked at
                raise PatchRefused("conflict", "The run was patched at the same moment.")
            return self._revise(ir, asked.operations)

        patch = Patch(make, manner.event, manner.cancel, manner.restart, manner.dry, mark=str(number))

        async def asking(items: Sequence[OpenItem]) -> list[Result]:
            bases = await self.patching.bases([item.run_id for item in items])
            results, left = [], []
            for item in items:
                base = bases.get(item.run_id)
                if base is None or base.status not in LIVE:
                    results.append(Result(item.position, "ended"))
                elif base.mark is None or base.mark.name != str(number):
                    left.append(item)
                elif base.mark.revision > 1:
                    results.append(Result(item.position, "patched", base.mark.revision))
            if not manner.dry:
                await self._record(bases[item.run_id].ir for item in left)
            answers = await self.patching.patch_all([item.run_id for item in left], patch)
            return results + [_result(item, answer, back=False) for item, answer in zip(left, answers, strict=True)]

        return _again(asking)

    def back(self, number: int, manner: Manner) -> Asking:
        """Runs that have the patch, or began with it, get the workflow of before."""

        async def asking(items: Sequence[OpenItem]) -> list[Result]:
            bases = await self.patching.bases([item.run_id for item in items])
            results: list[Result] = []
            groups: dict[str, list[OpenItem]] = {}  # by the IR of before
            for item in items:
                base = bases.get(item.run_id)
                if base is None or base.mark is None:
                    continue
                if base.mark.name == reverted(number):
                    results.append(Result(item.position, "reverted", base.mark.revision))
                elif base.mark.name != str(number):
                    continue
                elif (refused := _not_back(item, base)) is not None:
                    results.append(refused)
                else:
                    groups.setdefault(base.mark.before, []).append(item)
            for digest, group in groups.items():
                workflow = (await self.ir(digest)).workflow
                patch = Patch(
                    lambda ir, workflow=workflow: restore(ir, workflow),  # type: ignore[misc]
                    manner.event, manner.cancel, manner.restart, manner.dry, mark=reverted(number),
                )  # fmt: skip
                answers = await self.patching.patch_all([item.run_id for item in group], patch)
                results += [_result(item, answer, back=True) for item, answer in zip(group, answers, strict=True)]
            return results

        return _again(asking)

    # -- IRs -----------------------------------------------------------------------------------------
    def after(self, ir: IR, operations: Any) -> tuple[IR, Difference]:
        """The IR of runs that begin with a patch, and what it changes. Raises InvalidDocument."""
        revision = self._revise(ir, operations)
        return compile_workflow(revision.ir.workflow).ir, revision.difference

    def _revise(self, ir: IR, operations: Any) -> Revision:
        """Once for all runs of an IR."""
        if ir.digest not in self._revisions:
            try:
                self._revisions[ir.digest] = revise(ir, operations)
            except InvalidDocument as error:
                self._revisions[ir.digest] = error
        found = self._revisions[ir.digest]
        if isinstance(found, InvalidDocument):
            raise found
        return found

    async def _record(self, irs: Any) -> None:
        for ir in {ir.digest: ir for ir in irs if ir.digest not in self._recorded}.values():
            await self.history.workflows.add_ir(ir)
            self._recorded.add(ir.digest)

    async def ir(self, digest: str) -> IR:
        text = await self.history.workflows.ir(digest)
        assert text is not None, digest
        return await asyncio.to_thread(IR.from_json, text)


def canary_size(canary: Canary, total: int) -> int:
    """The items of a canary. In floats 1.1 % of 3,000 would be a little more than 33, which makes 34."""
    return canary.first or math.ceil(total * Fraction(str(canary.percent)) / 100)


def _slices(items: Sequence[OpenItem], size: int) -> list[Sequence[OpenItem]]:
    return [items[first : first + size] for first in range(0, len(items), size)]


def _again(asking: Asking) -> Asking:
    """Those that somebody else patched at the same moment are asked once more."""

    async def persistent(items: Sequence[OpenItem]) -> list[Result]:
        results = {result.position: result for result in await asking(items)}
        for _ in range(TRIES - 1):
            left = [i for i in items if i.position in results and _met_another(results[i.position])]
            if not left:
                break
            results |= {result.position: result for result in await asking(left)}
        return list(results.values())

    return persistent


def _met_another(result: Result) -> bool:
    return result.reason is not None and result.reason["reason"] == "conflict"


def _not_back(item: OpenItem, base: Base) -> Result | None:
    """What stands against going back, without asking."""
    assert base.mark is not None
    if base.status not in LIVE:
        return Result(item.position, "ended")
    if base.revision != base.mark.revision:
        message = f"The run was patched by itself since: it is at revision {base.revision}."
        return Result(item.position, "kept", base.revision, {"reason": "patched_since", "message": message})
    return None


def _result(item: OpenItem, answer: Patched | InvalidDocument | PatchRefused, *, back: bool) -> Result:
    if isinstance(answer, Patched):
        return Result(item.position, "reverted" if back else "patched", answer.revision)
    refused = "kept" if back else "refused"
    if isinstance(answer, InvalidDocument):
        errors = [problem.as_dict() for problem in answer.problems[:SHOWN]]
        reason: dict[str, Any] = {"reason": "invalid", "message": answer.problems[0].message, "errors": errors}
        return Result(item.position, refused, None, reason)  # type: ignore[arg-type]
    if answer.reason in ("over", "unknown"):
        return Result(item.position, "ended")
    if answer.reason == "already":
        return Result(item.position, "reverted" if back else "patched", answer.revision)
    reason = {"reason": answer.reason, "message": str(answer)}
    if answer.tokens:
        names = ("token_id", "node_id", "state")
        reason["tokens"] = [dict(zip(names, token, strict=True)) for token in answer.tokens[:SHOWN]]
    return Result(item.position, refused, answer.revision or None, reason)  # type: ignore[arg-type]
