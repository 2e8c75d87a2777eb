"""Named points: where in its work a process dies, and how it is brought to die there without a hook in the product."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from itertools import count
from typing import Any, NamedTuple


class Point(NamedTuple):
    """Before or after a call of a method of one of the service's objects, or after one that was answered by a word."""

    object: str
    method: str
    when: str
    answered: str = ""


COORDINATOR = {
    "popped": Point("coordinator", "pop", "after"),
    "loaded": Point("store", "load_tokens", "after"),
    "decided": Point("store", "advance", "before"),
    "advanced": Point("store", "advance", "after"),
    "retried": Point("store", "retry_task", "after"),
    "due": Point("store", "queue_task", "before"),
    "requeued": Point("store", "queue_task", "after"),
}
OPENINGS = {
    "mapping": Point("store", "start_map", "before"),
    "mapped": Point("store", "start_map", "after"),
    "beginning": Point("store", "start_items", "before"),
    "begun": Point("store", "start_items", "after"),
    "ending": Point("store", "end_item", "before"),
    "ended": Point("store", "end_item", "after"),
    "failing": Point("store", "fail_item", "before"),
    "failed": Point("store", "fail_item", "after"),
    "opening": Point("store", "open_task", "before"),
    "opened": Point("store", "open_task", "after"),
    "called": Point("children", "start", "after"),
    "gathered": Point("maps", "gather", "after"),
    "answering": Point("store", "answer_task", "before"),
    "answered": Point("store", "answer_task", "after"),
    "swept": Point("store", "sweep_map", "after"),
}
SLICES = {
    "sweeping": Point("store", "sweep_map", "before"),
    "swept": Point("store", "sweep_map", "after"),
    "unparking": Point("store", "unpark_run", "before"),
    "unparked": Point("store", "unpark_run", "after"),
}
ADMISSION = {
    "admitting": Point("store", "start_runs", "before"),
    "admitted": Point("store", "start_runs", "after"),
}
RUNNER = {
    "read": Point("store", "start_task", "before"),
    "claimed": Point("store", "start_task", "after"),
    "executing": Point("runner", "_outcome", "before"),
    "executed": Point("store", "finish_task", "before"),
    "finished": Point("store", "finish_task", "after"),
}
RECORDER = {
    "writing": Point("journal", "write", "before"),
    "copied": Point("journal", "write", "inside"),
    "recorded": Point("journal", "write", "after"),
}
PATCHER = {
    "patching": Point("store", "patch_run", "before"),
    "patched": Point("store", "patch_run", "after", "patched"),
}
ADOPTION = {
    "adopting": Point("store", "adopt_items", "before"),
    "adopted": Point("store", "adopt_items", "after"),
}
"""In coordinators and runners."""
POINTS = COORDINATOR | OPENINGS | SLICES | ADMISSION | RUNNER | RECORDER | PATCHER | ADOPTION


def die_at(name: str, hits: int, **objects: Any) -> None:
    """Let this process kill itself when it comes to the point for the `hits`-th time with work in its hands.

    It never does where there is no name, or where the point lies in another kind of service.
    """
    point = POINTS.get(name)
    if point is not None and point.object in objects:
        owner, times = objects[point.object], count(1)
        dying = _dying(getattr(owner, point.method), point, lambda: next(times) == hits)
        setattr(owner, point.method, dying)


def _dying(call: Callable[..., Any], point: Point, is_time: Callable[[], bool]) -> Callable[..., Any]:
    when = point.when

    async def dying(*args: Any, **kwargs: Any) -> Any:
        if when == "inside":  # the recorder's transaction: all is written in it, and it is not committed
            connection, page = args
            async with connection.transaction():
                await call(connection, page)
                _die(bool(page.entries) and is_time())
        if when == "before" and args[0]:
            _die(is_time())
        answer = await call(*args, **kwargs)
        if when == "after" and (answer or args[1:]) and (not point.answered or answer[0][0] == point.answered):
            _die(is_time())
        return answer

    return dying


def _die(now: bool) -> None:
    if now:
        os.kill(os.getpid(), signal.SIGKILL)
