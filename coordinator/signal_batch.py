"""A batch of completion signals on its way from the list to the run's next step: load, decide, write.

Round trips of a batch, however large: one to advance, and one to load if anything must be evaluated; one more each for
retries, for failures, for each IR never seen, for what a patch made necessary, and for each value that is an artifact.
"""

from __future__ import annotations

import logging
import random
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from typing import TypeVar

from psycopg import OperationalError
from redis.exceptions import ResponseError

from coordinator.adoption import Adoption
from coordinator.children import Children, Workflows, no_workflows
from coordinator.decide import Decision, Done, EndItem, Fail, FailMap, Move, PassesOn, TryAgain, View, decide, fail_map
from coordinator.ir_cache import IRCache
from coordinator.map_items import MapItems, ResultsGone, stored
from coordinator.opening import Call, NodeFailed, StartMap, Wait
from coordinator.routed import Routed, event_body
from coordinator.service_loop import PASSING
from coordinator.values import MissingValue, Values
from lua.answers import Loaded, token_of
from lua.run_store import Advance, Failed, RunStore, Wanted
from schemas.ir import IR
from schemas.keys import scope_of
from schemas.messages import CompletionSignal, Failure, read_signal
from schemas.plan import Plan
from schemas.values import artifact_name, encode_value
from schemas.variables import run_variables

log = logging.getLogger("pavane.coordinator")

LIVE = ("RUNNING", "PAUSED")
BEHIND = ("stale", "unadopted")
"""The run was patched since what was decided on was loaded."""
Step = TypeVar("Step", Advance, Failed)
Write = Callable[[], Awaitable[list[str]]]
"""A step that is written by itself; it answers as its script does."""
MAX_STALE = 16
"""Times that one signal is decided again because its run was patched in between, before it waits its turn anew."""


class MissingResult(LookupError):
    """A signal names a result that is not there: no outcome, so nothing happens to its token."""


