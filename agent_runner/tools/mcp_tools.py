"""The tools of MCP servers, under names that models take."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

from agent_runner.failure import TaskFailed
from agent_runner.tools.mcp_server import McpAway, McpServer
from agent_runner.tools.tool import Call, Tool, make_tool

if TYPE_CHECKING:
    from mcp.types import Tool as McpTool

    from agent_runner.tools.mcp_session import McpSession

_STRANGE = re.compile(r"[^a-zA-Z0-9_-]")
_NAME_CHARS = 64
_DESCRIPTION_CHARS = 4_096


class McpTools:
    """One session for each server, shared by all executions of this runner."""

    def __init__(self, servers: Iterable[McpServer] = ()) -> None:
        self._servers = {server.name: server for server in servers}
        self._sessions: dict[str, McpSession] = {}

    async def tools(self, config: Mapping[str, Any]) -> list[Tool]:
        """The tools of `{mcp: server, tools?: [names]}`, by default all that the server has.

        Raises TaskFailed: `not_found` for a server or a tool that is not there, `connection` for a server that is away.
        """
        name = config["mcp"]
        if name not in self._servers:
            raise TaskFailed("not_found", f"no MCP server {name!r} is configured with this runner (PAVANE_MCP_SERVERS)")
        session = self._session(name)
        try:
            offered = {tool.name: tool for tool in await session.tools()}
        except McpAway as error:
            raise TaskFailed("connection", str(error)) from error
        wanted = config.get("tools", list(offered))
        if missing := [one for one in wanted if one not in offered]:
            raise TaskFailed("not_found", f"the MCP server {name!r} has no tool {missing[0]!r}")
        return [_tool(session, offered[one]) for one in wanted]

    async def close(self) -> None:
        for session in self._sessions.values():
            await session.close()

    def _session(self, name: str) -> McpSession:
        if name not in self._sessions:
            from agent_runner.tools.mcp_session import McpSession  # half a second, for those who use it

            self._sessions[name] = McpSession(self._servers[name])
        return self._sessions[name]


def _tool(session: McpSession, offered: McpTool) -> Tool:
    async def execute(call: Call) -> Any:
        return await session.call(offered.name, call.arguments)

    name = _STRANGE.sub("_", offered.name)[:_NAME_CHARS]
    return make_tool("mcp", name, (offered.description or "")[:_DESCRIPTION_CHARS], offered.input_schema, execute)
