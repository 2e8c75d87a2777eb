"""JSON Schemas inside a workflow: which are accepted, and how values are checked against them.

Accepted are self-contained schemas (every `$ref` is `#` or `#/...`) whose patterns RE2 can run; so that checking a
model's answer fetches nothing, always ends, and takes time linear in the answer.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, cast

import re2
import referencing
from jsonschema import Draft7Validator, Draft201909Validator, Draft202012Validator, ValidationError
from jsonschema.protocols import Validator
from jsonschema.validators import extend

from schemas.errors import Problem, pointer

_NEWEST = "https://json-schema.org/draft/2020-12/schema"
_DIALECTS: Mapping[str, type[Validator]] = {
    _NEWEST: Draft202012Validator,
    "https://json-schema.org/draft/2019-09/schema": Draft201909Validator,
    "http://json-schema.org/draft-07/schema#": Draft7Validator,
    "http://json-schema.org/draft-07/schema": Draft7Validator,
}
_MAPS = ("properties", "$defs", "definitions", "dependentSchemas", "dependencies")
_LISTS = ("allOf", "anyOf", "oneOf", "prefixItems")
_SINGLE = (
    *("items", "additionalItems", "unevaluatedItems", "contains", "additionalProperties", "unevaluatedProperties"),
    *("propertyNames", "not", "if", "then", "else", "contentSchema"),
)
_IN_PLACE = (*_LISTS[:3], "not", "if", "then", "else", "dependentSchemas", "dependencies")
"""Keywords whose subschemas look at the same value as the schema that holds them."""
_UNSUPPORTED = {
    "patternProperties": "name the fields in `properties`",
    "$dynamicRef": "use `$ref`",
    "$recursiveRef": "use `$ref`",
    "$id": "the schema is part of this document; refer to its parts as `#/...`",
}
_MAX_REFERENCES = 50_000  # followed for one value; a second or two
_SHOWN = 5  # of the faults that the metaschema finds in one schema


def schema_problems(schema: Any, path: str) -> list[Problem]:
    """What is wrong with a JSON Schema that stands at `path`."""
    if not isinstance(schema, Mapping):
        return [Problem(path, "wrong-type", "A JSON Schema must be an object.")]
    validator = dialect(schema)
    if validator is None:
        known = ", ".join(f"`{uri}`" for uri in _DIALECTS)
        return [Problem(path + "/$schema", "bad-schema", f"`$schema` must be one of {known}, or left out.")]
    faults = []
    for error in validator(validator.META_SCHEMA, registry=_REGISTRY).iter_errors(schema):
        faults.append(Problem(path + pointer(*error.absolute_path), "bad-schema", f"{_shorten(error.message)}."))
        if len(faults) == _SHOWN:
            break
    return faults or [*_own_rules(schema, path)]


def schema_validator(schema: Mapping[str, Any]) -> Validator:
    """A validator for an accepted schema; of its interface it has `iter_errors` and `is_valid`.

    It fetches nothing, its patterns run in linear time, and a value for which the schema's references multiply
    beyond a bound is in error.
    """
    return cast(Validator, _BoundedValidator(schema))


class _BoundedValidator:
    """References alone can make the work grow exponentially: with the depth of the schema, or of the value."""

    def __init__(self, schema: Mapping[str, Any]) -> None:
        base = dialect(schema) or Draft202012Validator
        self._follow = base.VALIDATORS["$ref"]
        keywords = {"pattern": _pattern, "$ref": self._reference}
        bounded: type[Validator] = extend(base, keywords)  # type: ignore[no-untyped-call]
        # Without `$schema`, which would make `$ref: "#"` go on with the dialect's own keywords.
        self._validator = bounded({key: value for key, value in schema.items() if key != "$schema"}, registry=_REGISTRY)
        self._left = 0

    def iter_errors(self, instance: Any) -> Iterator[ValidationError]:
        self._left = _MAX_REFERENCES
        try:
            yield from self._validator.iter_errors(instance)
        except (_TooManyReferencesError, RecursionError):
            yield ValidationError("the references of the schema multiply: this value takes too long to check")

    def is_valid(self, instance: Any) -> bool:
        return next(self.iter_errors(instance), None) is None

    def _reference(
        self, validator: Validator, reference: str, instance: Any, schema: Mapping[str, Any]
    ) -> Iterator[ValidationError]:
        self._left -= 1
        if self._left < 0:
            raise _TooManyReferencesError
        yield from self._follow(validator, reference, instance, schema)


class _TooManyReferencesError(Exception):
    pass


def resolve(root: Mapping[str, Any], reference: str) -> Any:
    """What `#` or `#/...` names in `root`; None when it names nothing."""
    if reference == "#":
        return root
    if not reference.startswith("#/"):
        return None
    found: Any = root
    for step in reference[2:].split("/"):
        name = step.replace("~1", "/").replace("~0", "~")
        if isinstance(found, Mapping):
            found = found.get(name)
        elif isinstance(found, list) and name.isdecimal() and int(name) < len(found):
            found = found[int(name)]
        else:
            return None
    return found


def dialect(schema: Mapping[str, Any]) -> type[Validator] | None:
    """The library's validator of the draft that `$schema` names, the newest by default; None for another."""
    uri = schema.get("$schema", _NEWEST)
    return _DIALECTS.get(uri) if isinstance(uri, str) else None


