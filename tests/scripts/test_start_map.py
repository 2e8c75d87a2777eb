"""More of it: tests/choreography/test_maps.py."""

from lua.run_store import MapStart
from tests.play import Play
from tests.scripts.workflows import mapped


async def test_a_deciding_token_becomes_mapping_once(any_redis):
    play = Play(any_redis, mapped())
    await play.start(input={"xs": [1]})
    step = MapStart("run_1", "run_1.1", "each", 0, play.ir.digest, "[1]", 1, 10, b"{}")
    stale = MapStart("run_1", "run_1.1", "each", 0, "sha256-other", "[1]", 1, 10, b"{}")
    assert await play.store.start_map(stale) == ["stale", play.ir.digest]
    assert await play.store.start_map(step) == ["mapping"]
    assert await play.store.start_map(step) == ["duplicate"]
    assert await play.states() == [("each", "mapping")]
    assert await any_redis.hmget("map:run_1/1", "total", "cursor", "items") == [b"1", b"0", b"[1]"]
    await play.store.end_run("run_1", "CANCELLED", {})
    assert await play.store.start_map(step) == ["over", "CANCELLED"]
    assert await any_redis.keys("map:*") == []
