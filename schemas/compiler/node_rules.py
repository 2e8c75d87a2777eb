"""What a node of each type may have in its config."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from schemas.compiler import checks
from schemas.compiler.node_type import NodeType
from schemas.compiler.opened_rules import opened_types
from schemas.compiler.outside_rules import outside_types
from schemas.compiler.survey import Fields, Place, kind_of, optional, required
from schemas.compiler.tool_rules import tool_fields
from schemas.ids import NAME, NODE_ID
from schemas.limits import Limits

MODEL = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:/@+-]{0,255}")
_KEY = re.compile(r"[^\x00-\x1f]{1,128}")
_OPTION = re.compile(r"[a-z][a-z0-9_]{0,63}")


def node_types(limits: Limits, graph: Fields) -> Mapping[str, NodeType]:
    """The types; `graph` are the fields of a sub-graph."""
    rule = {"condition": required(checks.condition), "next": required(checks.targets)}
    identifier = checks.entries(NODE_ID, "letters, digits and `_`, at most 64", checks.value_template)
    return {
        "agent": NodeType(
            {
                "model": required(_model),
                "prompt": required(checks.template),
                "system": optional(checks.template),
                "response_format": optional(checks.schema),
                "options": optional(checks.entries(_OPTION, "the engine's names of options", _option)),
                **tool_fields(),
            }
        ),
        "function": NodeType(
            {
                "handler": required(checks.name(NAME, "the name of a registered handler")),
                "args": optional(identifier),
            }
        ),
        "transform": NodeType(
            {"set": required(checks.entries(_KEY, "1 to 128 printable characters", checks.expression, low=1))}
        ),
        "branch": NodeType(
            {
                "rules": required(checks.items(checks.fields(rule, "a rule"), low=1)),
                "default": optional(checks.targets),
            },
            own_edges=False,
        ),
        "loop": NodeType(
            {
                "condition": required(checks.condition),
                "loop_back_to": required(checks.target),
                "max_iterations": required(checks.integer(1, limits.max_iterations)),
                "break_path": required(checks.targets),
                "timeout_path": optional(checks.targets),
            },
            own_edges=False,
        ),
        "join": NodeType({}),
        **outside_types(),
        **opened_types(limits, graph),
    }


def retry_fields(limits: Limits) -> Fields:
    return {
        "max_attempts": optional(checks.integer(1, limits.max_attempts)),
        "backoff_ms": optional(checks.integer(0, limits.duration_ms)),
        "backoff_multiplier": optional(checks.number(1, 100)),
        "jitter": optional(checks.number(0, 1)),
    }


def _model(place: Place, value: Any) -> None:
    checks.name(MODEL, "the name of a model, such as `gemma3:4b`")(place, value)
    if isinstance(value, str) and value.endswith(":interactive"):
        place.refuse("bad-name", "The tag `interactive` is taken: it names the fast lane of a model's stream.")


def _option(place: Place, value: Any) -> None:
    """A number, a boolean, a string, or a list of strings (stop sequences)."""
    listed = isinstance(value, list) and all(isinstance(item, str) for item in value)
    if not listed and not isinstance(value, str | int | float):
        message = f"{place.name} must be a number, a boolean, a string or a list of strings, not {kind_of(value)}."
        place.refuse("wrong-type", message)
