"""More of it: tests/choreography/test_maps.py."""

import orjson

from schemas.messages import CompletionSignal
from tests.scripts.failed_items import failed_item


async def test_the_map_has_a_failure_as_its_outcome(any_redis):
    play, failed = await failed_item(any_redis)
    signal = CompletionSignal("run_1.1", "run_1", "each", None, "failed", metadata={"error_type": "item"})
    assert await play.store.fail_item(failed, signal) == ["failed"]
    assert await play.store.fail_item(failed, signal) == ["duplicate"]
    assert sorted(await play.states()) == [("a", "dead"), ("a", "queued"), ("each", "answered")]
    assert orjson.loads((await play.signals())[-1])["job_id"] == "run_1.1"


async def test_the_other_items_are_fenced_at_once(any_redis):
    play, failed = await failed_item(any_redis)
    other = (await play.tasks())[0]
    signal = CompletionSignal("run_1.1", "run_1", "each", None, "failed", metadata={"error_type": "item"})
    await play.store.fail_item(failed, signal)
    assert (await play.claim(other)).state == "gone"
