"""What the simulated models answer: deterministic in (model, prompt, schema), and satisfying the schema.

Understood of JSON Schema: type, enum, const, properties, required, additionalProperties, minProperties,
maxProperties, items, prefixItems, minItems, maxItems, uniqueItems, the bounds of numbers and strings,
multipleOf, pattern, the common formats, anyOf, oneOf, allOf, and `$ref` within the document. A schema that
nothing satisfies gets an answer that does not satisfy it: what a real model would do, too.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import random
import re
from collections.abc import Mapping
from typing import Any

from agent_runner.engines.simulated.numbers import number
from agent_runner.engines.simulated.prose import Prose
from agent_runner.engines.simulated.strings import string, whole

MAX_VALUES = 10_000  # in one answer: no schema can ask for more work than this
DEEP = 6  # from here on only what is required, so that a recursive schema ends
DEEPEST = 64  # from here on null

Schema = Mapping[str, Any] | bool

_COMBINING = ("$ref", "allOf", "anyOf", "oneOf")
_GUESSES = {
    "object": ("properties", "required", "additionalProperties", "minProperties"),
    "array": ("items", "prefixItems", "minItems", "maxItems"),
    "string": ("minLength", "maxLength", "pattern", "format"),
    "number": ("minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "multipleOf"),
}


def draw_for(*parts: str) -> random.Random:
    """A random stream of its own for these texts, the same on every machine."""
    digest = hashlib.blake2b("\0".join(parts).encode("utf-8", "surrogatepass"), digest_size=16).digest()
    return random.Random(int.from_bytes(digest, "big"))


def answer(model: str, prompt: str, schema: Mapping[str, Any] | str | None, seed: str = "") -> str:
    """The text that `model` answers. `schema` is Ollama's `format`: None for prose, "json", a JSON Schema."""
    asked = json.dumps(schema, sort_keys=True)
    composer = Composer(draw_for(model, prompt, asked, seed), Prose(prompt), schema)
    if schema is None:
        return composer.prose.sentences(composer.draw, 3)
    if isinstance(schema, str):
        return json.dumps({"answer": composer.prose.sentences(composer.draw, 1)}, ensure_ascii=False)
    return json.dumps(composer.value(schema, "answer", 0), ensure_ascii=False)


