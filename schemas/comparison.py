"""Comparison: what differs between two runs, field by field and node by node. Pure.

Everything is told as from `a` to `b`: who swaps them gets the same answer with its sides swapped. What only says when
and where something ran (times, tokens, runners) is told, and is no difference.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import zip_longest
from typing import Any, Final

import orjson

from schemas.run_state import Reference
from schemas.way import Way, parting

CHANGES_SHOWN = 100
"""Fields of one value that are told with what they were and are; of the others only how many there are."""
VALUE_CHARS = 400
"""Of a value that is shown, as JSON."""
USAGE = ("prompt_tokens", "completion_tokens", "execution_time_ms", "gpu_ms", "load_ms", "tasks")
MISSING: Final = object()
"""What a field is where there is none."""
_PLAIN = re.compile(r"^[A-Za-z_][A-Za-z0-9_]*$")

Steps = tuple[str | int, ...]


@dataclass(frozen=True, slots=True)
class Change:
    """One field that differs: where, and what it was and is; MISSING on the side that does not have it."""

    steps: Steps
    before: Any
    after: Any

    @property
    def path(self) -> str:
        """JSONPath (RFC 9535): `$.scores[2].value`."""
        return json_path(self.steps)

    @property
    def difference(self) -> float | None:
        """Of two numbers."""
        if not (is_number(self.before) and is_number(self.after)):
            return None
        return bounded(self.after - self.before)

    def as_dict(self) -> dict[str, Any]:
        shown = {
            name: value for name, value in (("before", self.before), ("after", self.after)) if value is not MISSING
        }
        more = {} if self.difference is None else {"difference": self.difference}
        return {"path": self.path, **{name: shortened(value) for name, value in shown.items()}, **more}


@dataclass(frozen=True, slots=True)
class RunSide:
    """A run as it is compared. Values are JSON values, or a `Reference` that was not loaded; times are ms. `way`: None
    where its events are not kept any more."""

    run_id: str
    status: str
    workflow_id: str = ""
    version: int | None = None
    revision: int = 1
    batch_id: str | None = None
    key: str | None = None
    input: Any = None
    outputs: Mapping[str, Any] = field(default_factory=dict)
    output: Any = None
    error: Any = None
    duration_ms: int | None = None  # null while it goes on
    usage: Mapping[str, float] = field(default_factory=dict)
    way: Way | None = None

    def head(self) -> dict[str, Any]:
        names = ("run_id", "status", "workflow_id", "version", "revision", "batch_id", "key", "duration_ms")
        usage = {name: self.usage.get(name, 0) for name in USAGE}
        return {name: getattr(self, name) for name in names} | {"error": shortened(self.error), "usage": usage}


def compare_runs(a: RunSide, b: RunSide) -> dict[str, Any]:
    """{a, b, same, input, output, error, nodes, same_nodes, parted, took}.

    `input`, `output` and `error` are {count, changes: [{path, before?, after?, difference?}]}; `nodes` those that were
    executed another number of times or gave something else: {node_id, executed: [in a, in b], a?, b?, count, changes};
    `same_nodes` the ids of the others; `parted` where their ways part first (schemas/way.py); `took` {duration_ms,
    prompt_tokens, ...}: of b less of a.
    """
    nodes = [_node(node, a, b) for node in _nodes(a, b)]
    differing = [node for node in nodes if node["count"] or len(set(node["executed"])) > 1]
    output, error = changed(a.output, b.output), changed(_kind(a.error), _kind(b.error))
    given = changed(a.input, b.input)
    parted = parting(a.way, b.way) if a.way and b.way else None
    same = a.status == b.status and not (differing or parted or any(part["count"] for part in (output, error, given)))
    return {
        "a": a.head(),
        "b": b.head(),
        "same": same,
        "input": given,
        "output": output | {"a": shortened(a.output), "b": shortened(b.output)},
        "error": error,
        "nodes": differing,
        "same_nodes": [node["node_id"] for node in nodes if node not in differing],
        "parted": parted,
        "took": _took(a, b),
    }


def changed(before: Any, after: Any, most: int = CHANGES_SHOWN) -> dict[str, Any]:
    """{count, changes}: all the fields that differ, counted, and the first of them."""
    shown, count = [], 0
    for change in changes(before, after):
        count += 1
        if count <= most:
            shown.append(change.as_dict())
    return {"count": count, "changes": shown}


def changes(before: Any, after: Any, steps: Steps = ()) -> Iterator[Change]:
    """The fields that differ, in the order of their names and places. 1 and 1.0 are one number; true is none."""
    if before is after:
        return
    if isinstance(before, dict) and isinstance(after, dict):
        for name in sorted(before.keys() | after.keys()):
            yield from changes(before.get(name, MISSING), after.get(name, MISSING), (*steps, name))
    elif isinstance(before, list) and isinstance(after, list):
        for index, (left, right) in enumerate(zip_longest(before, after, fillvalue=MISSING)):
            yield from changes(left, right, (*steps, index))
    elif before != after or isinstance(before, bool) != isinstance(after, bool):
        yield Change(steps, before, after)


def numbers(value: Any, steps: Steps = ()) -> Iterator[tuple[Steps, float]]:
    """Every number in a value, with its place."""
    if isinstance(value, dict):
        for name in sorted(value):
            yield from numbers(value[name], (*steps, name))
    elif isinstance(value, list):
        for index, inner in enumerate(value):
            yield from numbers(inner, (*steps, index))
    elif is_number(value):
        yield steps, value


def json_path(steps: Sequence[str | int], *, of_all: bool = False) -> str:
    """`$.scores[2].value`; `of_all`: `$.scores[*].value`, the same for every element."""
    return "$" + "".join(_step(step, of_all) for step in steps)


def _step(step: str | int, of_all: bool) -> str:
    if isinstance(step, int):
        return "[*]" if of_all else f"[{step}]"
    return f".{step}" if _PLAIN.match(step) else f"[{orjson.dumps(step).decode()}]"


def shortened(value: Any) -> Any:
    """The value; of one that is long the beginning of its JSON, and how long it is."""
    if isinstance(value, Reference):
        return value.text
    if isinstance(value, dict):  # of several ends, some may be large
        value = {name: inner.text if isinstance(inner, Reference) else inner for name, inner in value.items()}
    text = orjson.dumps(value).decode()
    return value if len(text) <= VALUE_CHARS else f"{text[:VALUE_CHARS]}… ({len(text)} characters)"


def is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def bounded(number: float) -> float | None:
    """A number that JSON writers take: whole ones of 64 bits, and none that is infinite."""
    if isinstance(number, int) and abs(number) < 1 << 63:
        return number
    try:
        return float(number) if math.isfinite(number) else None
    except OverflowError:
        return None


def _nodes(a: RunSide, b: RunSide) -> list[str]:
    executed = [*(a.way.executed if a.way else ()), *(b.way.executed if b.way else ())]
    return sorted({*a.outputs, *b.outputs, *executed})


def _node(node: str, a: RunSide, b: RunSide) -> dict[str, Any]:
    """How often it was executed, as far as both ways are known, and what it gave."""
    counts = [side.way.executed[node] for side in (a, b) if side.way] if a.way and b.way else []
    values = {name: side.outputs[node] for name, side in (("a", a), ("b", b)) if node in side.outputs}
    found = changed(a.outputs.get(node, MISSING), b.outputs.get(node, MISSING))
    return {"node_id": node, "executed": counts, **{name: shortened(value) for name, value in values.items()}, **found}


def _kind(error: Any) -> Any:
    """What makes two errors differ: their class and message, not who saw them when."""
    if not isinstance(error, Mapping):
        return error
    return {name: error[name] for name in ("class", "message") if name in error}


def _took(a: RunSide, b: RunSide) -> dict[str, Any]:
    both = a.duration_ms is not None and b.duration_ms is not None
    duration = (b.duration_ms or 0) - (a.duration_ms or 0) if both else None
    return {"duration_ms": duration} | {name: bounded(b.usage.get(name, 0) - a.usage.get(name, 0)) for name in USAGE}
