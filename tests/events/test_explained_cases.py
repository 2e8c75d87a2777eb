"""explain, case by case, on runs that are really played."""

from typing import Any

from schemas.compiler.compiler import compile_workflow
from schemas.events import Event
from schemas.explanations.explain import explain
from schemas.explanations.explanation import Explanation
from schemas.explanations.places import targets
from schemas.explanations.sentences import sentences
from schemas.explanations.spending import Spending
from schemas.messages import Failure
from schemas.prices import Prices
from tests.play import Play
from tests.scripts.workflows import DIAMOND, cel, edges, mapped, retrying, task

GRADED = {
    "id": "graded",
    "nodes": [
        task("grade"),
        {"id": "quality", "type": "branch", "config": {
            "rules": [{"condition": cel("output.score >= 80"), "next": ["good"]}], "default": ["improve"]}},
        task("good"), task("improve"), task("again"),
    ],
    "edges": edges("grade > quality", "improve > again"),
}  # fmt: skip


async def told(play: Play, node: str, **more: Any) -> Explanation:
    return explain(await play.events(), {play.ir.digest: play.ir}, node, **more)


async def said(play: Play, node: str, **more: Any) -> list[list[str]]:
    return sentences(await told(play, node, **more))


async def execute(play: Play, node: str) -> None:
    (task_,) = [one for one in await play.tasks() if one.node_id == node]
    await play.execute(task_)
    await play.settle()


async def test_a_join_says_what_it_waits_for_and_what_released_it(redis):
    play = Play(redis, DIAMOND)
    await play.start()
    assert await said(play, "d") == [
        ["d (function) has not been reached yet.", "a comes before it and waits in its queue."]
    ]
    await execute(play, "a")
    await execute(play, "b")
    (waiting,) = (await told(play, "d")).executions
    assert [(one.node, one.state) for one in waiting.blockers] == [("c", "queued")]
    assert "It waits, because it can still be reached from c, which waits in its queue." in (await said(play, "d"))[0]
    await execute(play, "c")
    (released,) = (await told(play, "d")).executions
    events = {event.seq: event for event in await play.events()}
    assert released.released and released.released.node == "c" and released.blockers == []
    assert events[released.released.seq].type == "node_completed" and events[released.released.seq].node_id == "c"
    assert {arrival.source: events[arrival.seq].node_id for arrival in released.arrivals} == {"b": "b", "c": "c"}
    await play.run_to_end()
    (done,) = await said(play, "d")
    assert done[0] == f"d completed (event {len(events) + 2})." and done[-1] == "Its path ends here."


async def test_a_node_that_a_branch_left_out(redis):
    play = Play(redis, GRADED, lambda task, started: {"score": 81})
    await play.start()
    await play.run_to_end()
    why = "rule 1, because `output.score >= 80` was true (output.score is 81)"
    went = f"quality went to good and not to {{}}: {why} (event 3)."
    for node, to in (("improve", "it"), ("again", "improve")):
        assert await said(play, node) == [
            [f"{node} (function) was not executed.", went.format(to), "The run has ended: COMPLETED."]
        ]
    (passed,) = (await told(play, "quality")).executions
    assert (passed.step_of, passed.next, [arrival.source for arrival in passed.arrivals]) == (
        "grade", ["good"], ["grade"],
    )  # fmt: skip


async def test_attempts_and_what_takes_over(redis):
    workflow = retrying(attempts=2, backoff_ms=0, on_error=["sorry"])
    play = Play(redis, workflow, lambda task, started: Failure("timeout", "slow", True) if task.node_id == "a" else 1)
    await play.start()
    await play.run_to_end()
    (failed,) = (await told(play, "a")).executions
    first, last = failed.attempts
    assert (first.ended, first.number, first.of, first.again_in_ms) == ("failed", 1, 2, 0)
    assert (last.ended, last.number, last.retryable, last.runner) == ("failed", 2, True, "runner-1")
    assert (failed.state, failed.next, failed.taken_over) == (
        "failed", ["sorry"], {"path": "on_error", "next": ["sorry"]},
    )  # fmt: skip
    lines = (await said(play, "a"))[0]
    assert lines[-1] == "sorry took over, as its on_error says." and lines[-2].endswith("slow; it was the last one.")
    (took_over,) = (await told(play, "sorry")).executions
    assert took_over.arrivals[0].failed and "timeout" in (took_over.arrivals[0].value or failed).preview  # type: ignore[union-attr]


