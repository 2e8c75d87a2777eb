"""An MCP server as a process of its own, with the official SDK: `python -m tests.runner.mcp_server [port]`."""

import os
import sys

from mcp.server.mcpserver import MCPServer
from mcp.server.mcpserver.exceptions import ToolError

server = MCPServer("test")


@server.tool()
def shout(text: str) -> str:
    """Say it louder."""
    return text.upper()


@server.tool(name="who.am-i")
def who() -> dict[str, str]:
    return {"pid": str(os.getpid()), "secret": os.environ.get("SECRET", ""), "other": os.environ.get("OTHER", "")}


@server.tool()
def fail(reason: str) -> str:
    raise ToolError(reason)


@server.tool()
def huge(size: int) -> str:
    return "x" * size


@server.tool()
def die() -> str:
    os._exit(1)


if __name__ == "__main__":
    if len(sys.argv) > 1:
        server.run("streamable-http", port=int(sys.argv[1]))
    else:
        server.run("stdio")
