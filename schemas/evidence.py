"""Evidence: what a decision rested on, small enough to lie in its event. Pure.

A decision in `node_completed` then says by itself why it went where it went: the texts of its conditions, which of them
were false, and the values that they read.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from functools import lru_cache
from json import dumps
from typing import Any

from schemas.conditions.condition import Condition
from schemas.expressions.references import Path

VALUE_BYTES = 200
"""Of a value's JSON; what is longer is cut to a preview of as many characters."""
PATHS = 20
"""Of one decision, in the order of its conditions."""
TEXT_CHARS = 200
"""Of a condition's text."""
CONDITIONS = 20
"""That one decision names."""

_PLAIN = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_NOTHING = object()
_SCALARS = (int, float, bool, type(None))


def read_values(conditions: Iterable[Condition], variables: Mapping[str, Any]) -> dict[str, Any]:
    """What the conditions read of `variables`, as fields of a decision; those that are empty are left out.

    values: {path: JSON value}. cut: {path: beginning of its JSON}, of values over VALUE_BYTES. absent: paths where
    there is nothing.
    """
    values: dict[str, Any] = {}
    cut: dict[str, str] = {}
    absent: list[str] = []
    known: set[str] = set()
    for condition in conditions:
        for name, path in _paths(condition):
            if name in known or len(known) == PATHS:
                continue
            known.add(name)
            value = _look_up(path, variables)
            if value is _NOTHING:
                absent.append(name)
            elif isinstance(value, _SCALARS) or (preview := _preview(value)) is None:
                values[name] = value
            else:
                cut[name] = preview
    fields = {"values": values, "cut": cut, "absent": absent}
    return {name: found for name, found in fields.items() if found}


def short(text: str) -> str:
    """The text of a condition, or its beginning."""
    return text if len(text) <= TEXT_CHARS else text[: TEXT_CHARS - 1] + "…"


def short_texts(conditions: Iterable[Condition]) -> list[str]:
    """The texts of the first CONDITIONS."""
    return [short(condition.text) for condition, _ in zip(conditions, range(CONDITIONS), strict=False)]


@lru_cache(maxsize=4_096)
def _paths(condition: Condition) -> tuple[tuple[str, Path], ...]:
    """What is read, as it is written and as it is looked up. The whole of something else that is read is left out:
    `ctx`, where `ctx.a.output` is too."""
    every = condition.references.paths | condition.references.optional_paths
    ends = [path for path in every if not any(len(other) > len(path) and other[: len(path)] == path for other in every)]
    return tuple((_written(path), path) for path in sorted(ends) if path != ("ctx",))[:PATHS]


def _written(path: Path) -> str:
    head, *fields = path
    return short(head + "".join(f".{name}" if _PLAIN.fullmatch(name) else f"[{dumps(name)}]" for name in fields))


def _look_up(path: Path, variables: Mapping[str, Any]) -> Any:
    value: Any = variables
    for name in path:
        if not isinstance(value, Mapping) or name not in value:
            return _NOTHING
        value = value[name]
    return value


def _preview(value: Any) -> str | None:
    """The beginning of a value's JSON; None if it is short enough to be kept whole. Reads no further than it shows."""
    text, size = "", 0
    for part in _parts(value):
        text += part
        size += len(part) if part.isascii() else len(part.encode("utf-8", "replace"))
        if size > VALUE_BYTES:
            return text[: VALUE_BYTES - 1] + "…"
    return None


def _parts(value: Any) -> Iterator[str]:
    """The JSON of a value, piece by piece; of a long text only the beginning."""
    if isinstance(value, str):
        yield dumps(value[: VALUE_BYTES + 1], ensure_ascii=False)
    elif isinstance(value, Mapping):
        before = "{"
        for name, inner in value.items():
            yield f"{before}{dumps(str(name)[: VALUE_BYTES + 1], ensure_ascii=False)}: "
            yield from _parts(inner)
            before = ", "
        yield "}" if value else "{}"
    elif isinstance(value, list | tuple):
        before = "["
        for inner in value:
            yield before
            yield from _parts(inner)
            before = ", "
        yield "]" if value else "[]"
    else:
        yield dumps(value, default=str)
