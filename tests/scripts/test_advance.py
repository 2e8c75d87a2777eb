import dataclasses

from lua.run_store import Advance, Wanted
from schemas.messages import CompletionSignal
from schemas.plan import Arrival, Output, Plan
from tests.patching.flight import Flight, flow, map_of, set_to
from tests.play import Play
from tests.scripts.workflows import CHAIN, DIAMOND, LOOP, cel, edges, task


async def test_a_token_moves_on_and_its_task_is_gone(any_redis):
    play = Play(any_redis, CHAIN)
    await play.start(batch="b1")
    await play.execute((await play.tasks())[0])
    await play.settle()
    (second,) = await play.tasks()
    assert second.node_id == "b"
    assert await any_redis.xlen("wf.tasks.function") == 1
    assert await any_redis.hgetall("outcomes:run_1") == {}
    await play.execute(second)
    await play.settle()
    assert await play.status() == "COMPLETED"
    assert await play.field("live") == "0"
    assert [e.type for e in await play.events()] == [
        "run_started", "task_started", "node_completed", "task_started", "node_completed", "run_completed",
    ]  # fmt: skip
    counts = await any_redis.hgetall("batch:b1")
    assert {k: int(v) for k, v in counts.items() if int(v)} == {b"a|done": 1, b"b|done": 1, b"done": 1}


async def test_duplicates_change_nothing_and_are_counted(any_redis):
    play = Play(any_redis, CHAIN)
    await play.start()
    await play.execute((await play.tasks())[0])
    raws = await play.signals()
    await play.route(raws * 3)
    assert await play.field("live") == "1"
    assert await play.counter("duplicate") == 2
    await play.route(raws)
    assert await play.counter("duplicate") == 3
    assert len(await play.tasks()) == 1


async def test_an_unknown_run_is_counted(any_redis):
    play = Play(any_redis, CHAIN)
    signal = CompletionSignal("x.1", "x", "a", 1, "completed", result=1)
    await play.route([signal.to_json().encode()])
    assert await play.counter("unknown") == 1


async def test_a_decision_on_an_older_ir_is_stale(any_redis):
    play = Play(any_redis, CHAIN)
    await play.start()
    first = (await play.tasks())[0]
    await play.execute(first)
    await any_redis.hset("run:run_1", "digest", "sha256-newer")
    step = Advance("run_1", first.token_id, "a", 1, play.ir, Plan(), b"{}")
    assert await play.store.advance([step]) == [["stale", "sha256-newer"]]
    assert await play.field("live") == "1"


async def test_the_join_race(any_redis):
    """Two coordinators decide the two last siblings from one snapshot: the join fires, once."""
    play = Play(any_redis, DIAMOND)
    await play.start()
    await play.execute((await play.tasks())[0])
    await play.settle()
    b, c = await play.tasks()
    await play.execute(b)
    await play.execute(c)

    def step(task):
        plan = Plan(
            outputs=[Output(task.node_id, '"x"', (1, ""), ends=False)],
            arrivals=[Arrival("d", task.node_id, f'"{task.node_id}"', (1, ""), 2, "")],
        )
        return Advance("run_1", task.token_id, task.node_id, 1, play.ir, plan, b'{"attempt":1,"outputs":{}}')

    snapshot = await play.store.load_tokens([Wanted("run_1", t.token_id) for t in (b, c)])
    assert [part.token.state for part in snapshot] == ["running", "running"]
    assert await play.store.advance([step(b)]) == [["advanced", "2"]]
    assert await play.states() == [("c", "running"), ("d", "waiting")]
    assert await play.store.advance([step(c)]) == [["advanced", "1"]]
    assert await play.states() == [("d", "queued")]
    started = await play.claim((await play.tasks())[0])
    assert started.arrived == {"b": '"b"', "c": '"c"'}


