"""Maps: a sub-graph per item, on the real scripts."""

import orjson
import pytest

from schemas.fold import fold
from schemas.limits import LIMITS
from schemas.messages import Failure
from tests.play import Play


def node(node_id, **args):
    return {"id": node_id, "type": "function", "config": {"handler": "h", "args": args}}


def mapped(nodes, edges=(), after="end", **config):
    """split -> each (a map over input.xs) -> end"""
    each = {"items": "input.xs", "nodes": list(nodes), "edges": list(edges), **config}
    on_error = {"on_error": each.pop("on_error")} if "on_error" in each else {}
    return {
        "id": "w",
        "nodes": [{"id": "each", "type": "map", "config": each, **on_error}, node(after, all="{{ output }}")],
        "edges": [{"from": "each", "to": after}],
    }


def by_index(task, started):
    """What a task gives: its item, and where it was."""
    return {"node": task.node_id, "item": orjson.loads(started.item) if started.item else None}


def failing(*indexes, node_id="a"):
    def answer(task, started):
        if task.node_id == node_id and int(task.scope.rpartition("-")[2]) in indexes:
            return Failure("permanent", "no good", retryable=False)
        return by_index(task, started)

    return answer


async def keys_of_items(redis):
    return [key for key in await redis.keys("*") if b"/" in key]


async def test_results_come_in_item_order(any_redis):
    play = Play(any_redis, mapped([node("a")], max_parallel=3), by_index)
    await play.start(input={"xs": list("abcdefg")})
    await play.run_to_end(lambda tasks: len(tasks) - 1)
    assert await play.status() == "COMPLETED"
    assert [result["item"] for result in (await play.outputs())["each"]] == list("abcdefg")
    assert await keys_of_items(any_redis) == []


async def test_no_more_items_at_once_than_may(any_redis):
    play = Play(any_redis, mapped([node("a")], max_parallel=4), by_index)
    await play.start(input={"xs": list(range(50))})
    most = 0
    while await play.status() == "RUNNING":
        await play.settle()
        tasks = await play.tasks()
        most = max(most, len(tasks))
        await play.execute(tasks[0])
        await play.settle()
    assert most == 4
    assert [r["item"] for r in (await play.outputs())["each"]] == list(range(50))


async def test_zero_items(any_redis):
    play = Play(any_redis, mapped([node("a")]), by_index)
    await play.start(input={"xs": []})
    await play.run_to_end()
    assert play.path() == ["end"]
    assert (await play.outputs())["each"] == []


@pytest.mark.parametrize(("xs", "klass"), [({"a": 1}, "invalid_input"), (None, "invalid_input")])
async def test_items_must_be_a_list(any_redis, xs, klass):
    play = Play(any_redis, mapped([node("a")]))
    await play.start(input={"xs": xs})
    await play.run_to_end()
    assert await play.status() == "FAILED"
    assert (await play.events())[-1].data["error"]["class"] == klass


async def test_variables_of_an_item(any_redis):
    workflow = mapped(
        [
            node("a", x="{{ item.v }}", i="{{ index }}", got="{{ output.v }}"),
            {"id": "t", "type": "transform", "config": {"set": {"s": "string(index) + item.v + ctx.before.output.p"}}},
        ],
        [{"from": "a", "to": "t"}],
    )
    workflow["nodes"].insert(0, {"id": "before", "type": "transform", "config": {"set": {"p": "'!'"}}})
    workflow["edges"].insert(0, {"from": "before", "to": "each"})
    play = Play(any_redis, workflow)
    await play.start(input={"xs": [{"v": "x"}, {"v": "y"}]})
    await play.run_to_end()
    assert (await play.outputs())["each"] == [{"s": "0x!"}, {"s": "1y!"}]


async def test_a_nested_map(any_redis):
    inner = {"id": "inner", "type": "map", "config": {"items": "item", "nodes": [node("a")]}}
    play = Play(any_redis, mapped([inner]), by_index)
    await play.start(input={"xs": [[1, 2], [], [3]]})
    await play.run_to_end()
    results = (await play.outputs())["each"]
    assert [[inner["item"] for inner in result] for result in results] == [[1, 2], [], [3]]
    assert await keys_of_items(any_redis) == []