async def test_a_failed_run_is_retried(redis):
    answers = iter([Failure("permanent", "no", False), 1, 2])
    play = Play(redis, retrying(attempts=3), lambda task, started: next(answers))
    await play.start()
    for task_ in await play.tasks():
        await play.execute(task_) if task_.node_id == "a" else None
    await play.settle()
    (failed,) = (await told(play, "a")).executions
    assert (failed.state, failed.attempts[0].retryable) == ("failed", False)
    assert (await said(play, "a"))[0][-1] == "Nothing took over."
    await play.store.retry_run("run_1", {"by": "ada"})
    await play.run_to_end()
    (mended,) = (await told(play, "a")).executions
    assert (mended.state, [one.ended for one in mended.attempts], mended.error) == (
        "completed", ["failed", "completed"], None,
    )  # fmt: skip


async def test_items_the_failed_first_and_one_by_its_index(redis):
    def answer(task: Any, started: Any) -> Any:
        return Failure("permanent", "odd", False) if task.scope.endswith("-1") else {"n": 1}

    play = Play(redis, mapped(on_item_error="collect"), answer)
    await play.start(input={"xs": [1, 2, 3, 4]})
    await play.run_to_end()
    few = await told(play, "a", limit=2)
    assert (few.total, sorted(one.state for one in few.executions)) == (4, ["completed", "failed"])
    assert sentences(few)[-1] == ["2 more of its 4 executions are not shown."]
    (one,) = (await told(play, "a", item=1)).executions
    assert (one.scope.rpartition("-")[2], one.state) == ("1", "failed")


async def test_what_is_not_known(redis):
    play = Play(redis, DIAMOND)
    await play.start()
    nobody = explain(await play.events(), {}, "d")
    assert [reason.text for reason in nobody.reasons] == [
        "The workflow of this run is not kept any more, so only what happened can be told."
    ]
    assert explain([], {}, "a").seq == 0


async def test_a_cost(redis):
    play = Play(redis, DIAMOND)
    await play.start()
    await play.run_to_end()
    events = await play.events()
    usage = {"llm_model": "m", "prompt_tokens": 1_000_000, "completion_tokens": 2}
    for event in events:
        if event.type == "node_completed":
            event.data["usage"] = usage  # type: ignore[index]
    prices = Prices.parse('{"models": {"m": {"prompt": 0.5}}}')
    spending = Spending()
    spending.read(events)
    assert spending.as_dict(prices)["cost"] == 2.0 and spending.models["m"]["tasks"] == 4
    one = explain(events, {play.ir.digest: play.ir}, "b")
    one.price(prices)
    assert one.executions[0].attempts[0].cost == 0.5 and "cost 0.50" in str(sentences(one))


async def test_what_lies_in_a_map_ends_with_it(redis):
    workflow = mapped()
    workflow["nodes"] = [{**node, "on_error": ["sorry"]} for node in workflow["nodes"]] + [task("sorry")]
    play = Play(redis, workflow, lambda task, started: Failure("permanent", "no", False))
    await play.start(input={"xs": [1, 2, 3]})
    await play.settle()
    first = min(await play.tasks(), key=lambda one: one.scope)
    await play.execute(first)
    await play.settle()
    states = sorted(one.state for one in (await told(play, "a")).executions)
    assert states == ["failed", "withdrawn", "withdrawn"]


async def test_an_attempt_whose_runner_was_gone(redis):
    play = Play(redis, DIAMOND)
    await play.start()
    (first,) = await play.tasks()
    await play.claim(first, "runner-1")
    again = await play.claim(first, "runner-2", reclaimed=True)
    assert again.state == "started"
    await play.finish(first, again, {"n": 1})
    await play.settle()
    (one,) = (await told(play, "a")).executions
    assert [(attempt.ended, attempt.runner) for attempt in one.attempts] == [
        ("lost", "runner-1"), ("completed", "runner-2"),
    ]  # fmt: skip
    assert "gave no answer" in (await said(play, "a"))[0][2]


def test_an_item_that_still_follows_an_older_graph_ends_where_its_event_says():
    """The graph at hand is newer, and goes on where the item's own did not."""
    event = Event("run_1", 2, "node_completed", 5, "a", "t", "1-0", {"outputs": {"a": 1}, "ends": ["a"]})
    assert targets(event, "a", compile_workflow(DIAMOND).ir) == []
