"""Agents that share a model and not its load-time options: an engine loads it again for each change."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import orjson

from schemas.agents import Agent, agents_of
from schemas.compiler.analysis import LOAD_OPTIONS, model_pool
from schemas.errors import Problem


def reloads(workflow: Mapping[str, Any]) -> Iterator[Problem]:
    """A warning for each way but the first in which a valid workflow has a model loaded; names one agent of each."""
    first: dict[str, Agent] = {}
    pools: set[str] = set()
    for agent in agents_of(workflow):
        pool, model = model_pool(agent.config), agent.config["model"]
        if pool not in pools:
            pools.add(pool)
            other = first.setdefault(model, agent)
            if other is not agent:
                yield _warning(model, other, agent)


def _warning(model: str, one: Agent, other: Agent) -> Problem:
    ours, theirs = _load_options(other), _load_options(one)
    names = sorted(name for name in ours.keys() | theirs.keys() if _text(ours, name) != _text(theirs, name))
    message = (
        f"`{one.node}` and `{other.node}` use the model `{model}` with other load-time options: "
        f"{_listed(theirs, names)} in `{one.node}`, {_listed(ours, names)} in `{other.node}`. So it counts as two "
        "models, and a GPU loads it again for each change between them: give both the same options."
    )
    where = ("options",) if "options" in other.config else ()
    return Problem(other.path(*where), "other-load-options", message)


def _load_options(agent: Agent) -> dict[str, Any]:
    return {name: value for name, value in agent.config.get("options", {}).items() if name in LOAD_OPTIONS}


def _listed(options: Mapping[str, Any], names: list[str]) -> str:
    return ", ".join(f"`{name}` {_text(options, name)[:64]}" for name in names)


def _text(options: Mapping[str, Any], name: str) -> str:
    return orjson.dumps(options[name]).decode() if name in options else "unset"