def _own_rules(schema: Mapping[str, Any], path: str) -> Iterator[Problem]:
    broken = False
    known = {id(part) for _, part in subschemas(schema)}
    for steps, part in subschemas(schema):
        here = path + pointer(*steps)
        if steps and "$schema" in part:
            yield Problem(f"{here}/$schema", "bad-schema", "`$schema` may stand at the top of a schema only.")
        for keyword, instead in _UNSUPPORTED.items():
            if keyword in part:
                yield Problem(f"{here}/{keyword}", "bad-schema", f"`{keyword}` is not supported: {instead}.")
        if "pattern" in part and (fault := _pattern_fault(part["pattern"])):
            yield Problem(f"{here}/pattern", "bad-schema", f"The pattern is not one that RE2 can run: {fault}.")
        target = resolve(schema, part["$ref"]) if "$ref" in part else True
        if not isinstance(target, bool) and id(target) not in known:
            broken = True
            message = f"`$ref` must name a part of this schema (`#/...`), and `{_shorten(part['$ref'])}` does not."
            yield Problem(f"{here}/$ref", "bad-schema", message)
    endless = None if broken else _endless(schema)
    if endless is not None:
        message = "This `$ref` leads back to itself without going into the value, so that checking never ends."
        yield Problem(path + pointer(*endless), "bad-schema", message)


def subschemas(schema: Mapping[str, Any]) -> Iterator[tuple[tuple[str | int, ...], Mapping[str, Any]]]:
    """The schema and all of its subschemas that are objects, each with the steps that lead to it."""
    todo: list[tuple[tuple[str | int, ...], Any]] = [((), schema)]
    while todo:
        steps, part = todo.pop()
        if isinstance(part, Mapping):
            yield steps, part
            todo += [((*steps, *more), inner) for more, inner in _inner(part, (*_MAPS, *_LISTS, *_SINGLE))]


def _inner(part: Mapping[str, Any], keywords: tuple[str, ...]) -> Iterator[tuple[tuple[str | int, ...], Any]]:
    for keyword in keywords:
        held = part.get(keyword)
        if isinstance(held, list):
            yield from (((keyword, position), inner) for position, inner in enumerate(held))
        elif keyword in _MAPS and isinstance(held, Mapping):
            yield from (((keyword, name), inner) for name, inner in held.items())
        elif isinstance(held, Mapping):
            yield (keyword,), held


def _endless(schema: Mapping[str, Any]) -> tuple[str | int, ...] | None:
    """Where a cycle of references starts that looks at one value for ever; None when there is none."""
    done: set[int] = set()
    for steps, part in subschemas(schema):
        open_parts: list[int] = []
        todo: list[Mapping[str, Any] | None] = [part]
        while todo:  # depth first; None marks the end of the innermost open part
            current = todo.pop()
            if current is None:
                done.add(open_parts.pop())
            elif id(current) in open_parts:
                return steps
            elif id(current) not in done:
                open_parts.append(id(current))
                todo.append(None)
                todo += [inner for _, inner in _inner(current, _IN_PLACE) if isinstance(inner, Mapping)]
                target = resolve(schema, current["$ref"]) if "$ref" in current else None
                todo += [target] if isinstance(target, Mapping) else []
    return None


def _pattern(validator: Validator, pattern: str, instance: Any, schema: Mapping[str, Any]) -> Iterator[ValidationError]:
    if validator.is_type(instance, "string") and not re2.search(pattern, instance):
        yield ValidationError(f"the text does not match {pattern!r}")


def _pattern_fault(pattern: str) -> str | None:
    options = re2.Options()
    options.log_errors = False
    try:
        re2.compile(pattern, options)
    except re2.error as error:
        reason = error.args[0] if error.args else "invalid"
        return _shorten(reason.decode(errors="replace") if isinstance(reason, bytes) else str(reason))
    return None


def _shorten(text: str) -> str:
    return text if len(text) <= 160 else text[:157] + "..."


_REGISTRY: referencing.Registry[Any] = referencing.Registry()
