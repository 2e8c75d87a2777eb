"""A session with one MCP server: opened when it is needed, kept, and opened again when the server has died."""

from __future__ import annotations

import asyncio
import logging
import sys
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import httpx2
from mcp import Client, MCPError, StdioServerParameters, stdio_client
from mcp.client.streamable_http import streamable_http_client
from mcp.types import CONNECTION_CLOSED, CallToolResult, TextContent
from mcp.types import Tool as McpTool

from agent_runner.tools.mcp_server import McpAway, McpServer
from agent_runner.tools.tool import ToolFailed

log = logging.getLogger("pavane.runner")

CONNECT_S = 30.0
CLOSE_S = 10.0  # the SDK gives a server 4 s before it kills it
READ_S = 300.0
"""For one request. An agent's own timeout is nearly always shorter."""
MAX_PAGES = 20
MAX_TOOLS = 1_000  # of one server


@dataclass(eq=False, slots=True)
class _Connection:
    """The SDK wants a connection to be opened and closed by one task, so a task of its own keeps each."""

    ready: asyncio.Future[Client]
    closing: asyncio.Event = field(default_factory=asyncio.Event)
    keeper: asyncio.Task[None] | None = None


class McpSession:
    def __init__(self, server: McpServer) -> None:
        self._server = server
        self._connection: _Connection | None = None
        self._opening = asyncio.Lock()
        self._leaving: set[asyncio.Task[None]] = set()

    async def tools(self) -> list[McpTool]:
        """What the server offers now. A server that died since it was last asked is started again. Raises McpAway."""
        for attempt in range(2):
            connection = await self._connected()
            try:
                return await _listed(connection.ready.result())
            except Exception as error:
                self._drop(connection)
                if attempt == 1:
                    raise McpAway(f"the MCP server {self._server.name} lists no tools: {_text(error)}") from error
        raise AssertionError("the second failure is raised")

    async def call(self, name: str, arguments: Mapping[str, Any]) -> Any:
        """A tool's result: structured if it is, else its text. Raises ToolFailed.

        Where the server dies in the middle nobody knows what it did: the model hears of it, and nothing is repeated.
        """
        try:
            connection = await self._connected()
        except McpAway as error:
            raise ToolFailed(str(error)) from error
        try:
            result = await connection.ready.result().call_tool(name, dict(arguments), read_timeout_seconds=READ_S)
        except MCPError as error:
            if error.code != CONNECTION_CLOSED:
                raise ToolFailed(error.message) from error
            self._drop(connection)
            raise ToolFailed(f"the MCP server {self._server.name} ended during the call") from error
        except RuntimeError as error:  # the result misses the schema that the server gave for it
            raise ToolFailed(_text(error)) from error
        except Exception as error:
            self._drop(connection)
            raise ToolFailed(f"the MCP server {self._server.name} broke off: {_text(error)}") from error
        return _value(result)

    async def close(self) -> None:
        if self._connection is not None:
            self._drop(self._connection)
        if self._leaving:
            _, still = await asyncio.wait(self._leaving, timeout=CLOSE_S)
            for keeper in still:
                keeper.cancel()
            await asyncio.gather(*still, return_exceptions=True)

    async def _connected(self) -> _Connection:
        async with self._opening:
            if self._connection is None:
                self._connection = connection = _Connection(asyncio.get_running_loop().create_future())
                connection.keeper = asyncio.create_task(self._keep(connection))
            connection = self._connection
        try:
            async with asyncio.timeout(CONNECT_S):
                await asyncio.shield(connection.ready)
        except TimeoutError:
            self._drop(connection)
            raise McpAway(f"the MCP server {self._server.name} did not answer within {CONNECT_S:g} s") from None
        except Exception as error:
            self._drop(connection)
            raise McpAway(f"the MCP server {self._server.name} can not be reached: {_text(error)}") from error
        return connection

    def _drop(self, connection: _Connection) -> None:
        """The next one who needs the server gets another connection."""
        if self._connection is connection:
            self._connection = None
        connection.closing.set()
        keeper = connection.keeper
        if keeper is not None and not keeper.done():
            if not connection.ready.done():
                keeper.cancel()
            self._leaving.add(keeper)
            keeper.add_done_callback(self._leaving.discard)

    async def _keep(self, connection: _Connection) -> None:
        """Raises nothing: what went wrong is told by `ready`."""
        try:
            async with _transport(self._server) as transport, Client(transport, cache=None) as client:
                connection.ready.set_result(client)
                log.info("connected to the MCP server %s", self._server.name)
                await connection.closing.wait()
        except BaseException as error:  # anyio's groups, too
            if connection.ready.done():
                log.info("the connection to the MCP server %s ended: %s", self._server.name, _text(error))
            else:
                connection.ready.set_exception(McpAway(_text(error)))
                connection.ready.exception()  # looked at, so that asyncio does not complain
            if isinstance(error, asyncio.CancelledError):
                raise


@asynccontextmanager
async def _transport(server: McpServer) -> AsyncIterator[Any]:
    """A transport of the SDK, not yet entered."""
    if server.url:
        timeout = httpx2.Timeout(CONNECT_S, read=READ_S)
        async with httpx2.AsyncClient(headers=dict(server.headers), timeout=timeout, trust_env=False) as client:
            yield streamable_http_client(server.url, http_client=client)
        return
    command, *args = server.command
    parameters = StdioServerParameters(command=command, args=args, env=dict(server.environment))
    yield stdio_client(parameters, errlog=sys.stderr)


async def _listed(client: Client) -> list[McpTool]:
    found: list[McpTool] = []
    cursor: str | None = None
    for _ in range(MAX_PAGES):
        page = await client.list_tools(cursor=cursor)
        found += page.tools
        cursor = page.next_cursor
        if cursor is None or len(found) >= MAX_TOOLS:
            break
    return found[:MAX_TOOLS]


def _value(result: CallToolResult) -> Any:
    parts = [
        part.text if isinstance(part, TextContent) else f"[{part.type}: left out, the model reads text]"
        for part in result.content
    ]
    text = "\n".join(parts)
    if result.is_error:
        raise ToolFailed(text or "the tool failed and said nothing")
    return text if result.structured_content is None else result.structured_content


def _text(error: BaseException) -> str:
    while isinstance(error, BaseExceptionGroup) and error.exceptions:
        error = error.exceptions[0]
    return (str(error) or type(error).__name__)[:300]