async def test_a_join_and_a_loop_inside(any_redis):
    again = {"condition": {"type": "cel", "expression": "iteration < 2"}, "loop_back_to": "l", "max_iterations": 5}
    nodes = [
        node("h"),
        node("l"),
        node("r"),
        {"id": "again", "type": "loop", "config": {**again, "break_path": ["j"]}},
        {"id": "j", "type": "join"},
    ]
    edges = [("h", "l"), ("h", "r"), ("l", "again"), ("r", "j")]
    play = Play(any_redis, mapped(nodes, [{"from": a, "to": b} for a, b in edges]), by_index)
    await play.start(input={"xs": [1, 2, 3]})
    await play.run_to_end(lambda tasks: len(tasks) // 2)
    assert [sorted(result) for result in (await play.outputs())["each"]] == [["again", "r"]] * 3
    assert play.path().count("l") == 6
    assert await keys_of_items(any_redis) == []


async def test_a_failed_item_fails_the_run(any_redis):
    play = Play(any_redis, mapped([node("a")]), failing(2))
    await play.start(input={"xs": list("abcd")})
    await play.run_to_end()
    assert await play.status() == "FAILED"
    error = next(e for e in await play.events() if e.type == "node_failed" and e.node_id == "each").data["error"]
    assert (error["class"], error["node"]) == ("item", "each")
    assert error["message"] == "item 2: a: no good"
    assert error["cause"] == {"class": "permanent", "message": "no good", "attempts": 1, "node": "a"}
    states = await play.states()
    assert ("each", "dead") in states
    assert {state for _, state in states} == {"dead", "held"}
    assert await any_redis.zcard("timers") == 0
    for key in await keys_of_items(any_redis):
        assert await any_redis.pttl(key) > 0, key
    assert await any_redis.xlen("wf.tasks.function") == 0


async def test_a_retry_restores_the_items(any_redis):
    answers = failing(2)
    play = Play(any_redis, mapped([node("a"), node("b")], [{"from": "a", "to": "b"}], max_parallel=5), answers)
    await play.start(input={"xs": list("abcdefgh")})
    await play.run_to_end(lambda tasks: len(tasks) - 1)
    assert await play.status() == "FAILED"
    executed = len(play.executed)
    play.answer = by_index
    assert await play.store.retry_run("run_1", {"by": "me"}) == ["retried"]
    await play.run_to_end()
    assert await play.status() == "COMPLETED"
    assert [r["item"] for r in (await play.outputs())["each"]] == list("abcdefgh")
    finished = {(t.token_id, t.node_id) for t, _ in play.executed[:executed]} - {
        play.executed[executed - 1][0].token_id
    }
    again = [t for t, _ in play.executed[executed:] if (t.token_id, t.node_id) in finished and t.node_id != "a"]
    assert again == []
    assert await keys_of_items(any_redis) == []
    assert await any_redis.pttl("run:run_1") > 0
    state = fold(await play.events())
    assert (state.status, state.epoch, state.tokens) == ("COMPLETED", 1, {})


async def test_a_failed_item_with_on_error_of_the_map(any_redis):
    play = Play(any_redis, mapped([node("a")], on_error=["end"]), failing(1))
    await play.start(input={"xs": list("abc")})
    await play.run_to_end()
    assert await play.status() == "COMPLETED"
    assert play.path()[-1] == "end"
    arrived = orjson.loads(play.executed[-1][1].arrived["each"])
    assert arrived["error"]["class"] == "item"
    assert await keys_of_items(any_redis) == []
    assert await any_redis.xlen("wf.tasks.function") == 0


async def test_failures_are_collected(any_redis):
    workflow = mapped([node("a"), node("b")], [{"from": "a", "to": "b"}], on_item_error="collect")
    play = Play(any_redis, workflow, failing(0, 2, node_id="b"))
    await play.start(input={"xs": list("abc")})
    await play.run_to_end()
    assert await play.status() == "COMPLETED"
    first, second, third = (await play.outputs())["each"]
    assert first == third == {"error": {"class": "permanent", "message": "no good", "attempts": 1, "node": "b"}}
    assert second["item"] == "b"
    assert await keys_of_items(any_redis) == []


async def test_a_nested_failure_is_collected_outside(any_redis):
    inner = {"id": "inner", "type": "map", "config": {"items": "item", "nodes": [node("a")]}}
    play = Play(any_redis, mapped([inner], on_item_error="collect"), failing(1))
    await play.start(input={"xs": [[1, 2, 3], [4]]})
    await play.run_to_end()
    assert await play.status() == "COMPLETED"
    first, second = (await play.outputs())["each"]
    assert first["error"]["class"] == "item"
    assert [r["item"] for r in second] == [4]
    await play.tick()
    assert await keys_of_items(any_redis) == []


async def test_a_cancel_takes_the_items_from_their_streams(any_redis):
    inner = {"id": "inner", "type": "map", "config": {"items": "item", "nodes": [node("a")]}}
    play = Play(any_redis, mapped([inner]), by_index)
    await play.start(input={"xs": [[1, 2, 3]] * 5}, batch="b1")
    await play.settle()
    task = (await play.tasks())[0]
    started = await play.claim(task)
    assert await play.store.end_run("run_1", "CANCELLED", {}) == ["ended", "CANCELLED"]
    assert await play.finish(task, started, 1) == "over"
    await play.tick()
    assert await keys_of_items(any_redis) == []
    assert await any_redis.xlen("wf.tasks.function") == 0
    assert await any_redis.zcard("timers") == 0
    counts = {k: int(v) for k, v in (await any_redis.hgetall("batch:b1")).items() if int(v)}
    assert counts == {b"failed": 1}


async def test_a_map_in_a_loop_starts_afresh(any_redis):
    again = {"condition": {"type": "cel", "expression": "iteration < 2"}, "loop_back_to": "each", "max_iterations": 3}
    workflow = mapped([node("a", pass_="{{ iteration }}")])
    workflow["nodes"].append({"id": "again", "type": "loop", "config": {**again, "break_path": []}})
    workflow["edges"].append({"from": "end", "to": "again"})
    play = Play(any_redis, workflow, lambda task, started: started.token.iteration)
    await play.start(input={"xs": [1, 2]})
    await play.run_to_end()
    assert await play.status() == "COMPLETED"
    assert (await play.outputs())["each"] == [1, 1]
    assert play.path() == ["a", "a", "end"] * 2


async def test_an_item_that_ends_before_the_exit_gives_null(any_redis):
    keep = {"id": "keep", "type": "branch", "config": {
        "rules": [{"condition": {"type": "cel", "expression": "item > 1"}, "next": ["b"]}], "default": []}}  # fmt: skip
    play = Play(any_redis, mapped([node("a"), keep, node("b")], [{"from": "a", "to": "keep"}]), by_index)
    await play.start(input={"xs": [1, 2]})
    await play.run_to_end()
    assert (await play.outputs())["each"] == [None, {"node": "b", "item": 2}]


async def test_a_result_of_an_artifact(any_redis):
    play = Play(any_redis, mapped([node("a")]), lambda task, started: "x" * 20_000)
    await play.start(input={"xs": [1, 2]})
    await play.run_to_end()
    state = fold(await play.events())
    assert await play.status() == state.status == "COMPLETED"
    assert await any_redis.hexists("artifacts:run_1", state.outputs[""]["each"].name)


async def test_many_items_start_in_slices(any_redis):
    play = Play(any_redis, mapped([node("a")]), by_index)
    await play.start(input={"xs": list(range(250))})
    await play.settle()
    counts = [e.data["count"] for e in await play.events() if e.type == "items_started"]
    assert counts == [100, 100, 50]


async def test_doubled_signals_start_no_item_twice(any_redis):
    play = Play(any_redis, mapped([node("a")], max_parallel=2), by_index)
    await play.start(input={"xs": [1, 2, 3, 4]})
    while await play.status() == "RUNNING":
        signals = await play.signals()
        await play.route(signals + signals)
        if tasks := await play.tasks():
            await play.execute(tasks[0])
    assert len(play.executed) == 5
    assert [r["item"] for r in (await play.outputs())["each"]] == [1, 2, 3, 4]


async def test_the_fold_is_what_redis_holds(any_redis):
    play = Play(any_redis, mapped([node("a"), node("b")], [{"from": "a", "to": "b"}], max_parallel=3), by_index)
    await play.start(input={"xs": list("abcdef")})
    while await play.status() == "RUNNING":
        await play.settle()
        state = fold(await play.events())
        held = {
            token.decode(): orjson.loads(record)
            for key in [b"tokens:run_1", *await any_redis.keys("tokens:run_1/*")]
            for token, record in (await any_redis.hgetall(key)).items()
        }
        assert state.tokens == held
        if tasks := await play.tasks():
            await play.execute(tasks[-1])


async def test_results_that_are_too_large_together_are_not_all_loaded(any_redis):
    large = "x" * (LIMITS.output_bytes // 2)
    play = Play(any_redis, mapped([node("a")]), lambda task, _: large + task.token_id)
    await play.start(input={"xs": list(range(5))})
    loaded = []
    artifact = play.store.artifact

    async def counted(run_id, name):
        loaded.append(name)
        return await artifact(run_id, name)

    play.store.artifact = counted
    await play.run_to_end()
    assert await play.status() == "FAILED"
    assert len(loaded) <= 3


async def test_held_items_outlive_their_run(any_redis):
    play = Play(any_redis, mapped([node("a")]), failing(0))
    await play.start(input={"xs": [1, 2]}, retention_ms=str(30 * 24 * 3600 * 1000))
    await play.run_to_end()
    assert await play.status() == "FAILED"
    await play.store.retire_run(["run_1"])
    for key in await keys_of_items(any_redis):
        assert await any_redis.pttl(key) > await any_redis.pttl("run:run_1"), key
