import pytest
from redis.exceptions import ResponseError

from lua.gpu_leases import Lease, Waiting
from lua.run_store import RunStore
from schemas.keys import Keys
from tests.patching.flight import agent, flow
from tests.play import Play

START_MS = 1_900_000_000_000
TTL_MS = 15_000
HOUR_MS = 3_600_000
M1, M2 = "wf.tasks.agent.m1", "wf.tasks.agent.m2"


def lease(gpu="gpu-1", runner=None, **rates):
    return Lease(f"http://{gpu}:11434", runner or gpu, gpu, "8GB", rates)


async def look(play, of, version=None, residents=(), served=()):
    return await play.store.lease_models(of, version=version, residents=residents, ttl_ms=TTL_MS, served=served)


async def version(play):
    return int(await play.redis.hget("leases", "version") or 0)


class Still(Play):
    """Its clock stands still, but for `skip`."""

    def __post_init__(self):
        super().__post_init__()

        async def clock():
            return START_MS + self.skipped_ms

        self.store = RunStore(self.redis, self.keys, clock=clock)


@pytest.fixture
def play(any_redis):
    """Each run has a task of m1 and one of m2."""
    return Still(any_redis, flow(agent("a", "m1"), agent("b", "m2")))


# -- who holds what ----------------------------------------------------------------------------------


async def test_a_lease_is_seen_by_all(play):
    first = await look(play, lease(m1=1.5))
    assert (first.state, first.version, first.leases, first.waiting) == ("held", 1, [lease(m1=1.5)], {})
    second = await look(play, lease("gpu-2", m2=2.0))
    assert (second.state, second.version, second.now) == ("held", 2, START_MS)
    assert sorted(second.leases, key=lambda one: one.gpu) == [lease(m1=1.5), lease("gpu-2", m2=2.0)]


async def test_of_two_runners_that_decide_on_one_version_one_gets_the_switch(play):
    seen = [(await look(play, lease(gpu))).version for gpu in ("gpu-1", "gpu-2")]
    assert seen == [0, 0]
    assert (await look(play, lease("gpu-2", m1=1.0), version=0)).state == "held"
    late = await look(play, lease("gpu-1", m1=1.0), version=0)
    assert (late.state, late.version) == ("stale", 1)
    assert {one.gpu: one.models for one in late.leases} == {"gpu-1": {}, "gpu-2": {"m1": 1.0}}
    assert (await look(play, lease("gpu-1", m1=1.0), version=late.version)).state == "held"  # it wants it all the same


async def test_a_stale_claim_renews_what_the_runner_had(play):
    await look(play, lease(m1=1.0))
    await look(play, lease("gpu-2", m2=1.0))
    await play.skip(TTL_MS - 1)
    stale = await look(play, lease(m1=1.0, m2=1.0), version=1, residents=["m1"])
    assert (stale.state, stale.version, set(stale.waiting)) == ("stale", 2, {"m1"})
    await play.skip(TTL_MS - 1)
    assert {one.gpu: one.models for one in (await look(play, lease("gpu-3"))).leases} == {
        "gpu-1": {"m1": 1.0}, "gpu-3": {},
    }  # fmt: skip


async def test_a_stale_claim_of_a_runner_without_a_lease_writes_none(play):
    await look(play, lease("gpu-2", m2=1.0))
    assert (await look(play, lease(m1=1.0), version=0)).leases == [lease("gpu-2", m2=1.0)]


async def test_to_hold_less_is_never_refused_and_raises_the_version(play):
    await look(play, lease(m1=1.0, m2=1.0))
    await look(play, lease("gpu-2", m3=1.0))
    shrunk = await look(play, lease(m2=1.0))
    assert (shrunk.state, shrunk.version) == ("held", 3)
    assert (await look(play, lease("gpu-2", m1=1.0), version=2)).state == "stale"  # m1 is free: it may choose better


async def test_rates_and_renewals_do_not_raise_the_version(play):
    await look(play, lease(m1=1.0))
    again = await look(play, lease(m1=2.5))
    assert (again.version, again.leases) == (1, [lease(m1=2.5)])
    assert (await look(play, lease(m1=2.5), version=1)).state == "held"
    assert await version(play) == 1


async def test_the_models_of_a_dead_runner_are_free_again(play):
    await look(play, lease(m1=1.0))
    await play.skip(TTL_MS)
    assert len((await look(play, lease("gpu-2"))).leases) == 2
    await play.skip(1)
    seen = await look(play, lease("gpu-2"))
    assert (seen.version, seen.leases) == (2, [lease("gpu-2")])
    assert not await play.redis.hexists("leases", lease().engine)


