"""More of it: tests/faults/test_recovery.py; that it tells what the events fold to: tests/routing/test_rebuilt.py."""

from coordinator.restatement import Restatement
from lua.run_reading import read_run
from schemas.fold import fold
from tests.play import Play
from tests.routing.rebuilt import unlike
from tests.scripts.rebuilding import lose_and_rebuild
from tests.scripts.workflows import CHAIN, mapped


async def test_answers(any_redis):
    play = Play(any_redis, CHAIN)
    assert await play.store.restate_run("run_1", 1, b"{}") == ["unknown"]
    await play.start()
    assert await play.store.restate_run("run_1", 7, b"{}") == ["stale", "1"]
    body = b'{"reason":"x"}'
    assert await play.store.restate_run("run_1", 1, body) == ["restated"]
    event = (await play.events())[-1]
    assert (event.type, event.seq, event.data["reason"], await play.field("seq")) == ("run_restated", 2, "x", "2")
    assert await play.store.restate_run("run_1", 1, body) == ["stale", "2"]


async def test_its_history_goes_on_from_there(any_redis):
    """Also of a rebuilt run whose items are not restored yet: what is told is what all its events fold to."""
    play = Play(any_redis, mapped(), lambda task, _: {"text": task.scope * 5_000})
    await play.start(input={"xs": list(range(4))})
    await play.settle()
    await play.execute((await play.tasks())[0])
    await play.settle()
    await lose_and_rebuild(play)
    await Restatement(play.store).restate(["run_1"])
    events = await play.events()
    (restated,) = [event for event in events if event.type == "run_restated"]
    before = fold(event for event in events if event.seq < restated.seq)
    told = fold([restated])
    assert [one for one in unlike(before, told) if not one.startswith("seq:")] == []
    await play.run_to_end()
    rest = [event for event in await play.events() if event.seq >= restated.seq]
    whole = fold(await play.events())
    assert (fold(rest).status, fold(rest).outputs) == (whole.status, whole.outputs)
    assert whole.status == "COMPLETED"


async def test_what_people_are_asked_in_items_that_are_not_restored_yet_is_told(any_redis):
    play = Play(any_redis, mapped(nodes=[{"id": "ask", "type": "human", "config": {"prompt": "Well?"}}]))
    await play.start(input={"xs": [1, 2]})
    await play.settle()
    await lose_and_rebuild(play)
    read = await read_run(play.store, "run_1")
    assert [asked["prompt"] for asked in read.opened.values()] == ["Well?", "Well?"]
    assert read.opened == fold(await play.events()).opened
