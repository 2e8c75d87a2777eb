"""The last look before something is asked of an engine: whether this runner still drives it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

_ABOUT_TO_WRITE = (".send_request_headers.started", ".send_request_body.started")
"""How the names of two moments end that httpcore tells of: a connection is there, and nothing of the request, or
nothing of its body, was written. Without its body an engine does not begin with it."""


class NotOurs(Exception):
    """Another runner may have the engine by now: nothing was sent."""


class Fence:
    """Stands before what changes an engine or keeps it busy: chats, loads, unloads. Questions pass.

    `may_send` is asked right before a request is written. A process may be stopped at any moment before, and wake when
    its engine is another's; what is on the wire, nothing can call back.
    """

    def __init__(self) -> None:
        self.may_send: Callable[[], bool] = lambda: True

    def look(self) -> None:
        """Raises NotOurs."""
        if not self.may_send():
            raise NotOurs

    @property
    def extensions(self) -> Mapping[str, Any]:
        """Of an httpx request that is to be fenced."""
        return {"trace": self._trace}

    async def _trace(self, event: str, info: Mapping[str, Any]) -> None:
        if event.endswith(_ABOUT_TO_WRITE):
            self.look()
