"""Values of recorded runs: JSON, or a large one by the name of its artifact until something has to read it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import orjson

from schemas.values import ARTIFACT, ValueTooLarge, encode_value


@dataclass(frozen=True, slots=True)
class Large:
    """A value by the stored text that stands for it: `artifact://sha256-<hex>`."""

    text: str

    @property
    def name(self) -> str:
        return self.text.removeprefix(ARTIFACT)


class NotLoaded(Exception):
    """An artifact has to be read before the run can be played further. `name` is `sha256-<hex>`."""

    def __init__(self, name: str) -> None:
        super().__init__(name)
        self.name = name


class ArtifactGone(Exception):
    """An artifact that nobody has any more."""


class NoArtifact:
    """Stands for one among those that were loaded."""


def resolve(value: Any, loaded: Mapping[str, Any]) -> Any:
    """The value itself. Raises NotLoaded, and ArtifactGone."""
    if not isinstance(value, Large):
        return value
    if value.name not in loaded:
        raise NotLoaded(value.name)
    found = loaded[value.name]
    if isinstance(found, NoArtifact):
        raise ArtifactGone(value.name)
    return found


def same(one: Any, other: Any) -> bool:
    """Whether two values are the same JSON, as a template would show them: `1`, `1.0` and `true` are three."""
    if one is other:
        return True
    if isinstance(one, Large) or isinstance(other, Large):
        return _text(one) == _text(other)
    return bool(one == other) and orjson.dumps(one) == orjson.dumps(other)


def same_in_any_order(one: Any, other: Any) -> bool:
    """As `same`, for outputs: an object's members have no order."""
    if isinstance(one, Large) or isinstance(other, Large):
        return _text(one) == _text(other)
    option = orjson.OPT_SORT_KEYS
    return one is other or (
        bool(one == other) and orjson.dumps(one, option=option) == orjson.dumps(other, option=option)
    )


def _text(value: Any) -> str:
    if isinstance(value, Large):
        return value.text
    try:
        return encode_value(value)[0]
    except ValueTooLarge:
        return ""
