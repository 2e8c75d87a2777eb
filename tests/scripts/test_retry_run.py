"""More of it: tests/choreography/test_control.py, test_maps.py."""

from schemas.fold import fold
from schemas.messages import Failure
from tests.play import Play
from tests.scripts.workflows import CHAIN, DIAMOND, retrying


def failing(task, _):
    return Failure("permanent", "no", retryable=False)


async def test_answers(any_redis):
    play = Play(any_redis, CHAIN, failing)
    assert await play.store.retry_run("run_1", {}) == ["unknown"]
    await play.start()
    assert await play.store.retry_run("run_1", {}) == ["live", "RUNNING"]
    await play.run_to_end()
    assert await play.store.retry_run("run_1", {"by": "me"}) == ["retried"]
    assert await play.store.retry_run("run_1", {"by": "me"}) == ["live", "RUNNING"]


async def test_every_key_loses_its_ttl(any_redis):
    play = Play(any_redis, DIAMOND, failing)
    await play.start()
    await play.run_to_end()
    keys = await any_redis.keys("*:run_1*")
    for key in keys:
        assert await any_redis.pttl(key) > 0
    await play.store.retry_run("run_1", {})
    for key in keys:
        assert await any_redis.pttl(key) == -1


async def test_the_dead_task_has_all_its_attempts_again(any_redis):
    play = Play(any_redis, retrying(), lambda task, _: Failure("timeout", "slow", retryable=True))
    await play.start()
    await play.run_to_end()
    assert await play.status() == "FAILED"
    before = len(play.executed)
    await play.store.retry_run("run_1", {})
    await play.run_to_end()
    assert await play.status() == "FAILED"
    assert await play.field("epoch") == "1"
    assert len(play.executed) > before
    attempts = [started.attempt for task, started in play.executed if task.node_id == play.executed[-1][0].node_id]
    assert attempts == sorted(set(attempts))  # the fence goes on rising


async def test_paused_it_goes_on_when_it_is_resumed(any_redis):
    play = Play(any_redis, CHAIN, failing)
    await play.start()
    await play.run_to_end()
    done = len(play.executed)
    assert await play.store.retry_run("run_1", {"by": "me"}, paused=True) == ["retried"]
    await play.run_to_end()
    assert (await play.status(), len(play.executed)) == ("PAUSED", done)
    assert [token.state for token in (await play.tokens()).values()] == ["parked"]
    assert fold(await play.events()).status == "PAUSED"
    await play.skip(60_000)
    assert await play.store.resume_run("run_1", {"by": "me"}) == ["resumed"]
    assert int(await play.field("paused_ms")) >= 60_000, "its clocks stood still"
    await play.run_to_end()
    assert len(play.executed) == done + 1
