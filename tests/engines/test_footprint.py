"""What a model would take in memory, before it is loaded."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route

from agent_runner.engines.engine import EngineError, Footprint
from agent_runner.engines.kv_cache import kv_bytes
from agent_runner.engines.ollama import OllamaEngine
from agent_runner.engines.simulated.gpu import CATALOGUE
from agent_runner.engines.simulated.listener import Listener, bound
from tests.engines.conftest import Start

GB = 10**9
LLAMA = {  # llama3.1:8b, as Ollama shows it
    "general.architecture": "llama",
    "llama.block_count": 32,
    "llama.context_length": 131072,
    "llama.embedding_length": 4096,
    "llama.attention.head_count": 32,
    "llama.attention.head_count_kv": 8,
}


@pytest.mark.parametrize("model", CATALOGUE)
async def test_the_simulated_cards_own_figures(start: Start, model: str) -> None:
    server, engine = await start(speed=5000.0)
    for context in (4096, 2048, 8192):
        footprint = await engine.footprint(model, {"num_ctx": context})
        assert footprint is not None and footprint.slots is None
        spec = CATALOGUE[model]
        assert footprint.weights == round(spec.weights_gb * GB)
        law = spec.vram_gb(8, context) * GB
        # never less than the law: what the runner takes to fit does fit
        assert law <= footprint.memory(8) <= law + 8 * 4 * context
    plain = await engine.footprint(model, {})
    assert plain == await engine.footprint(f"{model}:latest" if ":" not in model else model, {"num_ctx": 4096})
    assert server.stats()["loads"] == 0


async def test_a_model_that_is_not_there(start: Start) -> None:
    _, engine = await start()
    with pytest.raises(EngineError) as failed:
        await engine.footprint("llama9:1b", {})
    assert failed.value.klass == "not_found" and "llama9:1b" in failed.value.message


def test_the_parts_add_up() -> None:
    assert Footprint(3 * GB, GB // 4).memory(8) == 5 * GB + GB // 2


@pytest.mark.parametrize(
    ("parameters", "options", "context"),
    [
        ("", {}, 4096),
        ('stop    "x"\nnum_ctx                        8192\ntemperature 1', {}, 8192),
        ("num_ctx 8192", {"num_ctx": 1000}, 1000),
        ("", {"num_ctx": 1_000_000}, 131_072),
    ],
)
async def test_what_ollama_shows(parameters: str, options: dict[str, Any], context: int) -> None:
    """A real model's metadata: heads differ from layer to layer, which is left out unless all is asked for."""

    async def show(request: Request) -> JSONResponse:
        heads = [8, 0] * 16 if (await request.json()).get("verbose") else []
        info = LLAMA | {"llama.attention.head_count_kv": heads}
        return JSONResponse({"model_info": info, "parameters": parameters})

    async def tags(_: Request) -> JSONResponse:
        return JSONResponse({"models": [{"model": "llama3.1:latest", "size": 5 * GB}, {"model": "other", "size": 1}]})

    routes = [Route("/api/show", show, methods=["POST"]), Route("/api/tags", tags)]
    listening = bound(("127.0.0.1", 0))
    listener = Listener(Starlette(routes=routes))
    serving = asyncio.create_task(listener.serve(sockets=[listening]))
    engine = OllamaEngine(f"http://127.0.0.1:{listening.getsockname()[1]}")
    await listener.ready.wait()
    assert await engine.footprint("llama3.1", options) == Footprint(5 * GB, context * 16 * 8 * 256 * 2)
    assert await engine.footprint("unlisted", options) is None
    await engine.close()
    listener.end()
    await serving


@pytest.mark.parametrize(
    ("changed", "per_token"),
    [
        ({}, 32 * 8 * (128 + 128) * 2),
        ({"llama.attention.head_count_kv": None}, 32 * 32 * 256 * 2),
        ({"llama.attention.key_length": 64, "llama.attention.value_length": 32}, 32 * 8 * 96 * 2),
        ({"llama.attention.head_count_kv": [8, 0, 4]}, 12 * 256 * 2),
        ({"llama.attention.head_count_kv": []}, None),
        ({"llama.attention.head_count_kv": ["8"]}, None),
        ({"llama.block_count": None}, None),
        ({"llama.block_count": 10**8}, None),
        ({"llama.embedding_length": None}, None),
        ({"general.architecture": "other"}, None),
    ],
)
def test_the_cache_by_the_files_metadata(changed: dict[str, Any], per_token: int | None) -> None:
    assert kv_bytes(LLAMA | changed) == per_token


values = st.recursive(st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=3), st.lists)


@given(st.dictionaries(st.sampled_from([*LLAMA, "llama.attention.key_length"]), values))
def test_any_metadata_gives_a_size_or_none(changed: dict[str, Any]) -> None:
    size = kv_bytes(LLAMA | changed)
    assert size is None or size >= 0
