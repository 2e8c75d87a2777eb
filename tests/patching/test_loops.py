"""Loops, their counts and their passes, across revisions."""

from tests.patching.flight import add, begun, edge, flow, remove, set_to
from tests.scripts.workflows import cel, edges, task


def looped(times):
    again = {"condition": cel(f"output.n < {times}"), "loop_back_to": "work", "max_iterations": 9}
    loop = {"id": "again", "type": "loop", "config": {**again, "break_path": ["last"]}}
    return flow(task("work"), loop, task("last"), edges=edges("work > again"))


def counting():
    numbers = iter(range(1, 100))
    return lambda task, _: {"n": next(numbers)}


async def test_a_revision_that_comes_during_the_second_pass_of_an_outer_loop(redis):
    """The inner loop is edited in the second pass: its count goes on, the next pass of the outer one begins it anew."""
    inner = {"condition": cel("iteration < 2"), "loop_back_to": "work", "max_iterations": 9, "break_path": ["after"]}
    outer = {"condition": cel("iteration < 3"), "loop_back_to": "work", "max_iterations": 9, "break_path": []}
    workflow = flow(
        task("work"), {"id": "inner", "type": "loop", "config": inner}, task("after"),
        {"id": "outer", "type": "loop", "config": outer}, edges=edges("work > inner", "after > outer"),
    )  # fmt: skip
    play = await begun(redis, workflow)
    for _ in range(4):
        (work,) = await play.tasks()
        await play.execute(work)
        await play.settle()
    assert await redis.hget("loop:run_1:outer", "current_iteration") == b"1"
    assert play.path() == ["work", "work", "after", "work"]
    await play.patch(
        add("/nodes/-", task("more")), set_to("/edges/0/to", "more"), edge("more", "inner"),
        set_to("/nodes/inner/config/condition/expression", "iteration < 3"),
    )  # fmt: skip
    assert await redis.hget("loop:run_1:inner", "current_iteration") == b"1"
    await play.finish_all()
    assert play.path()[4:] == ["work", "more"] * 2 + ["after"] + ["work", "more"] * 3 + ["after"]


async def test_a_loop_is_removed_and_added_again_under_its_id(redis):
    """Its count begins anew."""
    play = await begun(redis, looped(3), answer=counting())
    await play.execute(await play.task_on("work"))
    await play.settle()
    assert await redis.hget("loop:run_1:again", "current_iteration") == b"1"
    loop = play.ir.workflow["nodes"][1]
    await play.patch(remove("/nodes/again"), set_to("/edges/0/to", "last"))
    assert await redis.exists("loop:run_1:again") == 0
    assert await play.wrong() == []
    await play.patch(add("/nodes/1", loop), set_to("/edges/0/to", "again"))
    await play.finish_all()
    assert play.path() == ["work", "work", "work", "last"]
    assert await redis.hget("loop:run_1:again", "current_iteration") == b"2"


async def test_a_loop_that_is_replaced_by_another_under_its_id_keeps_its_count(redis):
    play = await begun(redis, looped(3), answer=counting())
    await play.execute(await play.task_on("work"))
    await play.settle()
    await play.patch(set_to("/nodes/again/config/max_iterations", 1))
    await play.run_to_end()
    assert play.path() == ["work", "work", "last"]  # with a count of its own it would go back once more
