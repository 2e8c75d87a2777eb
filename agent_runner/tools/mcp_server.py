"""An MCP server as the operator names it: a command to start, or a URL."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class McpServer:
    """`command` speaks over its stdin and stdout, and sees of our environment only `environment`; `url` is streamable
    HTTP, asked with `headers`. Exactly one of the two is given."""

    name: str
    command: Sequence[str] = ()
    environment: Mapping[str, str] = field(default_factory=dict, repr=False)
    url: str = ""
    headers: Mapping[str, str] = field(default_factory=dict, repr=False)


class McpAway(Exception):
    """A server can not be started or reached; the text names it."""
