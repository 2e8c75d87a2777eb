"""A tool: what the model is told of it, and how it is called."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from jsonschema.protocols import Validator

from agent_runner.engines.engine import ToolOffer
from agent_runner.work import Work
from schemas.compiler.json_schema import schema_problems, schema_validator

_SHOWN = 300  # characters of a validator's message, which may quote all arguments


class ToolFailed(Exception):
    """A call that gave no result. The text goes back to the model, which may do better."""


@dataclass(frozen=True, slots=True)
class Call:
    """One call: the `number`-th of this execution, from 1. `arguments` is JSON and satisfies the tool's parameters."""

    work: Work
    number: int
    arguments: Mapping[str, Any]


Execute = Callable[[Call], Awaitable[Any]]
"""Gives a JSON value. Raises ToolFailed; whatever else it raises counts as that. May be cancelled at any time."""


@dataclass(frozen=True, slots=True)
class Tool:
    """`kind` is handler, http, workflow, mcp or patch_workflow."""

    kind: str
    offer: ToolOffer
    execute: Execute
    validator: Validator | None = field(default=None, compare=False)

    @property
    def name(self) -> str:
        return self.offer.name

    def refusal(self, arguments: Mapping[str, Any]) -> str | None:
        """Why the tool can not be called with these arguments."""
        fault = next(self.validator.iter_errors(arguments), None) if self.validator is not None else None
        if fault is None:
            return None
        return f"the arguments miss the tool's parameters at {fault.json_path}: {fault.message[:_SHOWN]}"


def make_tool(kind: str, name: str, description: str, parameters: Mapping[str, Any], execute: Execute) -> Tool:
    """A tool whose arguments are checked, if the schema is one that we accept; else that is left to who executes it."""
    validator = None if schema_problems(parameters, "") else schema_validator(parameters)
    return Tool(kind, ToolOffer(name, description, parameters), execute, validator)
