"""Tasks that were fetched ahead and wait for a slot."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable

from agent_runner.work import Fetched


class Buffer:
    """Interactive tasks first, then in the order in which they came."""

    def __init__(self) -> None:
        self._lanes: tuple[deque[Fetched], deque[Fetched]] = (deque(), deque())

    def __len__(self) -> int:
        return len(self._lanes[0]) + len(self._lanes[1])

    def __contains__(self, token_id: str) -> bool:
        return any(fetched.task.token_id == token_id for lane in self._lanes for fetched in lane)

    def put(self, tasks: Iterable[Fetched]) -> None:
        for fetched in tasks:
            self._lanes[0 if fetched.interactive else 1].append(fetched)

    def put_back(self, tasks: list[Fetched]) -> None:
        """What `take` gave and could not be started."""
        for fetched in reversed(tasks):
            self._lanes[0 if fetched.interactive else 1].appendleft(fetched)

    def take(self, count: int) -> list[Fetched]:
        taken: list[Fetched] = []
        for lane in self._lanes:
            while lane and len(taken) < count:
                taken.append(lane.popleft())
        return taken
