"""Tasks that were fetched ahead and wait for a slot, or are just being started."""

from __future__ import annotations

from collections import defaultdict, deque
from collections.abc import Callable, Iterable, Sequence

from agent_runner.work import Fetched


class Lanes:
    """The waiting tasks of one pool: interactive ones first, then in the order in which they came."""

    __slots__ = ("interactive", "normal")

    def __init__(self) -> None:
        self.interactive: deque[Fetched] = deque()
        self.normal: deque[Fetched] = deque()

    def __len__(self) -> int:
        return len(self.interactive) + len(self.normal)

    def of(self, fetched: Fetched) -> deque[Fetched]:
        return self.interactive if fetched.interactive else self.normal


class Buffer:
    """`take` gives tasks to be started; they count here until `settle` or `put_back` says how that went."""

    def __init__(self) -> None:
        self._pools: dict[str, Lanes] = defaultdict(Lanes)
        self._starting: list[Fetched] = []

    def __len__(self) -> int:
        """Those that wait."""
        return sum(map(len, self._pools.values()))

    def __contains__(self, token_id: str) -> bool:
        """Whether a task is here, waiting or being started."""
        return any(fetched.task.token_id == token_id for fetched in self._all())

    def count(self, pool: str, *, interactive: bool | None = None) -> int:
        """Tasks of a pool, waiting or being started, of both lanes or of one."""
        here = [*self._of(pool), *(fetched for fetched in self._starting if fetched.pool == pool)]
        return sum(interactive is None or fetched.interactive == interactive for fetched in here)

    def starting(self, pool: str) -> int:
        return sum(fetched.pool == pool for fetched in self._starting)

    def pools(self) -> list[str]:
        """Pools with tasks that wait."""
        return [pool for pool, lanes in self._pools.items() if lanes]

    def put(self, tasks: Iterable[Fetched]) -> None:
        for fetched in tasks:
            self._pools[fetched.pool].of(fetched).append(fetched)

    def take(self, free: Callable[[str], int], most: int) -> list[Fetched]:
        """Up to `free(pool)` tasks of each pool, an interactive one beyond that; at most `most`."""
        taken: list[Fetched] = []
        for pool, lanes in self._pools.items():
            room = free(pool)
            while lanes.interactive and room >= 0 and len(taken) < most:
                taken.append(lanes.interactive.popleft())
                room -= 1
            while lanes.normal and room > 0 and len(taken) < most:
                taken.append(lanes.normal.popleft())
                room -= 1
        self._starting += taken
        return taken

    def settle(self, batch: Sequence[Fetched]) -> None:
        """What `take` gave was started, or has turned out to be nothing to do."""
        gone = set(map(id, batch))
        self._starting = [fetched for fetched in self._starting if id(fetched) not in gone]

    def put_back(self, batch: Sequence[Fetched]) -> None:
        """What `take` gave could not be started."""
        self.settle(batch)
        for fetched in reversed(batch):
            self._pools[fetched.pool].of(fetched).appendleft(fetched)

    def clear(self) -> list[Fetched]:
        """Everything that waits; it is somebody else's from now on."""
        waiting = [fetched for pool in self._pools for fetched in self._of(pool)]
        self._pools.clear()
        return waiting

    def _of(self, pool: str) -> list[Fetched]:
        lanes = self._pools.get(pool)
        return [] if lanes is None else [*lanes.interactive, *lanes.normal]

    def _all(self) -> Iterable[Fetched]:
        for pool in self._pools:
            yield from self._of(pool)
        yield from self._starting
