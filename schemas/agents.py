"""The agents of a workflow document, wherever they stand in it. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from schemas.errors import pointer

Steps = tuple[str | int, ...]


@dataclass(frozen=True, slots=True)
class Agent:
    """One agent node. `steps` lead to its config in the document (`pointer` makes a path of them)."""

    node: str
    config: Mapping[str, Any]
    steps: Steps

    def path(self, *more: str | int) -> str:
        return pointer(*self.steps, *more)


def agents_of(workflow: Mapping[str, Any], root: Steps = ()) -> Iterator[Agent]:
    """All agents of a valid workflow, in the order of the text: those in maps too, and in workflows that stand in it as
    nodes or as tools. What a registered workflow has is not known here."""
    for place, node in enumerate(workflow["nodes"]):
        config, steps = node.get("config", {}), (*root, "nodes", place, "config")
        match node["type"]:
            case "agent":
                yield Agent(node["id"], config, steps)
                for number, tool in enumerate(config.get("tools", ())):
                    yield from _inside(tool.get("workflow"), (*steps, "tools", number, "workflow"))
            case "map":
                yield from agents_of(config, steps)
            case "workflow":
                yield from _inside(config, steps)


def _inside(holder: Any, steps: Steps) -> Iterator[Agent]:
    if isinstance(holder, Mapping) and "document" in holder:
        yield from agents_of(holder["document"], (*steps, "document"))
