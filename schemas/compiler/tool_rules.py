"""What an agent may have as `tools`: handlers, http calls, child workflows, the tools of MCP servers, and patching."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from schemas.compiler import checks
from schemas.compiler.finding import Verdict, find_in_schema
from schemas.compiler.node_type import needs_field, one_of_fields
from schemas.compiler.opened_rules import document
from schemas.compiler.outside_rules import outside_types
from schemas.compiler.survey import Fields, Place, Survey, check_fields, kind_of, optional, required
from schemas.errors import Problem
from schemas.ids import MCP_SERVER, WORKFLOW_ID
from schemas.ir import OPENED_TYPES, PASSING_TYPES, TASK_TYPES
from schemas.limits import LIMITS

ARGUMENTS = ("args",)
"""The variables that an http tool's templates may read: the arguments that the model gave, and nothing else."""
TOOL_NAME = re.compile(r"[a-zA-Z0-9_-]{1,64}")
"""What models take as a tool's name."""
MAX_TOOLS = 64  # entries of one agent
MAX_ROUNDS = 100
MAX_CALLS = 1_000
MAX_DEPTH = 8  # agents that are added by agents that ...
MAX_MODEL_CALLS = 1_000_000
PATCHING = ("patch_workflow", "read_workflow")
"""The tools of the entry `patch_workflow`, by the names that the model sees."""

_WORDS = "letters, digits, `_` and `-`, at most 64"


def tool_fields() -> Fields:
    """The fields of an agent's config that are about its tools."""
    return {
        "tools": optional(_tools),
        "max_rounds": optional(checks.integer(1, MAX_ROUNDS)),
        "max_calls": optional(checks.integer(1, MAX_CALLS)),
    }


def _tools(place: Place, value: Any) -> None:
    if isinstance(value, list) and len(value) > MAX_TOOLS:
        place.refuse("out-of-range", f"{place.name} must have at most {MAX_TOOLS} items, not {len(value)}.")
        return
    checks.items(_tool, low=1)(place, value)
    seen: set[str] = set()
    for position, tool in enumerate(value if isinstance(value, list) else ()):
        for name in _names_of(tool):
            if name in seen:
                place.at(position).refuse("duplicate-tool", f"Another tool of this agent is called `{name}` already.")
                break
            seen.add(name)


def _tool(place: Place, value: Any) -> None:
    if not isinstance(value, Mapping):
        place.refuse("wrong-type", f"{place.name} must be an object, not {kind_of(value)}.")
        return
    kinds = [kind for kind in _FIELDS if kind in value]
    if len(kinds) == 1:
        check_fields(place, value, _FIELDS[kinds[0]], "a tool")
    else:
        one_of_fields(place, value, *_FIELDS)


def _names_of(tool: Any) -> tuple[str, ...]:
    """The names of an entry's tools as the model sees them, as far as the document says; an MCP server has its own."""
    if not isinstance(tool, Mapping):
        return ()
    if "patch_workflow" in tool:
        return PATCHING
    inner = tool.get("http", tool.get("workflow"))
    name = inner.get("name") if isinstance(inner, Mapping) else tool.get("handler")
    return (name,) if isinstance(name, str) else ()


def _parameters(place: Place, value: Any) -> None:
    """The JSON Schema of a tool's arguments, which are an object."""
    before = len(place.survey.problems)
    checks.schema(place, value)
    if len(place.survey.problems) == before and value.get("type") != "object":
        place.refuse("bad-schema", "The arguments of a tool are an object: the schema must have `type: object`.")


def _http(place: Place, value: Any) -> None:
    place = replace(place, variables=ARGUMENTS)
    uses = len(place.survey.uses)
    if check_fields(place, value, _HTTP, "an http tool") and isinstance(value.get("parameters"), Mapping):
        for use in place.survey.uses[uses:]:
            for path in sorted(use.references.paths):
                _check_argument(place.survey, use.path, path, value["parameters"])


def _check_argument(survey: Survey, where: str, path: tuple[str, ...], parameters: Mapping[str, Any]) -> None:
    if survey.faulty_schemas:
        return  # these may not be readable
    finding = find_in_schema(parameters, path[1:])
    if finding.verdict == Verdict.RULED_OUT:
        message = f"`{'.'.join(path)}`: the parameters rule `{finding.missing}` out."
        survey.problems.append(Problem(where, "no-such-field", message))
    elif finding.verdict == Verdict.UNDECLARED:
        message = f"`{'.'.join(path)}`: the parameters do not name `{finding.missing}`."
        survey.warnings.append(Problem(where, "undeclared-field", message))


def _workflow(place: Place, value: Any) -> None:
    if check_fields(place, value, _WORKFLOW, "a workflow tool"):
        one_of_fields(place, value, "workflow_id", "document")
        needs_field(place, value, "version", "workflow_id")


_name = checks.name(TOOL_NAME, _WORDS)
_description = checks.text(low=1, high=4_096)

_HTTP: Fields = {
    "name": required(_name),
    "description": required(_description),
    "parameters": required(_parameters),
    **outside_types()["http"].config,
}
_WORKFLOW: Fields = {
    "name": required(_name),
    "description": required(_description),
    "parameters": optional(_parameters),
    "workflow_id": optional(checks.name(WORKFLOW_ID, "the id of a workflow")),
    "version": optional(checks.integer(1, 2**31 - 1)),
    "document": optional(document),
}
_PATCHING: Fields = {
    "max_operations": optional(checks.integer(1, LIMITS.patch_operations)),
    "max_nodes": optional(checks.integer(0, LIMITS.workflow_nodes)),
    "max_model_calls": optional(checks.integer(0, MAX_MODEL_CALLS)),
    "max_depth": optional(checks.integer(1, MAX_DEPTH)),
    "allow": optional(checks.items(checks.one_of(*sorted(TASK_TYPES | OPENED_TYPES | PASSING_TYPES)))),
}
_FIELDS: Mapping[str, Fields] = {
    "handler": {
        "handler": required(checks.name(TOOL_NAME, f"the name of a registered handler: {_WORDS}")),
        "description": optional(_description),
        "parameters": optional(_parameters),
    },
    "http": {"http": required(_http)},
    "workflow": {"workflow": required(_workflow)},
    "mcp": {
        "mcp": required(checks.name(MCP_SERVER, "the name of an MCP server in the operator's settings")),
        "tools": optional(checks.items(checks.text(low=1, high=256), low=1)),
    },
    "patch_workflow": {"patch_workflow": required(checks.fields(_PATCHING, "the tool `patch_workflow`"))},
}
