import math

import pytest

from tests.patching.flight import agent, flow
from tests.play import Play


@pytest.fixture
def store(any_redis):
    return Play(any_redis, flow(agent("a", "m1"))).store


async def test_the_first_value_is_taken_as_it_is(store):
    assert await store.measure_model("8GB", "gemma3:4b#0a1b2c3d", "rate", 1.5) == ["measured", "1.5"]
    assert await store.measure_model("8GB", "m|odd", "memory", 5_368_709_121) == ["measured", "5368709121"]
    assert await store.measures("8GB") == {"gemma3:4b#0a1b2c3d": {"rate": 1.5}, "m|odd": {"memory": 5_368_709_121.0}}


async def test_later_ones_move_the_average(store):
    for value in (10.0, 20.0, 0.0):
        await store.measure_model("8GB", "m1", "load_s", value)
    assert await store.measures("8GB") == {"m1": {"load_s": pytest.approx((10 + 0.2 * 10) * 0.8)}}
    await store.measure_model("8GB", "m1", "load_s", 7.0, weight=1.0)
    assert await store.measures("8GB") == {"m1": {"load_s": 7.0}}


async def test_kinds_of_gpus_are_apart(store):
    await store.measure_model("8GB", "m1", "rate", 1.0)
    await store.measure_model("NVIDIA RTX 4090", "m1", "rate", 4.0)
    assert (await store.measures("8GB"))["m1"] == {"rate": 1.0}
    assert (await store.measures("NVIDIA RTX 4090"))["m1"] == {"rate": 4.0}
    assert await store.measures("unknown") == {}


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf, -0.001])
async def test_what_is_no_measurement_changes_nothing(store, value):
    await store.measure_model("8GB", "m1", "rate", 1.0)
    assert await store.measure_model("8GB", "m1", "rate", value) == ["refused"]
    assert await store.measures("8GB") == {"m1": {"rate": 1.0}}


@pytest.mark.parametrize("text", ["fast", "", "nan", "inf", "-1", "\xff"])
async def test_what_somebody_wrote_there(store, text):
    await store.redis.hset("measured:8GB", mapping={"m1|rate": text, "\xff": text})
    assert await store.measures("8GB") == {}
    assert await store.measure_model("8GB", "m1", "rate", 2.0) == ["measured", "2"]
