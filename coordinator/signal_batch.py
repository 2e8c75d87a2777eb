"""A batch of completion signals on its way from the list to the run's next step: load, decide, write.

Round trips of a batch, however large: one to advance, and one to load if anything must be evaluated; one more each for
retries, for failures, for each IR never seen, for what a patch made necessary, and for each value that is an artifact.
"""

from __future__ import annotations

import logging
import random
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import orjson

from coordinator.decide import Done, Fail, Move, TryAgain, View, decide
from coordinator.ir_cache import IRCache
from coordinator.service_loop import PASSING
from lua.answers import Loaded, Token, token_of
from lua.run_store import Advance, Failed, RunStore, Wanted
from schemas.ir import IR, Node
from schemas.messages import CompletionSignal, Failure
from schemas.plan import Plan
from schemas.values import ValueTooLarge, artifact_name, decode_value, encode_value, unpack
from schemas.variables import run_variables

log = logging.getLogger("pavane.coordinator")

LIVE = ("RUNNING", "PAUSED")
Step = TypeVar("Step", Advance, Failed)
MAX_STALE = 16
"""Times that one signal is decided again because its run was patched in between, before it waits its turn anew."""


@dataclass(slots=True)
class Routed:
    """One signal with what is known for its decision."""

    signal: CompletionSignal
    loaded: Loaded
    ir: IR

    @property
    def token(self) -> Token:
        assert self.loaded.token is not None
        return self.loaded.token

    @property
    def node(self) -> Node:
        return self.ir.nodes[self.token.node]

    def failed(self, event: Mapping[str, Any], delay_ms: int | None = None) -> Failed:
        """The step of a failure: another attempt after `delay_ms`, or with None the end of the run."""
        body = {"attempt": self.token.attempt, **event, **_raw(self.signal), **_usage(self.signal)}
        signal = self.signal
        return Failed(
            signal.run_id, signal.token_id, self.node.id, signal.attempt, self.ir.digest, orjson.dumps(body), delay_ms
        )


class MissingResult(LookupError):
    """A signal names a result that is not there: no outcome, so nothing happens to its token."""


class SignalBatch:
    """Routes signals of one shard. Stateless but for caches; any number of them may work side by side."""

    def __init__(self, store: RunStore, irs: IRCache) -> None:
        self.store = store
        self.irs = irs

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
        for routed in all_routed:
            match await self._step(routed):
                case Advance() as step:
                    moves.append((routed.signal, step))
                case Failed(delay_ms=None) as step:
                    failures.append((routed.signal, step))
                case Failed() as step:
                    retries.append((routed.signal, step))
        return [
            *await _write(moves, self.store.advance),
            *await _write(retries, self.store.retry_task),
            *await _write(failures, self.store.fail_run),
        ]

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
            if ir and token and token.node in ir.nodes and ir.is_plain(token.node):
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
            wanted = [_wanted(one.signal, one.ir, one) for one in missed]
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
        loaded = await self.store.load_tokens(wanted)
        for signal, part, want in zip(signals, loaded, wanted, strict=True):
            reason = _changes_nothing(signal, part)
            if reason == "wrong_node":
                await self.store.dead_letter("wrong_node", signal.raw.decode(errors="replace"), run=signal.run_id)
            elif reason:
                ignored[reason] += 1
            else:
                ir = await self.irs.get(part.digest, signal.run_id)
                if ir is None or part.token is None or part.token.node not in ir.nodes:
                    await self._dead_letter(signal, LookupError("the run's IR does not have this node"))
                    continue
                one = Routed(signal, part, ir)
                (routed if _covers(want, _wanted(signal, ir, one)) else missed).append(one)
        if ignored:
            await self.store.ignore(ignored)
        return routed, missed

    # -- decide ------------------------------------------------------------------------------------
    async def _step(self, routed: Routed) -> Advance | Failed | None:
        """The step to take. What cannot be decided ends its run, so that it does not come again for ever."""
        try:
            return await self._decide(routed)
        except PASSING:
            raise
        except MissingResult as error:
            signal = routed.signal
            await self.store.dead_letter("missing_artifact", str(error), run=signal.run_id, token=signal.token_id)
            return None
        except Exception as error:
            log.exception("a signal of %s cannot be decided", routed.signal.run_id)
            await self._dead_letter(routed.signal, error)
            shown = {"class": "internal", "message": f"{type(error).__name__}: {error}"[:2_000]}
            return routed.failed({"error": shown | {"attempts": 1, "node": routed.node.id}})

    async def _dead_letter(self, signal: CompletionSignal, error: Exception) -> None:
        detail = f"{type(error).__name__}: {error}"
        await self.store.dead_letter("internal", detail, run=signal.run_id, token=signal.token_id)

    async def _decide(self, routed: Routed) -> Advance | Failed:
        signal, ir, token = routed.signal, routed.ir, routed.token
        extra = Plan()  # artifacts of a result that came in whole
        outcome = None if token.state == "deciding" else await self._outcome(routed, extra)
        match decide(ir, await self._view(routed), outcome, random.random()):
            case Move(plan, facts):
                plan.artifacts.extend(extra.artifacts)
                body = _event_body(signal, token.attempt, plan, facts, ranked=ir.lanes)
                return Advance(signal.run_id, signal.token_id, token.node, signal.attempt, ir, plan, body)
            case TryAgain(delay_ms, error):
                return routed.failed({"error": error, "delay_ms": delay_ms}, delay_ms)
            case Fail(error, facts):
                return routed.failed({"error": error, **facts})

    async def _outcome(self, routed: Routed, extra: Plan) -> Done | Failure:
        signal = routed.signal
        if signal.failure is not None:
            return signal.failure
        if signal.result_ref is not None:
            if not await self.store.has_artifact(signal.run_id, artifact_name(signal.result_ref) or ""):
                raise MissingResult(f"{signal.result_ref} is not among the artifacts of the run")
            value = (
                None if routed.ir.is_plain(routed.node.id) else await self._resolve(signal.run_id, signal.result_ref)
            )
            return Done(value, signal.result_ref)
        try:
            text, artifact = encode_value(signal.result)
        except ValueTooLarge as error:
            return Failure("too_large", str(error), retryable=False)
        if artifact:
            extra.artifacts.append(artifact)
        return Done(signal.result, text)

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
            input=None if loaded.input is None else await self._resolve(run_id, loaded.input),
            run=run_variables(run_id, loaded.workflow, loaded.batch, loaded.key),
            ctx=await self._resolve_all(run_id, loaded.outputs),
            passes=loaded.passes,
            arrived=await self._resolve_all(run_id, loaded.arrived),
        )

    async def _resolve_all(self, run_id: str, texts: Mapping[str, str]) -> dict[str, Any]:
        return {name: await self._resolve(run_id, text) for name, text in texts.items()}

    async def _resolve(self, run_id: str, text: str) -> Any:
        name = artifact_name(text)
        if name is None:
            return decode_value(text)
        packed = await self.store.artifact(run_id, name)
        if packed is None:
            raise LookupError(f"artifact {name} of run {run_id} is missing")
        return unpack(packed)


