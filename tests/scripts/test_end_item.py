"""More of it: tests/choreography/test_maps.py."""

from tests.scripts.failed_items import failed_item


async def test_the_item_ends_once_with_its_result(any_redis):
    play, failed = await failed_item(any_redis, on_item_error="collect")
    assert await play.store.end_item(failed, "1-0", '"gone"') == ["ended", "1-0"]
    assert await play.store.end_item(failed, "1-0", '"gone"') == ["duplicate"]
    assert await any_redis.hgetall("results:run_1/1") == {b"0": b'"gone"'}
    assert await any_redis.keys("*run_1/1-0*") == []
    assert [e.type for e in await play.events()][-2:] == ["node_failed", "item_completed"]
    assert await any_redis.xlen("wf.tasks.function") == 1