async def test_a_claim_beside_a_lease_that_just_ended_is_decided_again(play):
    await look(play, lease(m1=1.0))
    await play.skip(TTL_MS + 1)
    seen = await look(play, lease("gpu-2", m2=1.0), version=1)
    assert (seen.state, seen.version, seen.leases) == ("stale", 2, [])


async def test_a_lease_that_ended_unnoticed_goes_on(play):
    """A load that takes longer than the lease, and nobody has looked: nothing has changed."""
    await look(play, lease(m1=1.0))
    await play.skip(10 * TTL_MS)
    seen = await look(play, lease(m1=1.0, m2=1.0), version=1)
    assert (seen.state, seen.version, seen.leases) == ("held", 2, [lease(m1=1.0, m2=1.0)])


async def test_the_runner_of_a_lease_that_ended_says_again_what_it_holds(play):
    await look(play, lease(m1=1.0))
    await play.skip(TTL_MS + 1)
    freed = await look(play, lease("gpu-2"))
    back = await look(play, lease(m1=1.0))
    assert (freed.version, back.state, back.version) == (2, "held", 3)


async def test_an_engine_has_one_runner(play):
    await look(play, lease(m1=1.0))
    before = await play.redis.hgetall("leases")
    other = await look(play, lease(runner="other", m2=1.0))
    assert (other.state, other.version, other.leases, other.waiting) == ("taken", 1, [lease(m1=1.0)], {})
    assert await play.redis.hgetall("leases") == before
    await play.skip(TTL_MS + 1)
    assert (await look(play, lease(runner="other", m2=1.0))).state == "held"
    assert (await look(play, lease(m1=1.0))).state == "taken"


async def test_a_lease_of_another_clock_holds_nobody_up(play):
    """`now` is the server's, so that runners' clocks never get here. But the server's own may have been set back."""
    await play.skip(30 * HOUR_MS)
    await look(play, lease(m1=1.0))
    await look(play, lease("gpu-2", m2=1.0))
    await play.skip(-30 * HOUR_MS)
    assert (await look(play, lease("gpu-2", m2=1.0))).leases == [lease("gpu-2", m2=1.0)]


NO_LEASES = ["", "null", "[1]", "{", '"x"', "\xff", "[" * 10_000, '{"runner":"x"}']
NO_LEASES += ['{"runner":1,"models":[],"expires_at":"a"}', '{"runner":"x","models":{"m1":"fast"},"expires_at":9e12}']
NO_LEASES += ['{"runner":"x","models":{},"expires_at":NaN}', '{"runner":"gpu-1","models":5,"expires_at":1}']


@pytest.mark.parametrize("text", NO_LEASES, ids=lambda text: text[:20])
async def test_what_is_no_lease_stops_nobody(play, text):
    await play.redis.hset("leases", mapping={"http://odd:1": text, lease().engine: text, "version": text or "x"})
    first = await look(play, lease(m1=1.0))
    assert first.leases == [lease(m1=1.0)]
    assert (await look(play, lease(m1=1.0, m2=1.0), version=first.version)).state == "held"
    assert await play.store.end_lease("http://odd:1", "nobody") == ["none"]


@pytest.mark.parametrize("text", ["1.5", "-1", "1e300", "nan", "x"])
async def test_a_version_that_is_none_begins_anew(play, text):
    await play.redis.hset("leases", "version", text)
    first = await look(play, lease(m1=1.0), version=0)
    assert (first.state, first.version) == ("held", 1)


async def test_a_lease_that_python_alone_cannot_read(play):
    now = await play.store.now()
    await play.redis.hset("leases", "http://odd:1", f'{{"runner":"x","models":{{"m1":"fast"}},"expires_at":{now}}}')
    assert (await look(play, lease())).leases == [lease()]


# -- what waits --------------------------------------------------------------------------------------


async def start(play, count, first=0, **fields):
    for n in range(first, first + count):
        await play.start(f"run_{n}", **fields)


async def give(play, stream, count, runner="gpu-1"):
    """A runner fetches tasks; their entries."""
    try:
        await play.redis.xgroup_create(stream, "runners", id="0")
    except ResponseError as error:
        if "BUSYGROUP" not in str(error):
            raise
    return [entry for entry, _ in (await play.redis.xreadgroup("runners", runner, {stream: ">"}, count=count))[0][1]]


async def first_of(play, stream, entry=0):
    entries = await play.redis.xrange(stream)
    return int(entries[entry][0].split(b"-")[0])


async def test_nothing_waits(play):
    assert (await look(play, lease())).waiting == {}
    assert (await look(play, lease(m1=1.0), residents=["m1"])).waiting == {"m1": Waiting(0, 0, None, None, 0)}