async def test_a_join_fires_once_for_each_order(any_redis):
    for index, order in enumerate((0, -1)):
        run_id = f"run_{index}"
        play = Play(any_redis, DIAMOND)
        await play.start(run_id)
        await play.run_to_end(lambda tasks, order=order: order)
        assert sorted(play.path()) == ["a", "b", "c", "d"]
        assert await play.status(run_id) == "COMPLETED"


async def test_a_path_that_ends_before_the_join_releases_it(any_redis):
    workflow = {
        **DIAMOND,
        "edges": [*edges("a > b > d", "a > c"), {"from": "c", "to": "d", "condition": cel("output.go")}],
    }
    play = Play(any_redis, workflow, lambda task, _: {"go": False})
    await play.start()
    await play.run_to_end(lambda tasks: 0)
    assert play.path() == ["a", "b", "c", "d"]
    assert await play.status() == "COMPLETED"
    assert await any_redis.smembers("ends:run_1") == {b"c", b"d"}


async def test_passes_are_counted_and_the_loop_ends(any_redis):
    passes = iter([1, 2, 3])
    play = Play(any_redis, LOOP, lambda task, _: {"n": next(passes, 0)})
    await play.start()
    await play.run_to_end()
    assert play.path() == ["work", "work", "work", "last"]
    assert await any_redis.hget("loop:run_1:again", "current_iteration") == b"3"
    assert [started.token.iteration for _, started in play.executed] == [0, 1, 2, 0]


async def test_highest_rank_wins_where_executions_overlap(any_redis):
    workflow = {
        "id": "any",
        "nodes": [task("a"), task("slow"), task("fast"), task("z", join="any")],
        "edges": edges("a > slow > z", "a > fast > z"),
    }
    outputs = []
    for index, order in enumerate((0, -1)):
        play = Play(any_redis, workflow, lambda task, started: {"from": sorted(started.arrived)})
        await play.start(f"run_{index}")
        await play.run_to_end(lambda tasks, order=order: order)
        assert sorted(play.path()) == ["a", "fast", "slow", "z", "z"]
        outputs.append(await play.outputs(f"run_{index}"))
    assert outputs[0] == outputs[1]


async def test_an_attempt_that_was_given_up_changes_nothing(any_redis):
    play = Play(any_redis, CHAIN)
    await play.start()
    first = (await play.tasks())[0]
    started = await play.claim(first)
    again = await play.claim(first, reclaimed=True)
    zombie = dataclasses.replace(
        CompletionSignal(first.token_id, "run_1", "a", started.attempt, "completed", result="zombie")
    )
    await play.route([zombie.to_json().encode()])
    assert await play.counter("duplicate") == 1
    await play.finish(first, again, "real")
    await play.settle()
    assert (await play.outputs())["a"] == "real"


async def test_everything_of_an_ended_run_has_a_ttl(any_redis):
    play = Play(any_redis, LOOP, lambda task, _: {"n": 5, "text": "x" * 20_000})
    await play.start(batch="b1")
    await play.run_to_end()
    assert await play.status() == "COMPLETED"
    shared = (b"events", b"streams", b"wf.tasks.function", b"batch:b1", b"counters")
    for key in await any_redis.keys("*"):
        if key not in shared:
            assert await any_redis.pttl(key) > 0, key
    assert await any_redis.xlen("wf.tasks.function") == 0


async def test_an_item_that_does_not_follow_the_last_patch_yet_takes_no_step(any_redis):
    play = Flight(any_redis, flow(map_of(task("a"))))
    await play.start(input={"xs": [1]})
    await play.settle()
    first = (await play.tasks())[0]
    await play.execute(first)
    raws = await play.signals()
    await play.patch(set_to("/nodes/each/config/nodes/a/config/handler", "other"))
    before = await play.dump()
    step = Advance("run_1", first.token_id, "a", 1, play.ir, Plan(scope=first.scope), b"{}")
    assert await play.store.advance([step]) == [["unadopted"]]
    assert await play.dump() == before
    await play.route(raws)
    await play.run_to_end()
    assert await play.status() == "COMPLETED"
