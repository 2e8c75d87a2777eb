"""A GPU of llama.cpp servers that holds one of three models at a time, and its adapter."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from agent_runner.engines.openai import OpenAIEngine

if TYPE_CHECKING:
    from tests.real_engines.router import Router


def pytest_pycollect_makemodule() -> None:
    """Where llama.cpp is not installed this folder is skipped, by its name too."""
    pytest.importorskip("xllamacpp", reason="`make test-engines` installs llama.cpp and runs these")


@pytest.fixture(scope="session")
def model_files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the models lie that were written already."""
    return tmp_path_factory.mktemp("models")


@pytest.fixture
async def router(model_files: Path) -> AsyncIterator[Router]:
    """The models alpha, beta and gamma; each fits alone, no two together. `vast` fits not at all."""
    from tests.real_engines.models import TinyModel
    from tests.real_engines.router import Router

    names = ("alpha", "beta", "gamma")
    models = [TinyModel(name, width=256, seed=seed) for seed, name in enumerate(names)]
    async with Router([*models, TinyModel("vast", width=640)], model_files, memory=35_000_000) as router:
        yield router


@pytest.fixture
async def engine(router: Router) -> AsyncIterator[OpenAIEngine]:
    engine = OpenAIEngine(router.url)
    yield engine
    await engine.close()
