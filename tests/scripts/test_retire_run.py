from tests.play import Play
from tests.scripts.workflows import LOOP


async def test_keys_go_after_the_retention_once_the_run_is_recorded(any_redis):
    play = Play(any_redis, LOOP, lambda task, _: {"n": 5})
    await play.start()
    assert await play.store.retire_run(["run_1", "run_2"]) == ["live", "unknown"]
    assert await any_redis.pttl("run:run_1") == -1
    await play.run_to_end()
    keys = ["run:run_1", "ir:run_1", "context:run_1", "loop:run_1:again"]
    assert all([await any_redis.pttl(key) > 24 * 3_600_000 for key in keys])
    assert await play.store.retire_run(["run_1"]) == ["retired"]
    assert all([0 < await any_redis.pttl(key) <= 60_000 for key in keys])
