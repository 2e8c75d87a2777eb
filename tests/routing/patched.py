"""Random plays whose workflow is patched at random moments, and which the reference follows event by event."""

from __future__ import annotations

import random
from typing import Any

from redis.asyncio import Redis

from coordinator.adoption import Adoption
from lua.answers import StartedTask, Token
from lua.patching import Patch, Patching, PatchRefused
from lua.run_store import Claim
from schemas.errors import InvalidDocument
from schemas.ir import IR
from schemas.keys import scope_of
from schemas.messages import Task
from schemas.revision import ir_after, revise
from tests.patching.random_patches import operations_of, random_patch
from tests.reference.comparison import execution
from tests.reference.follower import Follower
from tests.reference.generator import Case
from tests.reference.records import Completed, Execution, Failed
from tests.routing.judged import ENDED_AS, RUN, JudgedPlay, wordless
from tests.routing.replay import PatchTried, Replay
from tests.routing.unrest import Unrest

RETRIES = 4


class PatchedPlay(JudgedPlay):
    """`patches`: how many are tried, each at a step with this `chance`. `tally` counts what came of them."""

    def __init__(
        self, redis: Redis, case: Case, rng: random.Random, unrest: Unrest, patches: int = 2, chance: float = 0.08
    ) -> None:
        super().__init__(redis, case, rng, unrest)
        self.patching = Patching(self.store)
        self.adoption = Adoption(self.store, self.irs)
        self.patches, self.chance = patches, chance
        self.document: dict[str, Any] = case.workflow  # of the newest revision
        self.first = self.ir
        self.taken: set[str] = set()
        self.tried: list[PatchTried] = []
        self.tally: dict[str, int] = {}
        self.retried = 0
        self.first_epoch: dict[str, Execution] = {}  # what was seen before the first retry
        self.caught_up = False  # an item had to follow a patch before its task could be claimed

    # -- patches -----------------------------------------------------------------------------------
    async def _meanwhile(self, step: int) -> None:
        await super()._meanwhile(step)
        if self.patches and self.rng.random() < self.chance:
            live = frozenset(token.node for token in (await self.tokens()).values())
            patched = random_patch(self.rng, self.document, self.taken, live)
            if patched != self.document:
                self.patches -= 1
                await self._patch(patched)

    async def _patch(self, patched: dict[str, Any]) -> None:
        """Refused because of what is live, it is tried again with what that asks for, mostly."""
        cancel, restart = self.rng.random() < 0.2, self.rng.random() < 0.4
        what = await self.try_patch(patched, cancel, restart)
        if what in ("live_tokens", "retyped") and self.rng.random() < 0.8:
            what = await self.try_patch(patched, cancel or what == "live_tokens", restart or what == "retyped")
        if what in ("live_tokens", "retyped") and self.rng.random() < 0.8:
            what = await self.try_patch(patched, True, True)
        self.tally[what] = self.tally.get(what, 0) + 1

    async def try_patch(self, patched: dict[str, Any], cancel: bool, restart: bool) -> str:
        """Patch the run; `made`, or why it was refused."""
        operations = operations_of(self.document, patched)
        seq, answered = int(await self.field("seq")), await self._answered()
        try:
            await self.patching.patch(
                RUN, Patch(lambda ir: revise(ir, operations), {"by": "judge"}, cancel=cancel, restart=restart)
            )
        except InvalidDocument as error:
            codes = {problem.code for problem in error.problems}
            if any(problem.path.startswith("/operations") for problem in error.problems):
                self.wrong.append(f"operations are refused: {error.problems}")
            return min(codes)
        except PatchRefused as refused:
            if refused.reason in ("live_tokens", "retyped"):
                self.tried.append(PatchTried(seq, patched, cancel, restart, refused.reason))
            elif refused.reason not in ("over", "following"):
                self.wrong.append(f"a patch is refused: {refused.reason}, {refused}")
            return refused.reason
        self.tried.append(PatchTried(seq, patched, cancel, restart, "", answered))
        self.document = patched
        self.ir = IR.from_json(await self.store.ir_text(RUN) or "")
        self.books.follow(patched)
        return "made"

    async def _answered(self) -> frozenset[str]:
        """The tokens whose outcome is stored and not routed."""
        answered = set()
        for token_id, token in (await self.tokens()).items():
            stored = await self.redis.hexists(self.keys.outcomes(RUN, scope_of(RUN, token_id)), token_id)
            if token.state == "answered" or (token.state == "running" and stored):
                answered.add(token_id)
        return frozenset(answered)

    # -- what runners and people do ------------------------------------------------------------------
    async def claim(self, task: Task, runner: str = "runner-1", *, reclaimed: bool = False) -> StartedTask:
        """As a runner does: under the newest IR, once the item has followed."""
        self.caught_up = False
        if task.run_id != RUN:
            return await super().claim(task, runner, reclaimed=reclaimed)
        node = self.ir.nodes.get(task.node_id)
        reads = self.ir.addresses(node.id, node.analysis.task_reads) if node else ()
        claim = Claim(task, self.ir.digest, reads, node.timeout_ms if node else None, reclaimed)
        started = (await self.store.start_task([claim], runner))[0]
        if started.state == "unadopted":
            self.caught_up = True
            await self.adoption.items([(RUN, task.scope)])
            started = (await self.store.start_task([claim], runner))[0]
        return started

    async def execute(self, task: Task) -> str:
        await self._path(RUN, task.token_id)
        return await super().execute(task)

    def _is_tried_again(self, token: Token) -> bool:
        return False  # every attempt is seen, and the last one counts: a patch may change how many there are

    def _seen(self, token_id: str, token: Token, output: Any, outcome: Completed | Failed, args: Any = None) -> None:
        failed = isinstance(outcome, Failed)
        if failed and token.state == "calling" and outcome.error_class not in ENDED_AS:
            outcome = Failed("child_failed")
        self.seen[token_id] = execution(
            token.node, token.iteration, wordless(output), None if failed else wordless(outcome.value),
            args=wordless(args), error_class=outcome.error_class if failed else None, attempts=token.failures + 1,
            path=self.paths[token_id.rpartition(".")[0]],
        )  # fmt: skip

    async def _in_decline(self) -> bool:
        return self.caught_up or await super()._in_decline()

    async def _retry(self) -> bool:
        """Some of what failed can succeed; and a failed run may be patched before it goes on."""
        if not self.unrest.retries or await self.status() != "FAILED" or self.retried == RETRIES:
            return False
        self.retried += 1
        self.first_epoch = self.first_epoch or dict(self.seen)
        self.mended |= {token_id for token_id, token in (await self.tokens()).items() if token.state == "dead"}
        self.paused = self.rng.random() < 0.3
        return (await self.store.retry_run(RUN, {"by": "judge"}, paused=self.paused))[0] == "retried"

    # -- judgement -----------------------------------------------------------------------------------
    async def differences(self) -> list[str]:
        """What differs from the reference that follows the events, and what breaks an invariant."""
        events = await self.events()
        status = await self.status()
        found = self.wrong + await self.books.differences(over=True)
        if status not in ("COMPLETED", "FAILED", "CANCELLED"):
            found.append(f"the run is stuck: it is {status}")
        ir = ir_after(self.first, events)
        if ir.text != await self.store.ir_text(RUN) or ir.workflow != self.document:
            found.append("the IR is not the one that the events lead to")
        # A retry gives other outcomes, and the books alone tell whether what follows is right.
        retried = next((i for i, event in enumerate(events) if event.type == "run_retried"), len(events))
        follower = Follower(self.case.workflow, self.case.input, self.script)
        return found + Replay(follower, self.first_epoch or self.seen, self.tried, wordless).differences(
            events[:retried]
        )
