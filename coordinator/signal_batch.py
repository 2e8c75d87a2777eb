"""A batch of completion signals on its way from the list to the run's next step: load, decide, write.

Round trips of a batch, however large: one to advance, and one to load if anything must be evaluated; one more each for
IRs never seen, for what conditions read when the run's IR was not known beforehand, and for values that are artifacts.
"""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import orjson
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import TimeoutError as RedisTimeoutError

from coordinator.decide import Done, Fail, Move, TryAgain, View, decide
from coordinator.ir_cache import IRCache
from lua.answers import Loaded, token_of
from lua.run_store import Advance, RunStore, Wanted
from schemas.ir import IR, Node
from schemas.messages import CompletionSignal, Failure
from schemas.plan import Plan
from schemas.values import ValueTooLarge, artifact_name, decode_value, encode_value, unpack
from schemas.variables import run_variables

LIVE = ("RUNNING", "PAUSED")
PASSING = (RedisConnectionError, RedisTimeoutError)
"""No fault of a signal: it is not given up, the supervisor signals it again."""
MAX_STALE = 16
"""Times that one signal is decided again because its run was patched in between, before it waits its turn anew."""


@dataclass(slots=True)
class Routed:
    """One signal with what is known for its decision."""

    signal: CompletionSignal
    loaded: Loaded
    ir: IR

    @property
    def node(self) -> Node:
        assert self.loaded.token is not None
        return self.ir.nodes[self.loaded.token.node]


