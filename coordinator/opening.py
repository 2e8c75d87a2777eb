"""Opening: how a node begins that ends later (map, workflow, human, wait). Pure.

map ──► its items   workflow ──► a child run   human ──► somebody is asked   wait ──► a time, or an outside event
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

import orjson

from schemas.expressions.error import EvaluationError, TemplateError
from schemas.ir import Node
from schemas.limits import LIMITS
from schemas.values import Artifact, ValueTooLarge, encode_value

KEY_CHARS = 512
LATEST_MS = 9_999_999_999_999  # whole numbers of 14 digits and more do not pass through Redis' cjson


class NodeFailed(Exception):
    """A node that the coordinator decides or opens has failed for good."""

    def __init__(self, klass: str, message: str) -> None:
        super().__init__(message)
        self.klass = klass


@dataclass(frozen=True, slots=True)
class StartMap:
    """The map knows its items."""

    items: list[Any]
    text: str  # the list as it is stored
    artifact: Artifact | None
    parallel: int


@dataclass(frozen=True, slots=True)
class Wait:
    """The token waits in `state` (asked, timed, listening)."""

    state: str
    fields: Mapping[str, Any]  # of its record
    approval: Mapping[str, Any] | None = None  # what a person is asked
    facts: Mapping[str, Any] = field(default_factory=dict)  # for the event


@dataclass(frozen=True, slots=True)
class Call:
    """The token waits for a child run on `input`."""

    input: Any


Opened = StartMap | Wait | Call


def open_node(node: Node, variables: Mapping[str, Any], now: int) -> Opened:
    """How `node` begins. `now` is ms since the epoch. Raises NodeFailed."""
    try:
        match node.type:
            case "map":
                return _map(node, variables)
            case "workflow":
                return Call(_rendered(node, "input", variables) if "input" in node.templates else variables["output"])
            case "human":
                return _human(node, variables, now)
            case _:
                return _wait(node, variables, now)
    except TemplateError as error:
        raise NodeFailed("template", f"{node.id}: {error}") from None
    except EvaluationError as error:
        raise NodeFailed("expression", f"{node.id}: {error}") from None


def _map(node: Node, variables: Mapping[str, Any]) -> StartMap:
    assert node.map is not None
    items = node.map.items.evaluate(variables)
    if not isinstance(items, list):
        raise NodeFailed("invalid_input", f"{node.id}: `items` gave no list: {node.map.items.text}")
    if len(items) > LIMITS.map_items:
        raise NodeFailed(
            "too_large", f"{node.id}: `items` has {len(items)} items; the limit map_items is {LIMITS.map_items}"
        )
    try:
        text, artifact = encode_value(items)
    except ValueTooLarge as error:
        raise NodeFailed("too_large", f"{node.id}: `items`: {error}") from None
    return StartMap(items, text, artifact, node.map.max_parallel)


def _human(node: Node, variables: Mapping[str, Any], now: int) -> Wait:
    config = node.config
    fields: dict[str, Any] = {}
    if "deadline_ms" in config:
        fields["due"] = now + config["deadline_ms"]
    if "remind_ms" in config:
        fields["remind_ms"] = config["remind_ms"]
    asked = {
        "assignee": _text(node, "assignee", variables),
        "prompt": _text(node, "prompt", variables, LIMITS.inline_bytes),
        "due": fields.get("due"),
    }
    fixed = {name: config[name] for name in ("form", "choices") if name in config}
    return Wait("asked", fields, {**asked, **fixed, "since": now}, {"waits_for": "answer", **asked})


def _wait(node: Node, variables: Mapping[str, Any], now: int) -> Wait:
    config = node.config
    if "event" in config:
        fields = {"event": config["event"], "key": _text(node, "key", variables) or ""}
        if "deadline_ms" in config:
            fields["due"] = now + config["deadline_ms"]
        return Wait("listening", fields, facts={"waits_for": "event", **fields})
    due = _moment(node, variables) if node.until is not None else now + _duration(node, variables)
    return Wait("timed", {"due": due}, facts={"waits_for": "time", "due": due})


def _duration(node: Node, variables: Mapping[str, Any]) -> int:
    given = _rendered(node, "for_ms", variables)
    if isinstance(given, bool) or not isinstance(given, int) or not 0 <= given <= LIMITS.duration_ms:
        raise NodeFailed("invalid_input", f"{node.id}: for_ms must be a whole number of ms up to {LIMITS.duration_ms}")
    return given


def _moment(node: Node, variables: Mapping[str, Any]) -> int:
    """The time that `until` gives, in ms since the epoch."""
    assert node.until is not None
    given = node.until.evaluate(variables)
    try:
        moment = datetime.fromisoformat(given) if isinstance(given, str) else None
    except ValueError:
        moment = None
    if moment is None:
        raise NodeFailed("invalid_input", f"{node.id}: `until` gave no timestamp: {node.until.text}")
    due = int((moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp() * 1_000)
    if due > LATEST_MS:
        raise NodeFailed("invalid_input", f"{node.id}: `until` is later than the year 2286: {node.until.text}")
    return due


def _rendered(node: Node, name: str, variables: Mapping[str, Any]) -> Any:
    return node.templates[name].render(variables)


def _text(node: Node, name: str, variables: Mapping[str, Any], most: int = KEY_CHARS) -> str | None:
    """A rendered template as text, None if the config has none."""
    if name not in node.templates:
        return None
    value = _rendered(node, name, variables)
    text = value if isinstance(value, str) else orjson.dumps(value).decode()
    if len(text) > most:
        raise NodeFailed("too_large", f"{node.id}: `{name}` has {len(text)} characters, more than {most}")
    return text
