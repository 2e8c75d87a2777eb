"""What a GPU did, over time."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Segment:
    """A time in which nothing changed, in seconds: the models with requests running, and the one that was loading.

    Neither: the GPU was idle.
    """

    begin: float
    end: float
    active: tuple[str, ...] = ()
    loading: str | None = None

    @property
    def seconds(self) -> float:
        return self.end - self.begin


class Timeline:
    """Segments, put together from the state after each change."""

    def __init__(self) -> None:
        self._changes: list[tuple[float, tuple[str, ...], str | None]] = [(0.0, (), None)]

    def note(self, at: float, active: tuple[str, ...], loading: str | None) -> None:
        """The state from `at` on; times never go back."""
        since, *known = self._changes[-1]
        if known == [active, loading]:
            return
        if since == at:
            self._changes[-1] = (at, active, loading)
        else:
            self._changes.append((at, active, loading))

    def segments(self, end: float) -> list[Segment]:
        """All of them up to `end`."""
        ends = [change[0] for change in self._changes[1:]] + [end]
        return [
            Segment(begin, min(until, end), active, loading)
            for (begin, active, loading), until in zip(self._changes, ends, strict=True)
            if begin < min(until, end)
        ]


def shares(segments: Iterable[Segment]) -> dict[str, float]:
    """Seconds by model; models that are active at the same time have it in equal parts, as they share the GPU."""
    found: dict[str, float] = {}
    for segment in segments:
        for model in segment.active:
            found[model] = found.get(model, 0.0) + segment.seconds / len(segment.active)
    return found
