"""The toolbox of an agent runner: everything that its agents' tools are made of."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from agent_runner.failure import TaskFailed
from agent_runner.handlers import Handlers
from agent_runner.tools.handler_tools import handler_tool
from agent_runner.tools.http_tools import http_tool
from agent_runner.tools.mcp_server import McpServer
from agent_runner.tools.mcp_tools import McpTools
from agent_runner.tools.patch_tools import PatchTools
from agent_runner.tools.tool import Tool
from agent_runner.tools.workflow_tools import Aside, Workflows, WorkflowTools, no_workflows
from agent_runner.web.caller import WebCaller
from agent_runner.work import Work
from lua.run_store import RunStore
from schemas.ir import Node
from schemas.model_calls import CALLS


@dataclass(frozen=True, slots=True)
class ToolSources:
    """What an operator gives the agents of a runner: nothing of it can be named by a document that is not here."""

    handlers: Handlers = field(default_factory=Handlers)
    caller: WebCaller = field(default_factory=WebCaller)
    mcp_servers: Sequence[McpServer] = ()
    workflows: Workflows = no_workflows


class Toolbox:
    def __init__(self, store: RunStore, sources: ToolSources, aside: Aside) -> None:
        self._sources = sources
        self._workflows = WorkflowTools(store, aside, sources.workflows)
        self._mcp = McpTools(sources.mcp_servers)
        self._patches = PatchTools(store)

    async def tools(self, work: Work) -> dict[str, Tool]:
        """The tools of an agent, by name. Raises TaskFailed where one of them can not be had."""
        configs = work.node.config["tools"]
        if work.attempt > 1 and any("workflow" in config for config in configs):
            await self._workflows.withdraw(work, work.node.config.get("max_calls", CALLS))
        found: dict[str, Tool] = {}
        for config in configs:
            for tool in await self._of(config, work.node):
                if tool.name in found:
                    raise TaskFailed("invalid_input", f"two tools of this agent are called {tool.name!r}")
                found[tool.name] = tool
        return found

    async def close(self) -> None:
        await self._workflows.close()
        await self._mcp.close()
        await self._sources.caller.close()

    async def _of(self, config: Mapping[str, Any], node: Node) -> list[Tool]:
        if "handler" in config:
            return [handler_tool(config, self._sources.handlers)]
        if "http" in config:
            return [http_tool(config["http"], self._sources.caller)]
        if "workflow" in config:
            return [await self._workflows.tool(config["workflow"])]
        if "patch_workflow" in config:
            return self._patches.tools(config["patch_workflow"], node.id)
        return await self._mcp.tools(config)
