"""What a JSON Schema says about a path of fields: whether a value that fits the schema can have it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from enum import IntEnum
from typing import Any

from schemas.compiler.json_schema import resolve

Steps = tuple[str, ...]
MAX_STEPS = 64  # of JSON nesting: no value has more
_MAX_DEPTH = 100  # of subschemas and references, one in the other


class Verdict(IntEnum):
    """Ordered by how sure a reader can be of the field."""

    RULED_OUT = 0  # no value that fits has it
    UNDECLARED = 1  # it is not among the declared fields, and others are allowed
    OPEN = 2  # nothing is said
    DECLARED = 3


@dataclass(frozen=True, slots=True)
class Finding:
    """`known` are the fields that there are instead of the one that is missing."""

    verdict: Verdict
    missing: str = ""
    known: tuple[str, ...] = ()


OPEN = Finding(Verdict.OPEN)
DECLARED = Finding(Verdict.DECLARED)


def either(findings: Iterable[Finding]) -> Finding:
    """Of several values one is there: the surest finding."""
    return max(findings, key=lambda finding: finding.verdict, default=OPEN)


def find_in_object(known: Iterable[str], steps: Steps) -> Finding:
    """In an object that has just the `known` fields, about whose values nothing is said."""
    names = tuple(known)
    if not steps or steps[0] in names:
        return OPEN
    return Finding(Verdict.RULED_OUT, steps[0], names)


def find_in_schema(root: Any, steps: Steps) -> Finding:
    """In a value that fits the accepted JSON Schema `root` (json_schema.py)."""
    return _Search(root).find(root, steps[:MAX_STEPS])


class _Search:
    def __init__(self, root: Any) -> None:
        self._root = root
        self._known: dict[tuple[int, int], Finding] = {}
        self._depth = 0

    def find(self, schema: Any, steps: Steps) -> Finding:
        if not steps:
            return OPEN
        if schema is False:
            return Finding(Verdict.RULED_OUT, steps[0])
        if not isinstance(schema, Mapping):
            return OPEN
        key = (id(schema), len(steps))
        if key not in self._known:
            if self._depth == _MAX_DEPTH:
                return OPEN
            self._depth += 1
            self._known[key] = _all_of(self._findings(schema, steps))
            self._depth -= 1
        return self._known[key]

    def _findings(self, schema: Mapping[str, Any], steps: Steps) -> Iterator[Finding]:
        yield self._own(schema, steps)
        if "$ref" in schema:
            yield self.find(resolve(self._root, schema["$ref"]), steps)
        for part in schema.get("allOf", ()):
            yield self.find(part, steps)
        for keyword in ("anyOf", "oneOf"):
            if schema.get(keyword):
                yield either(self.find(part, steps) for part in schema[keyword])
        if any(keyword in schema for keyword in ("if", "dependentSchemas", "dependencies")):
            yield OPEN  # more fields may be declared there

    def _own(self, schema: Mapping[str, Any], steps: Steps) -> Finding:
        types = schema.get("type", "object")
        if "object" not in ([types] if isinstance(types, str) else types):
            return Finding(Verdict.RULED_OUT, steps[0])
        declared = schema.get("properties", {})
        others = schema.get("additionalProperties", True)
        if steps[0] in declared:
            inner = self.find(declared[steps[0]], steps[1:])
            return DECLARED if inner.verdict == Verdict.OPEN else inner
        if others is False:
            return Finding(Verdict.RULED_OUT, steps[0], tuple(declared))
        if isinstance(others, Mapping):
            return self.find(others, steps[1:])
        return Finding(Verdict.UNDECLARED, steps[0], tuple(declared)) if declared else OPEN


def _all_of(findings: Iterable[Finding]) -> Finding:
    """All hold for one value: what one rules out is ruled out; else the surest."""
    seen = list(findings)
    return next((finding for finding in seen if finding.verdict == Verdict.RULED_OUT), None) or either(seen)