class Composer:
    """Builds one value for a schema."""

    def __init__(self, draw: random.Random, prose: Prose, root: object) -> None:
        self.draw = draw
        self.prose = prose
        self._root = root
        self._left = MAX_VALUES

    def value(self, schema: Schema, name: str, depth: int) -> Any:
        """A value for `schema`, in the field `name`."""
        self._left -= 1
        if self._left < 0 or depth > DEEPEST:
            return None
        if not isinstance(schema, Mapping):
            return string({}, name, self.draw, self.prose)
        schema = self._resolve(schema)
        if "const" in schema:
            return schema["const"]
        kind = self._kind(schema)
        if isinstance(options := schema.get("enum"), list) and options:
            return self.draw.choice([option for option in options if _is(option, kind)] or options)
        match kind:
            case "object":
                return self._object(schema, depth)
            case "array":
                return self._array(schema, name, depth)
            case "integer" | "number":
                return number(schema, kind, name, self.draw, self.prose)
            case "boolean":
                return self.draw.random() < 0.6
            case "null":
                return None
            case _:
                return string(schema, name, self.draw, self.prose)

    def _resolve(self, schema: Mapping[str, Any]) -> Mapping[str, Any]:
        """The schema with references followed, allOf merged in, and one branch of anyOf and oneOf taken."""
        for _ in range(DEEP):
            rest = {key: value for key, value in schema.items() if key not in _COMBINING}
            parts: list[object] = []
            if "$ref" in schema:
                parts.append(self._target(schema["$ref"]))
            parts += _list(schema.get("allOf"))
            for key in ("anyOf", "oneOf"):
                if branches := _list(schema.get(key)):
                    parts.append(self.draw.choice(branches))
            if not parts:
                return schema
            for part in parts:
                if isinstance(part, Mapping):
                    rest = _merge(rest, part)
            schema = rest
        return schema

    def _target(self, reference: object) -> object:
        """What a reference within the document (`#/$defs/x`) points at; the schema of anything if nowhere."""
        found: Any = self._root
        for step in str(reference).removeprefix("#").split("/")[1:]:
            step = step.replace("~1", "/").replace("~0", "~")
            if not isinstance(found, Mapping) or step not in found:
                return {}
            found = found[step]
        return found

    def _kind(self, schema: Mapping[str, Any]) -> str | None:
        kind = schema.get("type")
        if isinstance(kind, list) and kind:
            kind = self.draw.choice([one for one in kind if one != "null"] or kind)
        if isinstance(kind, str):
            return kind
        return next((guess for guess, keys in _GUESSES.items() if any(key in schema for key in keys)), None)

    def _object(self, schema: Mapping[str, Any], depth: int) -> dict[str, Any]:
        properties = schema.get("properties")
        known = properties if isinstance(properties, Mapping) else {}
        required = [key for key in _list(schema.get("required")) if isinstance(key, str)]
        others: Schema = schema.get("additionalProperties", True)
        names = list(dict.fromkeys([*required, *([] if depth >= DEEP else known)]))
        least = whole(schema.get("minProperties"), 0, MAX_VALUES)
        most = whole(schema.get("maxProperties"), MAX_VALUES, MAX_VALUES)
        names = names[: max(most, len(set(required)))]
        if others is not False:
            fresh = (name for n in itertools.count(1) if (name := f"field_{n}") not in known)
            names += itertools.islice(fresh, max(0, least - len(names)))
        elif len(names) < least:
            names += [name for name in known if name not in names][: least - len(names)]
        return {name: self.value(known.get(name, others), name, depth + 1) for name in names}

    def _array(self, schema: Mapping[str, Any], name: str, depth: int) -> list[Any]:
        items = schema.get("items", True)  # a list of schemas in older drafts
        first = _list(items) or _list(schema.get("prefixItems"))
        rest: Schema = schema.get("additionalItems", True) if isinstance(items, list) else items
        least = whole(schema.get("minItems"), 0, MAX_VALUES)
        most = whole(schema.get("maxItems"), MAX_VALUES, MAX_VALUES)
        usual = len(first) + (0 if depth >= DEEP or rest is False else self.draw.randint(1, 3))
        count = min(max(usual, least), max(most, least))
        found: list[Any] = []
        for place in range(count):
            one = first[place] if place < len(first) else rest
            value = self.value(one, name, depth + 1)
            if schema.get("uniqueItems") is True:
                if not (fresh := self._unlike(found, value, one, name, depth)):
                    break
                value = fresh[0]
            found.append(value)
        return found

    def _unlike(self, found: list[Any], value: Any, schema: Schema, name: str, depth: int) -> list[Any]:
        """[a value that `found` does not hold yet], or [] when a few draws bring none."""
        known = {json.dumps(one, sort_keys=True) for one in found}
        for _ in range(40):
            if json.dumps(value, sort_keys=True) not in known:
                return [value]
            value = self.value(schema, name, depth + 1)
        return []


def _list(value: object) -> list[Any]:
    return value if isinstance(value, list) else []


def _merge(one: Mapping[str, Any], other: Mapping[str, Any]) -> dict[str, Any]:
    """What satisfies both schemas, for the keywords where that is simple; else the second's."""
    merged = {**one, **other}
    for key in one.keys() & other.keys():
        a, b = one[key], other[key]
        if key == "required":
            merged[key] = [*a, *b]
        elif key == "properties":
            merged[key] = {**a, **{name: _both(a[name], s) if name in a else s for name, s in b.items()}}
        elif key == "enum":
            merged[key] = [option for option in a if option in b]
        elif re.match(r"min|exclusiveMin", key):
            merged[key] = max(a, b)
        elif re.match(r"max|exclusiveMax", key):
            merged[key] = min(a, b)
    return merged


def _both(one: object, other: object) -> object:
    return _merge(one, other) if isinstance(one, Mapping) and isinstance(other, Mapping) else other


def _is(value: object, kind: str | None) -> bool:
    """Whether a value is of a JSON Schema type."""
    match kind:
        case "object":
            return isinstance(value, dict)
        case "array":
            return isinstance(value, list)
        case "string":
            return isinstance(value, str)
        case "boolean":
            return isinstance(value, bool)
        case "null":
            return value is None
        case "integer":
            return _is(value, "number") and float(value).is_integer()  # type: ignore[arg-type]
        case "number":
            return isinstance(value, int | float) and not isinstance(value, bool)
        case _:
            return True