class SignalBatch:
    """Routes signals of one shard. Stateless but for caches; any number of them may work side by side."""

    def __init__(self, store: RunStore, irs: IRCache, workflows: Workflows = no_workflows) -> None:
        self.store = store
        self.irs = irs
        self.values = Values(store)
        self.maps = MapItems(store, self.values)
        self.children = Children(store, workflows)
        self.adoption = Adoption(store, irs)

    async def route(self, signals: Sequence[CompletionSignal]) -> None:
        """Move every signal's token on. A signal that changes nothing is counted; one that cannot be worked on goes
        to the dead letters; neither touches the others."""
        plain, others = self._plain(signals)
        signals = await self._apply([*plain, *await self._load(others)])
        for _ in range(MAX_STALE):
            if not signals:
                return
            signals = await self._apply(await self._load(signals))
        await self.store.redis.rpush(self.store.keys.signals, *(signal.raw for signal in signals))

    async def _apply(self, all_routed: Sequence[Routed]) -> list[CompletionSignal]:
        """Decide and write, one round trip a kind of step; answers the signals whose run was patched meanwhile."""
        moves: list[tuple[CompletionSignal, Advance]] = []
        retries: list[tuple[CompletionSignal, Failed]] = []
        failures: list[tuple[CompletionSignal, Failed]] = []
        others: list[tuple[Routed, Write]] = []
        for routed in all_routed:
            match await self._step(routed):
                case Advance() as step:
                    moves.append((routed.signal, step))
                case Failed(delay_ms=None) as step:
                    failures.append((routed.signal, step))
                case Failed() as step:
                    retries.append((routed.signal, step))
                case None:
                    pass
                case write:
                    others.append((routed, write))
        return [
            *await self._write(moves, self.store.advance),
            *await self._write(retries, self.store.retry_task),
            *await self._write(failures, self.store.fail_run),
            *[routed.signal for routed, write in others if await self._write_alone(routed, write) in BEHIND],
        ]

    async def _write(
        self, steps: Sequence[tuple[CompletionSignal, Step]],
        write: Callable[[Sequence[Step]], Awaitable[list[list[str]]]],
    ) -> list[CompletionSignal]:  # fmt: skip
        """Write steps of one kind; the signals of those that came stale. One that the server refuses harms no other."""
        stale = []
        for (signal, _), answer in zip(steps, await write([step for _, step in steps]), strict=True):
            if answer[0] in BEHIND:
                stale.append(signal)
            elif answer[0] == "refused":
                await self._dead_letter(signal, ResponseError(answer[1]))
        return stale

    async def _write_alone(self, routed: Routed, write: Write) -> str:
        """The first word of the script's answer; a write that can not be made harms no other signal."""
        try:
            return (await write())[0]
        except PASSING:
            raise
        except ResponseError as error:
            await self._dead_letter(routed.signal, error)
        except Exception as error:
            match await self._broken(routed, error):
                case Failed() as step:
                    await self.store.fail_run([step])
                case fail_item:
                    await fail_item()
        return "failed"

    # -- load --------------------------------------------------------------------------------------
    def _plain(self, signals: Sequence[CompletionSignal]) -> tuple[list[Routed], list[CompletionSignal]]:
        """The signals for which nothing has to be loaded, and the others.

        Those of ours name the token as it is and its IR. Where no condition follows, this is all that a decision
        needs, and `advance` checks it: token, node, attempt and digest.
        """
        plain: list[Routed] = []
        others: list[CompletionSignal] = []
        for signal in signals:
            ir = self.irs.known(signal.digest) if signal.record and signal.status == "completed" else None
            token = token_of(signal.record) if ir and signal.record else None
            ours = token is not None and token.scope == scope_of(signal.run_id, signal.token_id)
            if ir and token and ours and token.node in ir.nodes and ir.is_plain(token.node):
                plain.append(Routed(signal, Loaded("RUNNING", signal.digest, token), ir))
            else:
                others.append(signal)
        return plain, others

    async def _load(self, signals: Sequence[CompletionSignal]) -> list[Routed]:
        """What the others need, first as their IR was when they were last heard of, again where that was wrong."""
        known = [self.irs.known(signal.digest) for signal in signals]
        wanted = [_wanted(signal, ir) for signal, ir in zip(signals, known, strict=True)]
        routed, missed = await self._read(signals, wanted)
        if missed:
            wanted = [_wanted(one.signal, one.ir) for one in missed]
            found, _ = await self._read([one.signal for one in missed], wanted)
            routed += found
        return routed

    async def _read(
        self, signals: Sequence[CompletionSignal], wanted: Sequence[Wanted]
    ) -> tuple[list[Routed], list[Routed]]:
        """Those that can be routed, and those for which more has to be read. What changes nothing is counted."""
        ignored: Counter[str] = Counter()
        routed: list[Routed] = []
        missed: list[Routed] = []
        loaded = await self._adopted(signals, wanted)
        for signal, part, want in zip(signals, loaded, wanted, strict=True):
            reason = _changes_nothing(signal, part)
            if reason == "wrong_node":
                await self.store.dead_letter("wrong_node", signal.raw.decode(errors="replace"), run=signal.run_id)
            elif reason:
                ignored[reason] += 1
            else:
                ir = await self.irs.get(part.digest, signal.run_id)
                if ir is None or part.token is None or part.token.node not in ir.nodes:
                    ignored["duplicate"] += 1  # patched as it was read: a timer repeats it
                    continue
                # A late signal of what came before the answer says nothing: the stored outcome counts.
                one = Routed(read_signal(part.outcome) if part.outcome else signal, part, ir)
                (routed if _covers(want, _wanted(signal, ir)) else missed).append(one)
        if ignored:
            await self.store.ignore(ignored)
        return routed, missed

    async def _adopted(self, signals: Sequence[CompletionSignal], wanted: Sequence[Wanted]) -> list[Loaded]:
        """What is wanted, once the items that it lies in follow the last patches of their runs."""
        loaded = await self.store.load_tokens(wanted)
        behind = [signal for signal, part in zip(signals, loaded, strict=True) if part.unadopted]
        await self.adoption.items((signal.run_id, scope_of(signal.run_id, signal.token_id)) for signal in behind)
        return await self.store.load_tokens(wanted) if behind else loaded

    # -- decide ------------------------------------------------------------------------------------
    async def _step(self, routed: Routed) -> Advance | Failed | Write | None:
        """The step to take. What cannot be decided ends its run, so that it does not come again for ever."""
        try:
            return await self._decide(routed)
        except ResultsGone:
            await self.store.ignore({"duplicate": 1})
            return None
        except OperationalError as error:  # Postgres is away: a timer repeats this signal, and the others go on
            log.warning("a signal of %s waits: %s", routed.signal.run_id, error)
            return None
        except PASSING:
            raise
        except MissingResult as error:
            signal = routed.signal
            if await self._is_current(signal):  # else it is of the Redis before a recovery
                await self.store.dead_letter("missing_artifact", str(error), run=signal.run_id, token=signal.token_id)
            return None
        except Exception as error:
            if isinstance(error, MissingValue) and await self._was_rebuilt(routed.signal, error.name):
                return None  # a timer signals it again
            return await self._broken(routed, error)

    async def _was_rebuilt(self, signal: CompletionSignal, artifact: str) -> bool:
        """Whether Redis was emptied, and the run rebuilt: what was missing is there, or its token is another."""
        return not await self._is_current(signal) or await self.store.has_artifact(signal.run_id, artifact)

    async def _is_current(self, signal: CompletionSignal) -> bool:
        """Whether the signal is of the attempt that its token has now."""
        (loaded,) = await self.store.load_tokens([Wanted(signal.run_id, signal.token_id)])
        return _changes_nothing(signal, loaded) is None

    async def _broken(self, routed: Routed, error: Exception) -> Failed | Write:
        """What cannot be worked on, a fault of ours: the run, or the map's item, fails with it."""
        log.exception("a signal of %s cannot be worked on", routed.signal.run_id)
        await self._dead_letter(routed.signal, error)
        message = f"{type(error).__name__}: {error}"[:1_000]
        shown = {"class": "internal", "message": message, "attempts": 1, "node": routed.node.id}
        if routed.token.scope:
            return self._failed_in_item(routed, fail_map(routed.node, routed.token.scope, shown, {}))
        return routed.failed({"error": shown})

    async def _dead_letter(self, signal: CompletionSignal, error: Exception) -> None:
        detail = f"{type(error).__name__}: {error}"
        await self.store.dead_letter("internal", detail, run=signal.run_id, token=signal.token_id)

    async def _decide(self, routed: Routed) -> Advance | Failed | Write | None:
        signal, ir, token = routed.signal, routed.ir, routed.token
        if token.state == "mapping":
            progress = routed.loaded.map
            return partial(self.maps.start, signal, ir, progress) if progress else None
        extra = Plan()  # artifacts of a result that came in whole
        outcome = await self._outcome(routed, extra)
        if outcome is None and token.state == "calling":
            return None  # its child goes on
        match await self._decision(routed, outcome):
            case Move(plan, facts):
                plan.artifacts.extend(extra.artifacts)
                body = event_body(signal, token.attempt, plan, facts, ranked=ir.lanes)
                return Advance(signal.run_id, signal.token_id, token.node, signal.attempt, ir, plan, body)
            case TryAgain(delay_ms, error, facts):
                return routed.failed({"error": error, "delay_ms": delay_ms, **facts}, delay_ms)
            case Fail(error, facts):
                return routed.failed({"error": error, **facts})
            case EndItem() | FailMap() as ended:
                return self._failed_in_item(routed, ended)
            case StartMap() as start:
                return partial(self.store.start_map, routed.map_start(start))
            case Wait() as wait:
                return partial(self.store.open_task, routed.opening(wait))
            case other:
                raise AssertionError(other)

    async def _decision(self, routed: Routed, outcome: Done | Failure | PassesOn | None) -> Decision:
        """What to do; a node that calls a child run waits for one that has been started."""
        view = await self._view(routed)
        decision = decide(routed.ir, view, outcome, random.random())
        await self._count_errors(decision)
        if not isinstance(decision, Call):
            return decision
        try:
            child = await self.children.start(routed.signal, routed.node, decision.input)
            return Wait("calling", {"child": child}, facts={"waits_for": "child", "child": child})
        except NodeFailed as failed:
            return decide(routed.ir, view, Failure(failed.klass, str(failed), retryable=False), 0)

    async def _count_errors(self, decision: Decision) -> None:
        """Conditions in error are a metric, beside the event that says which."""
        facts = decision.facts if isinstance(decision, Move | Fail | EndItem | FailMap) else {}
        if errors := len(facts.get("condition_errors", ())):
            await self.store.ignore({"condition_error": errors})

    def _failed_in_item(self, routed: Routed, ended: EndItem | FailMap) -> Write:
        """The step of a failure that nothing in the item takes over."""
        failed = routed.failed({"error": ended.error, **ended.facts})
        if isinstance(ended, EndItem):
            return partial(self.store.end_item, failed, routed.token.scope, encode_value({"error": ended.error})[0])
        return partial(self.store.fail_item, failed, routed.signal_of_map(ended))

    async def _outcome(self, routed: Routed, extra: Plan) -> Done | Failure | PassesOn | None:
        """What the token's work came to; None for a node that is decided or opened now, or whose child goes on."""
        signal, token, progress = routed.signal, routed.token, routed.loaded.map
        if token.state == "calling":
            return await self.children.outcome(token.child or "", extra)
        if token.state == "deciding":
            if progress is None:
                return None
            return await self.maps.gather(signal.run_id, signal.token_id, progress, extra)
        if (signal.metadata or {}).get("passes_on"):
            return PassesOn()
        if signal.failure is not None:
            return signal.failure
        if signal.result_ref is not None:
            if not await self.store.has_artifact(signal.run_id, artifact_name(signal.result_ref) or ""):
                raise MissingResult(f"{signal.result_ref} is not among the artifacts of the run")
            plain = routed.ir.is_plain(routed.node.id)
            value = None if plain else await self.values.get(signal.run_id, signal.result_ref)
            return Done(value, signal.result_ref)
        return stored(signal.result, extra)

    async def _view(self, routed: Routed) -> View:
        loaded, token, run_id = routed.loaded, routed.token, routed.signal.run_id
        return View(
            node_id=token.node,
            attempt=token.attempt,
            iteration=token.iteration,
            depth=token.depth,
            lane=token.lane,
            failures=token.failures,
            scope=token.scope,
            input=None if loaded.input is None else await self.values.get(run_id, loaded.input),
            run=run_variables(run_id, loaded.workflow, loaded.batch, loaded.key),
            ctx=await self.values.get_all(run_id, loaded.outputs),
            passes=loaded.passes,
            arrived=await self.values.get_all(run_id, loaded.arrived),
            item=None if loaded.item is None else await self.values.get(run_id, loaded.item),
            item_iteration=loaded.item_iteration,
            again=token.again,
            now=await self.store.now(),
        )


