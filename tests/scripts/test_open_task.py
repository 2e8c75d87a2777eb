"""More of it: tests/choreography/test_waits.py, test_children.py."""

from lua.run_store import Opening
from tests.play import Play

HUMAN = {"id": "w", "nodes": [{"id": "h", "type": "human", "config": {}}], "edges": []}


def opening(play, state, fields, approval=None):
    return Opening("run_1", "run_1.1", "h", 0, play.ir.digest, state, fields, b"{}", approval)


async def test_a_deciding_token_is_opened_once(any_redis):
    play = Play(any_redis, HUMAN)
    await play.start()
    asked = opening(play, "asked", {"due": 1, "remind_ms": 5}, {"prompt": "?"})
    assert await play.store.open_task(asked) == ["opened"]
    assert await play.store.open_task(asked) == ["duplicate"]
    assert await any_redis.hgetall("approvals") == {b"run_1.1": b'{"prompt":"?"}'}
    timers = await any_redis.zrange("timers", 0, -1)
    assert set(timers) == {b"deadline run_1 run_1.1 0", b"remind run_1 run_1.1 0"}


async def test_a_child_is_looked_at_once_its_parent_waits(any_redis):
    play = Play(any_redis, HUMAN)
    await play.start()
    await play.signals()
    assert await play.store.open_task(opening(play, "calling", {"child": "run_2"})) == ["opened"]
    assert len(await play.signals()) == 1