async def test_the_backlog_of_all_models(play):
    await start(play, 3)
    await play.skip(5_000)
    await start(play, 2, first=3, priority="interactive")
    waits = Waiting(3, 2, START_MS, START_MS + 5_000, 0)
    assert (await look(play, lease())).waiting == {"m1": waits, "m2": waits}


async def test_residents_are_counted_without_what_runners_have_in_hand(play):
    await start(play, 5)
    before = (await look(play, lease(m1=1.0), residents=["m1"])).waiting
    assert before["m1"] == Waiting(5, 0, await first_of(play, M1), None, 0)  # no group yet
    await give(play, M1, 2)
    seen = (await look(play, lease(m1=1.0), residents=["m1"])).waiting
    assert seen["m1"] == Waiting(3, 0, await first_of(play, M1, 2), None, 0)
    assert seen["m2"].queued == 5
    assert (await look(play, lease("gpu-2"))).waiting["m1"].queued == 5  # fetched ahead, not started
    await play.execute((await play.tasks())[0])
    assert (await look(play, lease("gpu-2"))).waiting["m1"].queued == 4
    await give(play, M1, 3)
    assert (await look(play, lease(m1=1.0), residents=["m1"])).waiting["m1"] == Waiting(0, 0, None, None, 0)


async def test_the_interactive_lane_of_a_resident(play):
    await start(play, 1)
    await start(play, 3, first=1, priority="interactive")
    fast = f"{M1}:interactive"
    await give(play, fast, 1)
    seen = (await look(play, lease(m1=1.0), residents=["m1"])).waiting["m1"]
    assert seen == Waiting(1, 2, await first_of(play, M1), await first_of(play, fast, 1), 0)


async def test_a_resident_whose_entries_somebody_deleted(play):
    """Pending entries that are no more: what is not given yet is not counted away."""
    await start(play, 3)
    for entry in await give(play, M1, 2):
        await play.redis.xdel(M1, entry)
    seen = (await look(play, lease(m1=1.0), residents=["m1"])).waiting["m1"]
    assert seen == Waiting(1, 0, await first_of(play, M1), None, 0)


async def test_another_group_is_nobodys_business(play):
    await start(play, 2)
    await play.redis.xgroup_create(M1, "audit", id="$")
    await give(play, M1, 1)
    assert (await look(play, lease(m1=1.0), residents=["m1"])).waiting["m1"].queued == 1


async def test_when_models_were_served(play):
    await start(play, 1)
    await look(play, lease(m1=1.0), served=["m1", "m3"])
    await play.skip(1_000)
    seen = await look(play, lease("gpu-2"))
    assert (seen.waiting["m1"].served_at, seen.waiting["m2"].served_at) == (START_MS, 0)
    seen = await look(play, lease(m1=1.0), served=["m1"])
    assert seen.waiting["m1"].served_at == START_MS + 1_000


async def test_a_count_of_what_is_not_there_goes(play):
    await start(play, 1)
    await play.redis.hset("backlog", mapping={"gone": 7, "m2:interactive": 1, "m1": "many"})
    await play.redis.hset("backlog_since", "gone", 1)
    seen = (await look(play, lease())).waiting
    assert {pool: one.queued for pool, one in seen.items()} == {"m2": 1}
    assert set(await play.redis.hgetall("backlog")) == {b"m1", b"m2"}
    assert set(await play.redis.hgetall("backlog_since")) == {b"m1", b"m2"}


async def test_a_lane_waits_since_there_was_always_something(play):
    await start(play, 1)
    await play.skip(1_000)
    await start(play, 1, first=1)
    assert (await look(play, lease())).waiting["m1"].head_at == START_MS
    for one in [task for task in await play.tasks() if task.node_id == "a"]:
        await play.execute(one)
    assert "m1" not in (await look(play, lease())).waiting
    await play.skip(1_000)
    await start(play, 1, first=2)
    assert (await look(play, lease())).waiting["m1"].head_at == START_MS + 2_000


async def test_under_a_prefix(any_redis):
    play = Still(any_redis, flow(agent("a", "m1")), keys=Keys("{s1}:"))
    await start(play, 2)
    await look(play, lease(), served=["m1"])
    seen = (await look(play, lease(m1=1.0), residents=["m1"])).waiting["m1"]
    assert (seen.queued, seen.served_at > 0) == (2, True)
    assert [key for key in await any_redis.keys("*") if not key.startswith(b"{s1}:")] == []


async def test_names_that_nobody_uses_go(play):
    """A few are kept whatever their age: they cost nothing, and say that a model was served at all."""
    await look(play, lease(), served=[f"old{n}" for n in range(400)])
    await play.skip(HOUR_MS + 1)
    assert len((await look(play, lease())).served) == 400
    await look(play, lease(), served=["new"])
    assert set((await look(play, lease())).served) == {"new"}
    assert await play.redis.hkeys("served") == [b"new"]
