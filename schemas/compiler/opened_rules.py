"""The types that begin and end later: map, workflow, human, wait."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from schemas.compiler import checks
from schemas.compiler.finding import Verdict, find_in_schema
from schemas.compiler.node_type import NodeType, needs_field, one_of_fields
from schemas.compiler.survey import Check, Fields, Place, kind_of, optional, required
from schemas.ids import NAME, WORKFLOW_ID
from schemas.ir import DEFAULT_PARALLEL
from schemas.limits import Limits

_DATE = re.compile(r"\d{4}-\d\d-\d\d([Tt ].*)?")
_MAX_VERSION = 2**31 - 1


def opened_types(limits: Limits, graph: Fields) -> Mapping[str, NodeType]:
    """`graph` are the fields of a sub-graph."""
    duration = optional(checks.integer(1, limits.duration_ms))
    deadline = {"deadline_ms": duration, "deadline_path": optional(checks.targets)}
    return {
        "map": NodeType(
            {
                "items": required(checks.expression),
                **graph,
                "max_parallel": optional(checks.integer(1, DEFAULT_PARALLEL)),
                "on_item_error": optional(checks.one_of("fail", "collect")),
            }
        ),
        "workflow": NodeType(
            {
                "workflow_id": optional(checks.name(WORKFLOW_ID, "the id of a workflow")),
                "version": optional(checks.integer(1, _MAX_VERSION)),
                "document": optional(document),
                "input": optional(checks.value_template),
            },
            _workflow,
        ),
        "human": NodeType(
            {
                "prompt": optional(checks.template),
                "form": optional(_form),
                "choices": optional(_choices),
                "assignee": optional(checks.template),
                "remind_ms": duration,
                **deadline,
            },
            _human,
        ),
        "wait": NodeType(
            {
                "for_ms": optional(_duration(limits)),
                "until": optional(_until),
                "event": optional(checks.name(NAME, "the name of an event, letters, digits, `_`, `.`, `:` and `-`")),
                "key": optional(checks.template),
                **deadline,
            },
            _wait,
        ),
    }


def document(place: Place, value: Any) -> None:
    """A workflow inside this one; it is compiled when the rest of this one is known."""
    if isinstance(value, Mapping):
        place.survey.documents.append((place, value))
    else:
        place.refuse("wrong-type", f"{place.name} must be a workflow, an object, not {kind_of(value)}.")


def _workflow(place: Place, config: Any) -> None:
    one_of_fields(place, config, "workflow_id", "document")
    needs_field(place, config, "version", "workflow_id")


def _form(place: Place, value: Any) -> None:
    """The JSON Schema of an answer, which is an object."""
    before = len(place.survey.problems)
    checks.schema(place, value)
    if len(place.survey.problems) == before:
        types = value.get("type", "object")
        if "object" not in ([types] if isinstance(types, str) else types):
            place.at("type").refuse("bad-schema", "An answer is an object: the form must have `type: object`.")


def _choices(place: Place, value: Any) -> None:
    checks.items(checks.text(1, 256), low=1)(place, value)
    seen: set[str] = set()
    for position, choice in enumerate(value if isinstance(value, list) else ()):
        if isinstance(choice, str) and choice in seen:
            place.at(position).refuse("bad-value", f"The choice `{choice[:64]}` stands there twice.")
        seen |= {choice} if isinstance(choice, str) else set()


def _human(place: Place, config: Any) -> None:
    needs_field(place, config, "deadline_path", "deadline_ms")
    if "choices" in config and "form" in config and not place.survey.faulty_schemas:
        found = find_in_schema(config["form"], ("choice",))
        if found.verdict == Verdict.RULED_OUT:
            message = "An answer names its choice in the field `choice`, which the form rules out: declare it there."
            place.at("form").refuse("bad-schema", message)


def _duration(limits: Limits) -> Check:
    whole = checks.integer(1, limits.duration_ms)

    def check(place: Place, value: Any) -> None:
        if isinstance(value, str) and "{{" in value:
            checks.template(place, value)
        elif isinstance(value, str):
            place.refuse(
                "wrong-type", f"{place.name} must be an integer of milliseconds, or a template that gives one."
            )
        else:
            whole(place, value)

    return check


def _until(place: Place, value: Any) -> None:
    """CEL that gives a time."""
    if isinstance(value, str) and _DATE.fullmatch(value):
        place.refuse("bad-value", f"{place.name} is a CEL expression: write `timestamp('{value[:64]}')`.")
    else:
        checks.expression(place, value)


def _wait(place: Place, config: Any) -> None:
    one_of_fields(place, config, "for_ms", "until", "event")
    if any(name in config for name in ("for_ms", "until")):
        for name in ("key", "deadline_ms", "deadline_path"):
            needs_field(place, config, name, "event")
    needs_field(place, config, "deadline_path", "deadline_ms")