def _changes_nothing(signal: CompletionSignal, loaded: Loaded) -> str | None:
    """Why a signal changes nothing; None if it may."""
    token = loaded.token
    if not loaded.status:
        return "unknown"
    if loaded.status not in LIVE:
        return "over"
    if token is None or (signal.attempt is not None and signal.attempt != token.attempt):
        return "duplicate"
    return "wrong_node" if token.node != signal.node_id else None


def _wanted(signal: CompletionSignal, ir: IR | None) -> Wanted:
    """What has to be read to route a signal; without its IR only the token."""
    node = ir.nodes.get(signal.node_id) if ir else None
    if ir is None or node is None:
        return Wanted(signal.run_id, signal.token_id)
    analysis = node.analysis
    # A node that the coordinator decides may be an entry, whose output is the input; after a patch its token may have
    # come when it was one. An error may lead anywhere.
    with_input = analysis.route_input or (not node.is_task and (node.id in ir.entries or ir.patched is not None))
    reads = ir.addresses(node.id, analysis.route_reads)
    return Wanted(signal.run_id, signal.token_id, reads, analysis.route_loops, with_input)


def _covers(had: Wanted, needed: Wanted) -> bool:
    """Whether what was read is all that is needed."""
    return (
        set(had.reads) >= set(needed.reads)
        and set(had.loops) >= set(needed.loops)
        and had.with_input >= needed.with_input
    )
