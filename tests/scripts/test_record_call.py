from tests.play import Play
from tests.scripts.workflows import CHAIN


async def test_only_the_current_attempt_is_recorded(any_redis):
    play = Play(any_redis, CHAIN)
    await play.start()
    task = (await play.tasks())[0]
    assert await play.store.record_call("run_1", task.token_id, 1, b"{}") == ["fenced"]
    await play.claim(task)
    assert await play.store.record_call("run_1", task.token_id, 1, b'{"call":1}') == ["recorded"]
    assert await play.store.record_call("run_1", task.token_id, 2, b"{}") == ["fenced"]
    await play.store.end_run("run_1", "CANCELLED", {})
    assert await play.store.record_call("run_1", task.token_id, 1, b"{}") == ["fenced"]
    (event,) = [e for e in await play.events() if e.type == "tool_called"]
    assert (event.node_id, event.data["call"]) == (task.node_id, 1)
