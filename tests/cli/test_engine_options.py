"""Which engine is driven, and where: what `up` and `runner` take."""

import asyncio
from collections.abc import Callable

import pytest
from click.testing import Result

from pavane.cli.service import engine_location
from pavane.engine_choice import answers
from pavane.settings import Settings, SettingsError
from tests.engines.openai_server import OpenAIServer

Pavane = Callable[..., Result]
SETTINGS = Settings.from_environment({"OLLAMA_HOST": "gpu.example:1"})


@pytest.mark.parametrize("command", ["up", "runner"])
@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("--engine", "vllm"), "'vllm' is none of ollama, openai, simulated"),
        (("--engine", "openai"), "give the URL of the server"),
        (("--engine", "openai", "--url", "10.0.0.7:8000"), "give http://HOST:PORT"),
        (("--engine", "openai", "--url", "http://me:sekret@h:1"), "PAVANE_ENGINE_KEY"),
        (("--engine", "openai", "--url", "http://h:many"), "give http://HOST:PORT"),
        (("--engine", "openai", "--url", "http://h:1?key=sekret"), "PAVANE_ENGINE_KEY"),
    ],
)
def test_what_is_refused(pavane: Pavane, command: str, options: tuple[str, ...], said: str) -> None:
    result = pavane(command, *options)
    assert result.exit_code == 2
    assert said in " ".join(result.stderr.replace("│", "").split())
    assert "sekret" not in result.output


def test_where_the_engine_is() -> None:
    assert engine_location("ollama", None, SETTINGS) == "http://gpu.example:1"
    assert engine_location("simulated", ":7", SETTINGS) == "http://127.0.0.1:7"
    for given in ("http://h:8000", "http://h:8000/", "http://h:8000/v1", "http://h:8000/v1/"):
        assert engine_location("openai", given, SETTINGS) == "http://h:8000"
    assert engine_location("openai", "https://h/swap/v1", SETTINGS) == "https://h/swap"


async def test_whether_one_answers() -> None:
    async with OpenAIServer() as server:
        assert await asyncio.to_thread(answers, "openai", server.url)
        assert not await asyncio.to_thread(answers, "ollama", server.url)
    assert not await asyncio.to_thread(answers, "openai", server.url)


def test_the_key_is_never_shown() -> None:
    settings = Settings.from_environment({"PAVANE_ENGINE_KEY": "sk-sekret"})
    assert settings.engine_key is not None and settings.engine_key.get_secret_value() == "sk-sekret"
    assert "sekret" not in repr(settings)
    for bad in ("sk sekret", "sekret\n", "sekret\u00e9"):
        with pytest.raises(SettingsError, match="PAVANE_ENGINE_KEY") as refused:
            Settings.from_environment({"PAVANE_ENGINE_KEY": bad})
        assert "sekret" not in str(refused.value)
