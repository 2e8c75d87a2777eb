"""Recovery: runs that Postgres knows and Redis has lost go on from their last recorded event.

    missing in Redis           rebuilt from its events
    older in Redis             taken out of Redis and rebuilt: the last writes of Redis were lost
    live in Redis, and over    taken out of Redis: it has ended, and that was lost
    admitted, and never told   its item waits to be admitted again
    behind in Postgres         its whole state is told, if no event on its way does so: Postgres was restored
    everything else            is left alone

Each run is rebuilt in one step, with the event `run_recovered`; so a recovery that dies is begun again, and any number
of coordinators and runners may work meanwhile.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import groupby
from typing import Any

import orjson
from psycopg_pool import AsyncConnectionPool

from coordinator.lost_counts import LostCounts
from coordinator.restatement import Restatement
from history.artifact_store import ArtifactStore
from history.events import Events
from history.run_irs import RunIRs
from history.unfinished import Recorded, Unfinished, Untold
from history.workflows import Workflows
from lua.patching import change_between
from lua.run_image import Rebuilt
from lua.run_rebuild import RunRebuild
from lua.run_store import RunStore
from schemas.run_state import RunState
from schemas.snapshot import artifacts_in

log = logging.getLogger("pavane.recovery")

PAGE = 200
"""Runs whose states are in memory together."""
SURVEYED = 2_000
"""Runs that are looked for in one round trip."""
SIDE_BY_SIDE = 8
WAITS, WAIT_S = 100, 0.1
"""How long the recorder has to come to the end of the stream."""
QUIET = 5
"""Looks in a row that find nothing new recorded."""
LIVE = ("RUNNING", "PAUSED")


@dataclass(frozen=True, slots=True)
class Survey:
    """Runs that are unfinished as far as is recorded, and how many of them Redis has."""

    unfinished: int
    present: int

    @property
    def lost(self) -> int:
        """Runs that Redis has not. One may have begun since it went empty: that the others are lost is no less true."""
        return self.unfinished - self.present

    @property
    def is_lost(self) -> bool:
        """Redis has gone empty."""
        return self.lost > 0 and self.present == 0


@dataclass(slots=True)
class Report:
    """What a recovery did: ids of runs, and of those that it could not rebuild the reason."""

    recovered: list[str] = field(default_factory=list)
    over: list[str] = field(default_factory=list)  # that had ended, and were live in Redis
    present: int = 0  # that Redis has, and that are left alone
    restated: list[str] = field(default_factory=list)  # of which Postgres had lost events
    again: int = 0  # items that wait to be admitted again
    failed: dict[str, str] = field(default_factory=dict)
    seen: set[str] = field(default_factory=set)  # runs that were looked at, and that are looked at no more

    def as_dict(self) -> dict[str, Any]:
        return {
            "recovered": len(self.recovered), "taken_out": len(self.over), "present": self.present,
            "restated": len(self.restated), "admitted_again": self.again, "failed": self.failed,
        }  # fmt: skip


@dataclass(frozen=True, slots=True)
class _Lost:
    """A run that is to be rebuilt. `in_redis`: it is there nevertheless, and wrong."""

    run: Recorded
    state: RunState | Untold
    in_redis: bool

    @property
    def depth(self) -> int:
        """0 of a run that no other one called."""
        fields = self.state.started.get("fields") if isinstance(self.state, RunState) else None
        return int((fields or {}).get("depth") or 0)


class RecoveryBusy(Exception):
    """Another recovery of this shard is under way."""


class Recovery:
    """Recovers the runs of one shard. `by`: who asks, for the events."""

    def __init__(
        self,
        store: RunStore,
        pool: AsyncConnectionPool[Any],
        by: str = "recovery",
        artifacts: ArtifactStore | None = None,
    ) -> None:
        self.store = store
        self.by = by
        self.unfinished = Unfinished(pool, artifacts)
        self.rebuild = RunRebuild(store)
        self.restatement = Restatement(store)
        self.counts = LostCounts(store, self.unfinished)
        self._irs = RunIRs(Events(pool), Workflows(pool).ir)

    async def survey(self) -> Survey:
        unfinished = present = 0
        after = ""
        while page := await self.unfinished.page(after, SURVEYED):
            unfinished += len(page)
            present += await self._present([run.run_id for run in page])
            after = page[-1].run_id
        return Survey(unfinished, present)

    async def missing(self, limit: int) -> set[str]:
        """Those of the oldest unfinished runs that Redis has not."""
        run_ids = await self.unfinished.oldest(limit)
        async with self.store.redis.pipeline(transaction=False) as pipe:
            for run_id in run_ids:
                pipe.exists(self.store.keys.run(run_id))
            return {run_id for run_id, found in zip(run_ids, await pipe.execute(), strict=True) if not found}

    async def _present(self, run_ids: Sequence[str]) -> int:
        async with self.store.redis.pipeline(transaction=False) as pipe:
            for run_id in run_ids:
                pipe.exists(self.store.keys.run(run_id))
            return sum(await pipe.execute())

    async def recover(self, reason: str) -> Report:
        """Recover whatever is to be recovered. Raises RecoveryBusy; Postgres or Redis going away ends it, and the next
        one goes on."""
        async with self.unfinished.alone(self.store.keys.prefix) as alone:
            if not alone:
                raise RecoveryBusy
            report = Report()
            if (await self.survey()).is_lost:
                await self._await_recorder()
            lost_counts = await self.counts.look()
            await self._admit_again(report)
            after = ""
            while page := await self.unfinished.page(after, PAGE):
                await self._recover_page(page, reason, report)
                after = page[-1].run_id
            await self._take_out(report)
            if lost_counts and await self._all_recorded():
                await self.counts.make_up(lost_counts)
            await self._restate(report)
        for run_id, why in report.failed.items():
            log.error("%s can not be recovered: %s", run_id, why, extra={"run_id": run_id})
        log.info("recovered %d runs (%s)", len(report.recovered), reason)
        return report

    async def recover_runs(self, run_ids: Sequence[str], reason: str) -> Report:
        """Recover these runs, where Redis tells them differently than they are recorded."""
        report = Report()
        for first in range(0, len(run_ids), PAGE):
            page = await self.unfinished.named(run_ids[first : first + PAGE])
            await self._recover_page([run for run in page if not run.ended], reason, report)
            await self._take_out(report, [run.run_id for run in page if run.ended])
        return report

    async def _await_recorder(self) -> None:
        """Events that it had read before Redis was lost are on their way: let them come."""
        seen: list[str] = []
        for _ in range(WAITS):
            seen.append(await self.unfinished.position())
            if seen[-QUIET:] == [seen[-1]] * QUIET:
                return
            await asyncio.sleep(WAIT_S)

    # -- runs --------------------------------------------------------------------------------------
    async def _recover_page(self, page: Sequence[Recorded], reason: str, report: Report) -> None:
        """Child runs come before those that wait for them: a run that goes on and finds no child takes it for gone."""
        limit = asyncio.Semaphore(SIDE_BY_SIDE)

        async def one(lost: _Lost) -> None:
            async with limit:
                await self._recover_run(lost, reason, report)

        found = sorted(await self._lost(page, report), key=lambda lost: -lost.depth)
        for _, level in groupby(found, key=lambda lost: lost.depth):
            async with asyncio.TaskGroup() as tasks:
                for lost in level:
                    tasks.create_task(one(lost))

    async def _lost(self, page: Sequence[Recorded], report: Report) -> list[_Lost]:
        """Those of the runs that are lost, with the lost ones that they wait for; each once a recovery."""
        found: list[_Lost] = []
        while page := [run for run in page if run.run_id not in report.seen]:
            report.seen.update(run.run_id for run in page)
            in_redis = await self._in_redis([run.run_id for run in page])
            lost = [run for run in page if _is_lost(run, in_redis.get(run.run_id))]
            report.present += len(page) - len(lost)
            states = await self.unfinished.states(lost)
            found += [_Lost(run, state, run.run_id in in_redis) for run, state in zip(lost, states, strict=True)]
            called = [child for state in states if isinstance(state, RunState) for child in _children(state)]
            page = [run for run in await self.unfinished.named(called) if not run.ended]
        return found

    async def _recover_run(self, lost: _Lost, reason: str, report: Report) -> None:
        run, state = lost.run, lost.state
        rebuilt = await self._rebuilt(state) if isinstance(state, RunState) else state
        if isinstance(rebuilt, Untold):
            report.failed[run.run_id] = rebuilt.reason
            return
        await self._keep_children(rebuilt.state)
        if lost.in_redis:
            # Another recovery may have been quicker. One that is diverged is wrong, however far it has come meanwhile.
            await self.rebuild.drop(run.run_id, None if run.diverged else run.seq)
        now = await self.store.now()
        if rebuilt.state.paused_at is None:
            rebuilt.state.paused_ms += now - rebuilt.state.last_at  # its clocks stood still
        event = {"from_seq": run.seq, "reason": reason, "by": self.by}
        if await self.rebuild.restore(rebuilt, "run_recovered", event, now):
            report.recovered.append(run.run_id)

    async def _rebuilt(self, state: RunState) -> Rebuilt | Untold:
        """All that the run's keys are made of."""
        ir = await self._irs.get(state.run_id, state.digest)
        first = await self._irs.first(state.run_id) if state.revision > 1 else None
        if ir is None or (state.revision > 1 and first is None):
            return Untold(state.run_id, f"its IR {state.digest} is not recorded")
        names = [text.removeprefix("artifact://") for text in artifacts_in(state)]
        artifacts = await self.unfinished.packed(names) if names else {}
        if missing := [name for name in names if name not in artifacts]:
            return Untold(state.run_id, f"the artifact {missing[0]} is not recorded")
        change = b""
        if behind := [digest for digest in state.adopted.values() if digest != state.digest]:
            before = await self._irs.get(state.run_id, behind[0])
            if before is None:
                return Untold(state.run_id, f"its IR {behind[0]} is not recorded")
            change = orjson.dumps(change_between(before, ir))
        return Rebuilt(state, ir, artifacts, first.text if first and first is not ir else "", change)

    async def _keep_children(self, state: RunState) -> None:
        """Child runs that have ended, and whose parents have yet to hear of it."""
        children = _children(state)
        if not children:
            return
        known = [run for run in await self.unfinished.named(children) if run.ended]
        for child in await self.unfinished.states(known):
            rebuilt = await self._rebuilt(child) if isinstance(child, RunState) else child
            if isinstance(rebuilt, Rebuilt):
                await self._keep_children(rebuilt.state)  # one that failed is retried with those that it called
                await self.rebuild.keep(rebuilt)

    async def _take_out(self, report: Report, run_ids: Sequence[str] | None = None) -> None:
        """Runs that Redis believes to be live, and that are recorded as ended."""
        if run_ids is None:
            run_ids = [run_id.decode() for run_id in await self.store.redis.zrange(self.store.keys.live_runs, 0, -1)]
        for first in range(0, len(run_ids), PAGE):
            some = [run for run in await self.unfinished.named(run_ids[first : first + PAGE]) if run.ended]
            in_redis = await self._in_redis([run.run_id for run in some])
            for run in some:
                status, seq = in_redis.get(run.run_id, ("", 0))
                is_wrong = status in LIVE and (seq < run.seq or run.diverged)
                if is_wrong and await self.rebuild.drop(run.run_id, None if run.diverged else run.seq):
                    report.over.append(run.run_id)

    async def _in_redis(self, run_ids: Sequence[str]) -> dict[str, tuple[str, int]]:
        """Status and seq of those of the runs that Redis has."""
        async with self.store.redis.pipeline(transaction=False) as pipe:
            for run_id in run_ids:
                pipe.hmget(self.store.keys.run(run_id), "status", "seq")
            heads = await pipe.execute()
        return {
            run_id: (status.decode(), int(seq))
            for run_id, (status, seq) in zip(run_ids, heads, strict=True)
            if status is not None
        }

    # -- batches -----------------------------------------------------------------------------------
    async def _admit_again(self, report: Report) -> None:
        untold = await self.unfinished.untold_items()
        in_redis: Mapping[str, Any] = await self._in_redis(untold)
        again = [run_id for run_id in untold if run_id not in in_redis]
        await self.unfinished.admit_again(again)
        report.again = len(again)

    # -- histories ---------------------------------------------------------------------------------
    async def _restate(self, report: Report) -> None:
        """Runs of which Postgres has lost the last events, or all: no event that waits in the stream tells of them."""
        rebuilt = set(report.recovered)  # from what is recorded
        known = [key.decode().removeprefix(self.store.keys.run("")) async for key in self._run_keys()]
        run_ids = [run_id for run_id in known if run_id not in rebuilt]
        for first in range(0, len(run_ids), SURVEYED):
            seqs = {
                run_id: seq for run_id, (_, seq) in (await self._in_redis(run_ids[first : first + SURVEYED])).items()
            }
            behind = await self._behind(seqs)
            if behind and await self._all_recorded() and (behind := await self._behind(behind)):
                await self.restatement.restate(behind)
                report.restated += behind

    def _run_keys(self) -> AsyncIterator[bytes]:
        keys: AsyncIterator[bytes] = self.store.redis.scan_iter(match=f"{self.store.keys.run('')}*", count=1_000)
        return keys

    async def _behind(self, seqs: Mapping[str, int]) -> dict[str, int]:
        """Those of the runs that are not recorded up to these events."""
        recorded = {run.run_id: run.seq for run in await self.unfinished.named(list(seqs))}
        return {run_id: seq for run_id, seq in seqs.items() if seq > recorded.get(run_id, 0)}

    async def _all_recorded(self) -> bool:
        """Whether the recorder comes to the end of what is in the stream now; without one, nothing can be said."""
        last = await self.store.redis.xrevrange(self.store.keys.events, count=1)
        for _ in range(WAITS if last else 0):
            if not await self.store.redis.xrange(self.store.keys.events, last[0][0], last[0][0]):
                return True
            await asyncio.sleep(WAIT_S)
        return not last


def _is_lost(run: Recorded, in_redis: tuple[str, int] | None) -> bool:
    return in_redis is None or in_redis[1] < run.seq or run.diverged


def _children(state: RunState) -> list[str]:
    """The child runs that its tokens wait for, or have called."""
    return [str(record["child"]) for record in state.tokens.values() if record.get("child")]
