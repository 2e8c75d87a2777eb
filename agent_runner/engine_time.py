"""What executions take of an engine: a share of its time, and the loads that they are the first to use. Pure."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(slots=True)
class Cost:
    """What one execution took, in ms; it counts while the execution goes on, so a failed one's is known too.

    `load_ms` is the load of its model, of the execution that is the first to use it; `gpu_ms` its share of the time
    that this runner kept the engine busy. `wait_ms` passed in the engine before the model was its own, a part of
    the request's own time; `held_ms` before it was asked, the model or the engine being away.
    """

    load_ms: int = 0
    gpu_ms: float = 0.0
    wait_ms: int = 0
    held_ms: int = 0

    def metadata(self) -> dict[str, float]:
        """Of the completion signal."""
        waits = {"wait_ms": self.wait_ms, "held_ms": self.held_ms}
        return {
            "load_ms": self.load_ms,
            "gpu_ms": round(self.gpu_ms, 1),
            **{name: ms for name, ms in waits.items() if ms},
        }


class EngineTime:
    """The time of one engine, shared among the requests at it: while n are there, each takes 1/n of it.

    So the shares of all are the time in which there was any. Times are seconds of one clock that never goes back.
    """

    def __init__(self) -> None:
        self.requests = 0
        self.busy_s = 0.0
        self._each_s = 0.0  # the share of a request that had been there all the time
        self._at = 0.0

    def begin(self, now: float) -> float:
        """A request comes; what is to be told at its end."""
        self._elapse(now)
        self.requests += 1
        return self._each_s

    def end(self, mark: float, now: float) -> float:
        """A request is over, for which `begin` gave `mark`: its share in seconds."""
        self._elapse(now)
        self.requests -= 1
        return self._each_s - mark

    def _elapse(self, now: float) -> None:
        if self.requests:
            self.busy_s += now - self._at
            self._each_s += (now - self._at) / self.requests
        self._at = now
