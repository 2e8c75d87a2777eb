"""Which engine to use: Ollama, if it answers and has the models; else the simulated one."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import httpx

from agent_runner.engines.engine import short_name

ANSWER_S = 2.0


@dataclass(frozen=True, slots=True)
class EngineChoice:
    """`reason` is a sentence for people."""

    simulated: bool
    reason: str


def choose_engine(url: str, models: Sequence[str]) -> EngineChoice:
    """Raises nothing."""
    listed = listed_models(url)
    if listed is None:
        return EngineChoice(True, f"no Ollama answers at {url}")
    missing = [model for model in models if short_name(model) not in listed]
    if missing:
        return EngineChoice(True, f"the Ollama at {url} lacks {', '.join(missing)}")
    return EngineChoice(False, f"Ollama at {url} has {', '.join(models)}")


def listed_models(url: str) -> set[str] | None:
    """Short names of the models that the Ollama at `url` has; None where none answers."""
    try:
        answer = httpx.get(f"{url}/api/tags", timeout=ANSWER_S, trust_env=False)
        return {short_name(str(model["name"])) for model in answer.raise_for_status().json()["models"]}
    except (httpx.HTTPError, httpx.InvalidURL, ValueError, KeyError, TypeError):
        return None


def answers(engine: str, url: str) -> bool:
    """Whether there is an engine of this kind at `url`; one that wants a key counts."""
    if engine != "openai":
        return listed_models(url) is not None
    try:
        return httpx.get(f"{url}/v1/models", timeout=ANSWER_S, trust_env=False).status_code in (200, 401, 403)
    except (httpx.HTTPError, httpx.InvalidURL):
        return False


def models_of(document: Mapping[str, Any]) -> list[str]:
    """The models that a workflow names, each once."""
    named = (node.get("config", {}).get("model") for node in document["nodes"])
    return list(dict.fromkeys(model for model in named if model))
