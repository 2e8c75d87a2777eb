"""Snapshots: a whole run state as JSON, and back. Every value in it is a stored text (schemas/values.py), so that a
large one is its name, and a value never reads as one."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import orjson

from schemas.run_state import MapState, Reference, RunState, Usage, stored_text, stored_value

_VALUES = ("input", "arrivals", "outputs", "ends", "ranks", "maps", "usage")
"""Fields that are not JSON as they are."""


def dump_state(state: RunState) -> bytes:
    """The state as JSON: `load_state` gives it again."""
    plain = {name: getattr(state, name) for name in RunState.__dataclass_fields__ if name not in _VALUES}
    return orjson.dumps(
        {
            **plain,
            "input": stored_text(state.input),
            "arrivals": _texts(state.arrivals),
            "outputs": _texts(state.outputs),
            "ends": {scope: sorted(nodes) for scope, nodes in state.ends.items()},
            "ranks": state.ranks,
            "maps": {token: _map(one) for token, one in state.maps.items()},
            "usage": {name: getattr(state.usage, name) for name in Usage.__dataclass_fields__},
        }
    )


def load_state(text: bytes | str | Mapping[str, Any]) -> RunState:
    """The state of `dump_state`, or of its parsed JSON."""
    known = dict(text if isinstance(text, Mapping) else orjson.loads(text))
    known["input"] = stored_value(known["input"])
    known["arrivals"], known["outputs"] = _values(known["arrivals"]), _values(known["outputs"])
    known["ends"] = {scope: set(nodes) for scope, nodes in known["ends"].items()}
    known["ranks"] = {
        scope: {node: (depth, lane) for node, (depth, lane) in ranks.items()} for scope, ranks in known["ranks"].items()
    }
    known["maps"] = {token: _read_map(one) for token, one in known["maps"].items()}
    known["usage"] = Usage(**known["usage"])
    return RunState(**known).copy()  # what was parsed may be an event's, and read again


def artifacts_in(state: RunState) -> list[str]:
    """The references (`artifact://sha256-...`) of all large values that a state names, each once."""
    values: list[Any] = [state.input]
    for named in (*state.outputs.values(), *state.arrivals.values()):
        values += named.values()
    for one in state.maps.values():
        values += [one.items, *one.results.values()]
    found = [value.text for value in values if isinstance(value, Reference)]
    found += [text for answer in state.answers.values() if (text := answer.get("stored_result"))]
    return list(dict.fromkeys(found))


def _texts(scoped: Mapping[str, Mapping[str, Any]]) -> dict[str, dict[str, str]]:
    return {place: {name: stored_text(value) for name, value in values.items()} for place, values in scoped.items()}


def _values(scoped: Mapping[str, Mapping[str, str]]) -> dict[str, dict[str, Any]]:
    return {place: {name: stored_value(text) for name, text in texts.items()} for place, texts in scoped.items()}


def _map(one: MapState) -> dict[str, Any]:
    results = {str(index): stored_text(value) for index, value in one.results.items()}
    return {"total": one.total, "items": stored_text(one.items), "cursor": one.cursor, "results": results}


def _read_map(known: Mapping[str, Any]) -> MapState:
    results: Iterable[tuple[str, str]] = known["results"].items()
    return MapState(
        known["total"],
        stored_value(known["items"]),
        known["cursor"],
        {int(index): stored_value(text) for index, text in results},
    )