async def _write(
    steps: Sequence[tuple[CompletionSignal, Step]], write: Callable[[Sequence[Step]], Awaitable[list[list[str]]]]
) -> list[CompletionSignal]:
    """Write steps of one kind; the signals of those that came stale."""
    answers = await write([step for _, step in steps])
    return [signal for (signal, _), answer in zip(steps, answers, strict=True) if answer[0] == "stale"]


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


def _wanted(signal: CompletionSignal, ir: IR | None, routed: Routed | None = None) -> Wanted:
    """What has to be read to route a signal; without its IR only the token."""
    node = ir.nodes.get(signal.node_id) if ir else None
    scope = routed.token.scope if routed else ""
    if node is None:
        return Wanted(signal.run_id, signal.token_id, scope)
    analysis = node.analysis
    # A node that the coordinator decides may be an entry, whose output is the input. An error may lead anywhere.
    with_input = analysis.route_input or not node.is_task
    return Wanted(signal.run_id, signal.token_id, scope, analysis.route_reads, analysis.route_loops, with_input)


def _covers(had: Wanted, needed: Wanted) -> bool:
    """Whether what was read is all that is needed."""
    return (
        had.scope == needed.scope
        and set(had.reads) >= set(needed.reads)
        and set(had.loops) >= set(needed.loops)
        and had.with_input >= needed.with_input
    )


def _event_body(signal: CompletionSignal, attempt: int, plan: Plan, facts: Mapping[str, Any], *, ranked: bool) -> bytes:
    """The body of node_completed or node_failed; stored texts that are JSON go in as they are."""
    outputs = {o.node: orjson.Fragment(o.value) for o in plan.outputs if o.value and not artifact_name(o.value)}
    stored = {o.node: o.value for o in plan.outputs if o.value and artifact_name(o.value)}
    body: dict[str, Any] = {"attempt": attempt, "outputs": outputs}
    if stored:
        body["stored"] = stored
    ends = [output.node for output in plan.outputs if output.ends]
    if ends:
        body["ends"] = ends
    if ranked:
        body["ranks"] = {output.node: output.rank for output in plan.outputs}
    if plan.passes:
        body["passes"] = plan.passes
    if plan.restarted:
        body["restarted"] = plan.restarted
    return orjson.dumps({**body, **facts, **_usage(signal)})


def _usage(signal: CompletionSignal) -> dict[str, Any]:
    usage = {k: v for k, v in (signal.metadata or {}).items() if k not in ("error_type", "error_message", "raw")}
    usage.pop("retryable", None)
    return {"usage": usage} if usage else {}


def _raw(signal: CompletionSignal) -> dict[str, Any]:
    """The model's own words, when they were no valid output."""
    raw = (signal.metadata or {}).get("raw")
    return {"raw": str(raw)[:16_384]} if raw is not None else {}
