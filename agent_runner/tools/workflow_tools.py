"""Workflows as tools: a child run on the model's arguments, and its output."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping
from contextlib import AbstractContextManager
from typing import Any

from agent_runner.failure import TaskFailed
from agent_runner.tools.run_ends import LIVE, RunEnds
from agent_runner.tools.tool import Call, Tool, ToolFailed, make_tool
from agent_runner.work import Work
from lua.answers import Started
from lua.child_runs import ChildRuns, TooDeep, child_id
from lua.run_store import RunStore
from schemas.compiler.compiler import compile_workflow
from schemas.compiler.json_schema import schema_validator
from schemas.ir import IR
from schemas.values import ValueTooLarge

log = logging.getLogger("pavane.runner")

Workflows = Callable[[str, int | None], Awaitable[tuple[IR, int] | None]]
"""(workflow id, version or None for the latest) -> its IR and version; None if there is none."""
Aside = Callable[[Work], AbstractContextManager[None]]
"""Frees the slot of an execution while it waits for others, which may need it."""

CANCEL_S = 5.0
_SHOWN = 300


async def no_workflows(workflow_id: str, version: int | None) -> None:
    """For a runner that knows no registered workflows: only inline documents can be called."""


class WorkflowTools:
    """Makes the tools of `{workflow: {...}}`, and sees to their child runs."""

    def __init__(self, store: RunStore, aside: Aside, workflows: Workflows = no_workflows) -> None:
        self._store = store
        self._aside = aside
        self._workflows = workflows
        self._ends = RunEnds(store)
        self._runs = ChildRuns(store)

    async def tool(self, config: Mapping[str, Any]) -> Tool:
        """Raises TaskFailed for a workflow that is not there."""
        ir, version = await self._workflow(config)

        async def execute(call: Call) -> Any:
            return await self._run(call, ir, version)

        schema = config.get("parameters") or ir.workflow.get("input_schema") or {}
        return make_tool("workflow", config["name"], config["description"], {"type": "object", **schema}, execute)

    async def withdraw(self, work: Work, calls: int) -> None:
        """Cancel what an earlier attempt has left running: its runner died, and nobody waits for its children."""
        known = self._store.redis.pipeline(transaction=False)
        task = work.task
        children = [child_id(task.run_id, task.token_id, work.attempt - 1, n) for n in range(1, calls + 1)]
        for child in children:
            known.hget(self._store.keys.run(child), "status")
        for child, status in zip(children, await known.execute(), strict=True):
            if status is not None and status.decode() in LIVE:
                await self._cancel(child, work.task.run_id)

    async def close(self) -> None:
        await self._ends.close()

    async def _workflow(self, config: Mapping[str, Any]) -> tuple[IR, int | None]:
        if "document" in config:
            compiled = await asyncio.to_thread(compile_workflow, config["document"])  # it was compiled with its parent
            return compiled.ir, None
        asked, version = config["workflow_id"], config.get("version")
        try:
            found = await self._workflows(asked, version)
        except Exception as error:  # Postgres, or Redis, is away
            raise TaskFailed("connection", f"workflow {asked} can not be read: {error}"[:_SHOWN]) from error
        if found is None:
            of = "" if version is None else f" version {version}"
            raise TaskFailed("not_found", f"tool {config['name']}: there is no workflow {asked}{of}")
        return found

    async def _run(self, call: Call, ir: IR, version: int | None) -> Any:
        """The output of a child run. It is cancelled where nobody waits for it any more."""
        schema = ir.workflow.get("input_schema")
        fault = next(schema_validator(schema).iter_errors(call.arguments), None) if schema else None
        if fault is not None:
            raise ToolFailed(f"the workflow's input_schema at {fault.json_path}: {fault.message[:_SHOWN]}")
        child = await self._start(call, ir, version)
        parent = call.work.task.run_id
        try:
            with self._aside(call.work):
                status, parent_is_live = await self._ends.wait(child, parent)
        except asyncio.CancelledError:
            await asyncio.shield(self._cancel(child, parent))
            raise
        if status != "COMPLETED" and not parent_is_live:
            await self._cancel(child, parent)
            raise TaskFailed("interrupted", "the run has ended")
        return await self._output(child)

    async def _start(self, call: Call, ir: IR, version: int | None) -> str:
        task = call.work.task
        child = child_id(task.run_id, task.token_id, call.work.attempt, call.number)
        try:
            started = await self._runs.start(child, task.run_id, task.token_id, ir, call.arguments, version=version)
        except (TooDeep, ValueTooLarge) as error:
            raise ToolFailed(str(error)) from None
        if started is Started.CONFLICT:
            raise ToolFailed(f"the run id {child} is taken by another run")
        return child

    async def _output(self, child: str) -> Any:
        try:
            end = await self._runs.end(child)
        except LookupError as error:
            raise ToolFailed(str(error)) from None
        if end is None or end.status != "COMPLETED":
            said = "goes on" if end is None else f"is {end.status or 'gone'}{end.reason}"
            raise ToolFailed(f"the child run {child} {said}")
        return end.output

    async def _cancel(self, run_id: str, by: str) -> None:
        """Best effort: the child's own bounds end it otherwise."""
        try:
            async with asyncio.timeout(CANCEL_S):
                await self._store.end_run(run_id, "CANCELLED", {"by": by, "reason": "its agent waits no more"})
        except Exception as error:
            log.warning("child run %s was not cancelled: %s", run_id, error)