class SignalBatch:
    """Routes signals of one shard. Stateless but for caches; any number of them may work side by side."""

    def __init__(self, store: RunStore, irs: IRCache) -> None:
        self.store = store
        self.irs = irs

    async def route(self, signals: Sequence[CompletionSignal]) -> None:
        """Move every signal's token on. A signal that changes nothing is counted; one that cannot be worked on goes
        to the dead letters; neither touches the others."""
        plain, others = self._plain(signals)
        signals = await self._advance([*plain, *await self._load(others)])
        for _ in range(MAX_STALE):
            if not signals:
                return
            signals = await self._advance(await self._load(signals))
        await self.store.redis.rpush(self.store.keys.signals, *(signal.raw for signal in signals))

    async def _advance(self, all_routed: Sequence[Routed]) -> list[CompletionSignal]:
        """Decide and write; answers the signals whose run was patched meanwhile."""
        steps: list[tuple[Routed, Advance]] = []
        stale: list[CompletionSignal] = []
        for routed in all_routed:
            try:
                step = await self._decide(routed)
            except PASSING:
                raise
            except Exception as error:
                await self._give_up(routed.signal, error)
                continue
            if isinstance(step, Advance):
                steps.append((routed, step))
            elif step == "stale":
                stale.append(routed.signal)
        answers = await self.store.advance([step for _, step in steps])
        stale += [routed.signal for (routed, _), answer in zip(steps, answers, strict=True) if answer[0] == "stale"]
        return stale

    async def _give_up(self, signal: CompletionSignal, error: Exception) -> None:
        detail = f"{type(error).__name__}: {error}"
        await self.store.dead_letter("internal", detail, run=signal.run_id, token=signal.token_id)

    # -- load --------------------------------------------------------------------------------------
    def _plain(self, signals: Sequence[CompletionSignal]) -> tuple[list[Routed], list[CompletionSignal]]:
        """The signals for which nothing has to be loaded, and the others.

        Those of ours name the token as it is and its IR. Where no condition follows, this is all that a decision
        needs, and `advance` checks it: token, attempt and digest.
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
        known = [self.irs.of_run(signal.run_id) for signal in signals]
        loaded = await self.store.load_tokens([_wanted(signal, ir) for signal, ir in zip(signals, known, strict=True)])
        routed: list[Routed] = []
        again: list[Routed] = []
        for signal, part, guess in zip(signals, loaded, known, strict=True):
            if await self._changes_nothing(signal, part):
                continue
            ir = await self.irs.get(part.digest, signal.run_id)
            if ir is None or part.token is None or part.token.node not in ir.nodes:
                await self._give_up(signal, LookupError("the run's IR does not have this node"))
                continue
            one = Routed(signal, part, ir)
            missed = guess is None or guess.digest != ir.digest
            analysis = one.node.analysis
            needs = analysis.route_reads or analysis.route_loops or part.token.scope or part.input is None
            (again if missed and needs else routed).append(one)
        if again:
            fresh = await self.store.load_tokens([_wanted(one.signal, one.ir, one) for one in again])
            for one, part in zip(again, fresh, strict=True):
                if not await self._changes_nothing(one.signal, part):
                    routed.append(Routed(one.signal, part, one.ir))
        return routed

    async def _changes_nothing(self, signal: CompletionSignal, loaded: Loaded) -> bool:
        token = loaded.token
        if not loaded.status:
            await self.store.ignore("unknown")
        elif loaded.status not in LIVE:
            await self.store.ignore("over")
        elif token is None or (signal.attempt is not None and signal.attempt != token.attempt):
            await self.store.ignore("duplicate")
        elif token.node != signal.node_id:
            await self.store.dead_letter("wrong_node", signal.raw.decode(errors="replace"), run=signal.run_id)
        else:
            return False
        return True

    # -- decide ------------------------------------------------------------------------------------
    async def _decide(self, routed: Routed) -> Advance | str | None:
        """The step to take; "stale" if a retry or failure met a patch; None if it is done or changes nothing."""
        signal, loaded, ir = routed.signal, routed.loaded, routed.ir
        token = loaded.token
        assert token is not None
        extra = Plan()  # artifacts of a result that came in whole
        outcome = None if token.state == "deciding" else await self._outcome(routed, extra)
        decision = decide(ir, await self._view(routed), outcome, random.random())
        match decision:
            case Move(plan, facts):
                plan.artifacts.extend(extra.artifacts)
                body = _event_body(signal, token.attempt, plan, facts, ranked=ir.lanes)
                return Advance(signal.run_id, signal.token_id, token.node, signal.attempt, ir, plan, body)
            case TryAgain(delay_ms, error):
                event = {"attempt": token.attempt, "error": error, "delay_ms": delay_ms, **_raw(signal)}
                answer = await self.store.retry_task(
                    signal.run_id, signal.token_id, signal.attempt, ir.digest, delay_ms, orjson.dumps(event)
                )
            case Fail(error, facts):
                event = {"attempt": token.attempt, "error": error, **facts, **_raw(signal), **_usage(signal)}
                answer = await self.store.fail_run(
                    signal.run_id, signal.token_id, signal.attempt, ir.digest, orjson.dumps(event)
                )
        return "stale" if answer[0] == "stale" else None

    async def _outcome(self, routed: Routed, extra: Plan) -> Done | Failure:
        signal = routed.signal
        if signal.failure is not None:
            return signal.failure
        if signal.result_ref is not None:
            plain = routed.ir.is_plain(routed.node.id)
            value = None if plain else await self._resolve(signal.run_id, signal.result_ref)
            return Done(value, signal.result_ref)
        try:
            text, artifact = encode_value(signal.result)
        except ValueTooLarge as error:
            return Failure("too_large", str(error), retryable=False)
        if artifact:
            extra.artifacts.append(artifact)
        return Done(signal.result, text)

    async def _view(self, routed: Routed) -> View:
        signal, loaded, run_id = routed.signal, routed.loaded, routed.signal.run_id
        token = loaded.token
        assert token is not None
        plain = signal.status == "completed" and routed.ir.is_plain(routed.node.id)
        return View(
            node_id=token.node,
            attempt=token.attempt,
            iteration=token.iteration,
            depth=token.depth,
            lane=token.lane,
            failures=token.failures,
            scope=token.scope,
            input=None if plain else await self._resolve(run_id, loaded.input or "null"),
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


def _wanted(signal: CompletionSignal, ir: IR | None, routed: Routed | None = None) -> Wanted:
    node = ir.nodes.get(signal.node_id) if ir else None
    token = routed.loaded.token if routed else None
    return Wanted(
        signal.run_id,
        signal.token_id,
        token.scope if token else "",
        node.analysis.route_reads if node else (),
        node.analysis.route_loops if node else (),
        with_input=not (ir and node and ir.is_plain(node.id) and signal.status == "completed"),
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
