"""The engine: a batch's recorded runs, read page by page and routed again. What is read is forgotten with its page."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from history.batch_histories import RunHistory
from history.history import History
from pavane.whatif.answer import answer, answer_sweep
from pavane.whatif.definitions import Definitions
from pavane.whatif.play import Endless, Played, Player
from pavane.whatif.question import Question, ask_operations, ask_sweep, ask_workflow
from pavane.whatif.recorded import TYPES, NotWhole, Recorded, Run, read_recorded
from pavane.whatif.swept import plays
from pavane.whatif.tally import Before, Tally
from pavane.whatif.value import ArtifactGone, NoArtifact, NotLoaded
from schemas.ir import IR
from schemas.values import unpack
from schemas.variables import run_variables

PAGE = 100
"""Runs whose events are in memory together."""
SLICE = 10
"""Of them, those whose artifacts are."""
ROUNDS = 10_000
"""Times that artifacts are read for one slice: each time a run comes further."""


class WhatIf:
    """Answers what would have become of recorded runs. It reads Postgres alone."""

    def __init__(self, history: History) -> None:
        self.history = history

    async def by_workflow(self, batch_id: str, workflow: Mapping[str, Any], shown: int) -> dict[str, Any]:
        """The batch's runs under another workflow. Raises InvalidDocument, and what History raises."""
        return await self._ask(batch_id, lambda base: ask_workflow(base, workflow), shown)

    async def by_operations(self, batch_id: str, operations: Any, shown: int) -> dict[str, Any]:
        """Under the batch's newest workflow with a patch. Raises likewise."""
        return await self._ask(batch_id, lambda base: ask_operations(base, operations), shown)

    async def by_sweep(self, batch_id: str, path: str, values: Sequence[Any], shown: int) -> dict[str, Any]:
        """With one number of it at several values. Raises likewise."""
        return await self._ask(batch_id, lambda base: ask_sweep(base, path, values), shown)

    async def _ask(self, batch_id: str, make: Callable[[IR], Question], shown: int) -> dict[str, Any]:
        digest = await self.history.batch_patches.begins_with(batch_id)
        text = await self.history.workflows.ir(digest)
        assert text is not None, digest
        question = await asyncio.to_thread(lambda: make(IR.from_json(text)))
        work = _Work(batch_id, question, {digest: question.base}, shown)
        after = -1
        while page := await self.history.batch_histories.page(batch_id, TYPES, after, PAGE):
            await self._know_irs(work, page)
            await self._play(work, await asyncio.to_thread(work.read, page))
            after = page[-1].position
        make_answer = answer_sweep if question.threshold else answer
        return make_answer(batch_id, question, work.before, work.tallies())

    async def _know_irs(self, work: _Work, page: Sequence[RunHistory]) -> None:
        """The IRs with which runs began: of a batch one, or one more for each of its patches."""
        for one in page:
            digest = one.events[0].data.get("digest") if one.events else None
            if digest and digest not in work.irs:
                text = await self.history.workflows.ir(digest)
                work.irs[digest] = await asyncio.to_thread(IR.from_json, text) if text else None

    async def _play(self, work: _Work, runs: list[Recorded]) -> None:
        missing = await asyncio.to_thread(work.play, runs, {})
        stopped = [recorded for recorded, _ in missing]
        for first in range(0, len(stopped), SLICE):
            left, loaded = stopped[first : first + SLICE], dict[str, Any]()
            names = {name for _, name in missing[first : first + SLICE]}
            for _ in range(ROUNDS):
                if not names:
                    break
                packed = await self.history.artifacts.get_many(names)
                loaded |= {name: unpack(packed[name]) if name in packed else NoArtifact() for name in names}
                further = await asyncio.to_thread(work.play, left, loaded)
                left, names = [recorded for recorded, _ in further], {name for _, name in further}


class _Work:
    """What one question has come to so far."""

    def __init__(self, batch_id: str, question: Question, irs: dict[str, IR | None], shown: int) -> None:
        self.batch_id = batch_id
        self.question = question
        self.irs = irs
        self.before = Before()
        self.shown = shown
        self.groups: dict[Sequence[int], Tally] = {}  # by the values for which a run went alike
        self.definitions = Definitions()

    def read(self, page: Sequence[RunHistory]) -> list[Recorded]:
        """The runs that can be played from their beginning; the others are counted by the reason."""
        found = []
        for one in page:
            variables = run_variables(one.run_id, one.workflow_id, self.batch_id, one.key)
            run = Run(one.run_id, one.key, one.status, one.error, variables)
            try:
                if not one.whole:
                    raise NotWhole("what is recorded of it is not all that happened")
                found.append(read_recorded(run, one.events, self.irs.get))
            except NotWhole as error:
                self.before.left_out[str(error)] += 1
        return found

    def play(self, runs: Sequence[Recorded], loaded: Mapping[str, Any]) -> list[tuple[Recorded, str]]:
        """Play and count them; those that can not go on without an artifact, and its name."""
        stopped = []
        for recorded in runs:
            try:
                found = self._ways(recorded, loaded)
            except NotLoaded as error:
                stopped.append((recorded, error.name))
            except Endless:
                self.before.left_out["it would go on for ever"] += 1
            except ArtifactGone:
                self.before.left_out["a large output of it is not kept any more"] += 1
            else:
                self.before.add(recorded)
                for played, numbers in found:
                    self.groups.setdefault(numbers, Tally(self.shown)).add(recorded, played)
        return stopped

    def tallies(self) -> list[Tally]:
        """One for each value that was tried."""
        found = [Tally(self.shown) for _ in range(self.question.count)]
        for numbers, tally in self.groups.items():
            for number in numbers:
                found[number].merge(tally)
        return found

    def _ways(self, recorded: Recorded, loaded: Mapping[str, Any]) -> list[tuple[Played, Sequence[int]]]:
        question = self.question

        def make() -> Player:
            return Player(recorded, question.ir, self.definitions, loaded)

        return list(plays(make, question.swept, question.count))
