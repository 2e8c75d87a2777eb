"""How fast each model goes, from counts that this process saw earlier."""

from __future__ import annotations

from collections import deque

WINDOW_S = 300.0
SHORTEST_S = 5.0


class ModelRates:
    """Tasks per minute of each model, from counts seen at earlier looks of the last minutes."""

    def __init__(self) -> None:
        self._seen: dict[str, deque[tuple[float, int]]] = {}

    def rate(self, pool: str, executed: int, now: float) -> float | None:
        """None until there was an earlier look, long enough ago to tell."""
        seen = self._seen.setdefault(pool, deque())
        while seen and now - seen[0][0] > WINDOW_S:
            seen.popleft()
        if not seen or now - seen[-1][0] >= 1:
            seen.append((now, executed))
        span = now - seen[0][0]
        return round((executed - seen[0][1]) * 60 / span, 1) if span >= SHORTEST_S else None
