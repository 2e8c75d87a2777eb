"""What a GPU can hold, asked of a scripted engine."""

from collections.abc import Mapping
from typing import Any

import pytest

from agent_runner.capacity import Capacity, model_of
from agent_runner.engines.engine import Footprint
from agent_runner.guarded_engine import GuardedEngine
from agent_runner.settings import RunnerSettings
from tests.runner.engine import ScriptedEngine
from tests.runner.faulty_engine import FaultyEngine

GB = 10**9
SMALL = Footprint(weights=2 * GB, kv_per_slot=GB // 2)


def capacity(engine: ScriptedEngine, memory: int = 8 * GB, slots: int = 8) -> Capacity:
    async def options_of(pool: str) -> Mapping[str, Any] | None:
        return {"num_ctx": 8192} if pool == "m#00000000" else None

    guarded = GuardedEngine(engine, changed=lambda: None)
    return Capacity(guarded, RunnerSettings(slots=slots, memory=memory), options_of)


@pytest.mark.parametrize(
    ("memory", "footprint", "slots", "taken"),
    [
        pytest.param(8 * GB, SMALL, 8, 6.5 * GB, id="all slots"),
        pytest.param(5 * GB, SMALL, 5, 5 * GB, id="as many slots as fit"),
        pytest.param(8 * GB, Footprint(2 * GB, GB // 2, slots=4), 4, 4.5 * GB, id="as many as the engine takes"),
        pytest.param(8 * GB, None, 8, 8 * GB, id="of unknown size: alone"),
        pytest.param(0, SMALL, 8, 1, id="unknown memory: one at a time"),
    ],
)
async def test_a_seat(memory: int, footprint: Footprint | None, slots: int, taken: float) -> None:
    engine = ScriptedEngine()
    engine.sizes = {} if footprint is None else {"m": footprint}
    of = capacity(engine, memory)
    assert of.seat("m") is None  # not asked yet
    await of.learn(["m"])
    seat = of.seat("m")
    assert seat is not None and (seat.slots, seat.memory) == (slots, taken)
    assert seat.memory <= seat.capacity


async def test_what_was_measured_counts_more_than_an_estimate() -> None:
    engine = ScriptedEngine()
    engine.sizes["m"] = SMALL
    of = capacity(engine)
    await of.learn(["m"])
    seat = of.seat("m", measured=3.0 * GB)
    assert seat is not None and seat.memory == 3 * GB


async def test_a_model_that_is_larger_than_the_gpu_is_refused_with_the_numbers() -> None:
    engine = ScriptedEngine()
    engine.sizes["m"] = Footprint(14 * GB, GB)
    of = capacity(engine)
    await of.learn(["m", "n"])
    assert of.seat("m") is None and of.seat("n") is not None
    assert "15.5 GB" in str(of._guarded.held("m")) and "8.0 GB" in str(of._guarded.held("m"))
    assert engine.loaded == []  # not even tried


async def test_a_model_that_the_engine_lacks_is_not_even_tried() -> None:
    engine = ScriptedEngine(models=("m",))
    of = capacity(engine)
    await of.learn(["m", "x:7b"])
    assert of.seat("x:7b") is None and "'x:7b'" in str(of._guarded.held("x:7b"))
    assert of.serves == {"m"}


async def test_other_load_time_options_are_another_pool_of_the_same_model() -> None:
    engine = ScriptedEngine()
    of = capacity(engine)
    await of.learn(["m#00000000", "m#11111111"])
    seat = of.seat("m#00000000")
    assert seat is not None and (seat.model, seat.options) == ("m", {"num_ctx": 8192})
    assert of.seat("m#11111111") is None  # no task is there that would say what it is


@pytest.mark.parametrize(
    ("pool", "model"),
    [("m", "m"), ("m:7b#0123abcd", "m:7b"), ("hf.co/x#y", "hf.co/x#y"), ("m#0123abcd#0123abcd", "m#0123abcd")],
)
def test_the_model_of_a_pool(pool: str, model: str) -> None:
    assert model_of(pool) == model


async def test_slots_stay_when_the_memory_was_measured() -> None:
    """They are part of what was loaded: the lease, the fill and the measured rate count on them."""
    engine = ScriptedEngine()
    engine.sizes["m"] = Footprint(4 * GB, GB)
    of = capacity(engine)
    await of.learn(["m"])
    before, after = of.seat("m"), of.seat("m", measured=7.5 * GB)
    assert before is not None and after is not None
    assert (before.slots, after.slots, after.memory) == (3, 3, 7.5 * GB)


async def test_missing_models_are_looked_up_in_one_list() -> None:
    engine = FaultyEngine(models=("m",))
    of = capacity(engine)
    await of.learn([f"x{number}" for number in range(50)])
    assert (engine.listed, len(of._guarded.breakers())) == (1, 50)
    await of._guarded.close()
