import re
from importlib.resources import files

import pytest

from lua.run_store import RunStore
from lua.script import load_script
from schemas.keys import Keys
from tests.play import Play
from tests.scripts.workflows import CHAIN, DIAMOND

NAMES = sorted(path.name.removesuffix(".lua") for path in files("lua").iterdir() if path.name.endswith(".lua"))


@pytest.mark.parametrize("name", NAMES)
def test_every_script_states_its_contract(name):
    text = files("lua").joinpath(f"{name}.lua").read_text()
    assert text.startswith(f"-- {name}: ")
    if not name.startswith("inspect_"):
        assert re.search(r"^-- KEYS    \S", text, re.M)
        assert re.search(r"^-- ARGV    \S", text, re.M)
        assert re.search(r"^-- ANSWER  \S", text, re.M)
        assert hasattr(RunStore, name), "one method a script, of the same name"


@pytest.mark.parametrize("name", NAMES)
async def test_every_script_compiles_on_the_server(redis, name):
    script = load_script(name)
    assert await redis.script_load(script.source) == script.sha


async def test_a_server_that_forgot_the_scripts_is_told_again(any_redis):
    play = Play(any_redis, CHAIN)
    await play.start()
    await any_redis.script_flush()
    await play.run_to_end()
    assert await play.status() == "COMPLETED"


async def test_keys_of_lua_and_python_agree(redis):
    """A run under a prefix touches exactly the names that Keys gives it."""
    keys = Keys("{s3}:")
    play = Play(redis, DIAMOND, keys=keys)
    await play.start(batch="b1")
    await play.run_to_end()
    run = {keys.run, keys.ir, keys.context, keys.pending, keys.ends}
    expected = {make("run_1") for make in run}
    expected |= {keys.events, keys.streams, keys.batch("b1"), keys.stream("wf.tasks.function")}
    assert {key.decode() async for key in redis.scan_iter()} == expected


@pytest.mark.parametrize("name", ["inspect_run", "inspect_model"])
async def test_people_see_a_run_whole(any_redis, name):
    play = Play(any_redis, CHAIN)
    await play.start()
    source = files("lua").joinpath(f"{name}.lua").read_text()
    answer = await any_redis.eval(source, 1, "run_1" if name == "inspect_run" else "no-such")
    text = b"\n".join(answer).decode()
    assert ("status = RUNNING" in text and '"state":"queued"' in text) or text == "no model no-such in Redis"
