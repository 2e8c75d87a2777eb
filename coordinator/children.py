"""Children: the runs that `workflow` nodes start. A child's end wakes its parent's token (lua/parts/close.lua)."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Awaitable, Callable
from typing import Any

import orjson

from coordinator.decide import Done
from coordinator.map_items import stored
from coordinator.opening import NodeFailed
from lua.answers import Started
from lua.child_runs import ChildRuns, TooDeep, child_id
from lua.run_store import RunStore
from schemas.compiler.compiler import compile_workflow
from schemas.compiler.json_schema import schema_validator
from schemas.errors import InvalidDocument
from schemas.ir import IR, Node
from schemas.messages import CompletionSignal, Failure
from schemas.plan import Plan
from schemas.values import ValueTooLarge

Workflows = Callable[[str, int | None], Awaitable[tuple[IR, int] | None]]
"""(workflow id, version or None for the latest) -> its IR and version; None if there is none."""

FAILED_AS = {"FAILED": "child_failed", "CANCELLED": "child_cancelled", "TIMED_OUT": "timeout", "": "not_found"}
KEPT = 100  # compiled inline documents
MOST_NAMES = 100  # children of one token, one after the other


async def no_workflows(workflow_id: str, version: int | None) -> None:
    """For a coordinator that knows no registered workflows: only inline documents can be called."""


class Children:
    def __init__(self, store: RunStore, workflows: Workflows = no_workflows) -> None:
        self.store = store
        self.runs = ChildRuns(store)
        self.workflows = workflows
        self._inline: OrderedDict[bytes, IR] = OrderedDict()

    async def start(self, signal: CompletionSignal, node: Node, input: Any) -> str:
        """Start the child run of a token, or go on with the one that it has; its id. Raises NodeFailed.

        Idempotent: a child's id follows from its parent's token. When the parent is retried, a child that failed is
        retried, and in the place of one that was cancelled or out of time a new one is started.
        """
        ir, version = await self._workflow(node)
        _check_input(node, ir, input)
        anew = [signal.attempt] if signal.attempt else []  # a token that a patch let begin anew has other children
        for number in range(1, MOST_NAMES):
            numbers = [*anew, number] if anew or number > 1 else []
            child = child_id(signal.run_id, signal.token_id, *numbers)
            match await self._start(child, signal, node, ir, version, input):
                case Started.STARTED:
                    return child
                case Started.CONFLICT:
                    raise NodeFailed("invalid_input", f"{node.id}: the run id {child} is taken by another run")
            status = await self.runs.status(child)
            if await self.runs.is_of_this_epoch(child, signal.run_id):
                return child  # it may have ended before its parent's token waits
            if status == "FAILED":
                await self.store.retry_run(child, {"by": signal.run_id})
            if status not in ("CANCELLED", "TIMED_OUT"):
                return child
        raise NodeFailed("child_cancelled", f"{node.id}: its child runs were cancelled {MOST_NAMES} times")

    async def outcome(self, child: str, extra: Plan) -> Done | Failure | None:
        """What the child came to; None while it goes on."""
        end = await self.runs.end(child)
        if end is None:
            return None
        if end.status in FAILED_AS:
            message = f"child run {child}: {end.status or 'gone from Redis'}{end.reason}"
            return Failure(FAILED_AS[end.status], message[:2_000], retryable=False)
        return stored(end.output, extra)

    async def _workflow(self, node: Node) -> tuple[IR, int | None]:
        if "document" in node.config:
            return self._compiled(node), None
        asked, version = node.config["workflow_id"], node.config.get("version")
        found = await self.workflows(asked, version)
        if found is None:
            of = "" if version is None else f" version {version}"
            raise NodeFailed("not_found", f"{node.id}: there is no workflow {asked}{of}")
        return found

    def _compiled(self, node: Node) -> IR:
        """An inline document, which was compiled with its parent before."""
        text = orjson.dumps(node.config["document"])
        if text not in self._inline:
            try:
                self._inline[text] = compile_workflow(node.config["document"]).ir
            except InvalidDocument as error:
                raise NodeFailed("invalid_input", f"{node.id}: {error}") from None
            if len(self._inline) > KEPT:
                self._inline.popitem(last=False)
        return self._inline[text]

    async def _start(
        self, child: str, signal: CompletionSignal, node: Node, ir: IR, version: int | None, input: Any
    ) -> Started:
        wake = CompletionSignal(signal.token_id, signal.run_id, signal.node_id, signal.attempt, "completed")
        try:
            return await self.runs.start(
                child, signal.run_id, signal.token_id, ir, input, version=version, timeout_ms=node.timeout_ms,
                wake=wake.to_json(),
            )  # fmt: skip
        except (TooDeep, ValueTooLarge) as error:
            raise NodeFailed("too_large", f"{node.id}: {error}") from None


def _check_input(node: Node, ir: IR, input: Any) -> None:
    schema = ir.workflow.get("input_schema")
    fault = next(schema_validator(schema).iter_errors(input), None) if schema is not None else None
    if fault is not None:
        message = f"{node.id}: the child's input_schema at {fault.json_path}: {fault.message[:300]}"
        raise NodeFailed("invalid_input", message)
