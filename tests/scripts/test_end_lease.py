from tests.patching.flight import agent, flow
from tests.play import Play
from tests.scripts.test_lease_models import lease, look, version

WORKFLOW = flow(agent("a", "m1"))


async def test_a_runner_that_leaves_frees_its_models(any_redis):
    play = Play(any_redis, WORKFLOW)
    mine = lease(m1=1.0)
    await look(play, mine)
    assert await play.store.end_lease(mine.engine, mine.runner_id) == ["ended"]
    assert await version(play) == 2
    assert (await look(play, lease("gpu-2"))).leases == [lease("gpu-2")]
    assert await play.store.end_lease(mine.engine, mine.runner_id) == ["none"]
    assert await version(play) == 2


async def test_the_lease_of_another_runner_stays(any_redis):
    play = Play(any_redis, WORKFLOW)
    await look(play, lease(runner="other", m1=1.0))
    assert await play.store.end_lease(lease().engine, "gpu-1") == ["none"]
    assert (await look(play, lease(runner="other", m1=1.0))).version == 1
