"""What the tests of races do to a run, one step after the other."""

from schemas.messages import Failure
from tests.choreography.test_maps import by_index, node

BY = {"by": "me"}


def bad(node_id="a", index=0):
    def answer(task, started):
        if task.node_id == node_id and int(task.scope.rpartition("-")[2] or 0) == index:
            return Failure("permanent", "no good", retryable=False)
        return by_index(task, started)

    return answer


def beside(nodes, **config):
    """A map, and `side` beside it."""
    return {
        "id": "w",
        "nodes": [
            {"id": "each", "type": "map", "config": {"items": "input.xs", "nodes": nodes, **config}},
            node("side"),
        ],
    }


async def task_of(play, node_id):
    return next(task for task in await play.tasks() if task.node_id == node_id)


async def fail_side(play):
    await play.execute(await task_of(play, "side"))
    await play.settle()
    assert await play.status() == "FAILED"
    play.answer = by_index
