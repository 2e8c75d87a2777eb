"""Workflow documents as text: JSON or YAML -> one JSON object, bounded, with the place of what is wrong."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, NoReturn

import yaml

from schemas.errors import InvalidDocument, Problem, pointer
from schemas.limits import LIMITS, Limits

Media = Literal["json", "yaml"]

_Loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
_INTEGERS = range(-(2**63), 2**64)  # what JSON readers keep exactly, ours among them
_MAX_VALUES = 500_000  # of a document; a YAML alias counts as often as it is used


def read_workflow(text: str | bytes, media: Media, limits: Limits = LIMITS) -> dict[str, Any]:
    """The document that a text holds: an object of plain JSON values. Raises InvalidDocument, naming line and column.

    Refused are texts over `workflow_bytes` or nested deeper than `json_depth`, keys that occur twice, NaN and
    Infinity. YAML is read by the core schema of YAML 1.2 (`no` and `on` are strings), with anchors and aliases.
    """
    document = read_text(text, media, limits)
    problems = json_problems(document, limits)
    if problems:
        raise InvalidDocument(problems)
    assert isinstance(document, dict)  # json_problems says otherwise
    return document


def read_text(text: str | bytes, media: Media, limits: Limits = LIMITS) -> Any:
    """The value that a text holds, whatever it is: `json_problems` looks at what is in it. Raises InvalidDocument."""
    size = len(text.encode(errors="replace") if isinstance(text, str) else text)
    if size > limits.workflow_bytes:
        _refuse("too-large", f"The document has {size} bytes; the limit workflow_bytes is {limits.workflow_bytes}.")
    try:
        plain = text.decode("utf-8-sig") if isinstance(text, bytes) else text.removeprefix("\ufeff")
    except UnicodeDecodeError as error:
        _refuse("not-utf-8", f"The document is not UTF-8: byte {error.start + 1} is wrong.")
    return _read_yaml(plain, limits) if media == "yaml" else _read_json(plain)


def json_problems(document: Any, limits: Limits = LIMITS) -> list[Problem]:
    """Why a value is no JSON object within the limits; empty if it is one. Stops at the first few problems."""
    if not isinstance(document, Mapping):
        return [Problem("", "wrong-type", "A workflow must be an object.")]
    problems = []
    for problem in _walk(document, limits):
        problems.append(problem)
        if len(problems) == 20:
            break
    return problems


def _walk(document: Any, limits: Limits) -> Iterator[Problem]:
    size = count = 0
    todo: list[tuple[Any, tuple[str | int, ...]]] = [(document, ())]
    while todo:
        value, steps = todo.pop()
        count += 1
        size += 1
        if size > limits.workflow_bytes or count > _MAX_VALUES:
            limit = f"the limit workflow_bytes is {limits.workflow_bytes}"
            yield Problem("", "too-large", f"The document is too large: {limit}, and it may hold {_MAX_VALUES} values.")
            return
        if len(steps) > limits.json_depth:
            message = f"The document is nested too deep: the limit json_depth is {limits.json_depth}."
            yield Problem(pointer(*steps[: limits.json_depth]), "too-deep", message)
        elif isinstance(value, Mapping):
            for key, item in value.items():
                if isinstance(key, str) and not _text_fault(key):
                    size += len(key)
                    todo.append((item, (*steps, key)))
                else:
                    message = "The keys of an object must be strings of Unicode characters other than U+0000."
                    yield Problem(pointer(*steps), "bad-key", message)
        elif isinstance(value, list | tuple):
            todo += [(item, (*steps, position)) for position, item in enumerate(value)]
        elif isinstance(value, str):
            size += len(value)
            if fault := _text_fault(value):
                yield Problem(pointer(*steps), "bad-text", fault)
        elif fault := _scalar_fault(value):
            yield Problem(pointer(*steps), "not-json", fault)


def _text_fault(text: str) -> str | None:
    if "\0" in text:
        return "The text holds the character U+0000, which no database keeps."
    return None if text.isascii() or not _SURROGATES.search(text) else "The text holds half of a surrogate pair."


def _scalar_fault(value: Any) -> str | None:
    if value is None or isinstance(value, bool):
        return None
    if isinstance(value, int):
        return None if value in _INTEGERS else "The integer has more than 64 bits."
    if isinstance(value, float):
        return None if math.isfinite(value) else "NaN and Infinity are not JSON."
    return f"A value of type {type(value).__name__} is not JSON."


_SURROGATES = re.compile("[\ud800-\udfff]")


def _refuse(code: str, message: str) -> NoReturn:
    raise InvalidDocument([Problem("", code, message)])


# -- JSON --------------------------------------------------------------------------------------------


def _read_json(text: str) -> Any:
    try:
        return json.loads(text, object_pairs_hook=_object, parse_constant=_constant)
    except json.JSONDecodeError as error:
        _refuse("not-json", f"Line {error.lineno}, column {error.colno}: {error.msg[0].lower()}{error.msg[1:]}.")
    except RecursionError:
        _refuse("too-deep", "The document is nested too deep.")
    except ValueError as error:
        if isinstance(error, InvalidDocument):
            raise
        _refuse("not-json", "A number in the document has too many digits.")


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        seen: set[str] = set()
        twice = next(key for key, _ in pairs if key in seen or seen.add(key))  # type: ignore[func-returns-value]
        _refuse("duplicate-key", f"The key `{twice[:128]}` stands twice in one object.")
    return found


def _constant(name: str) -> NoReturn:
    _refuse("not-json", f"{name} is not JSON.")


# -- YAML --------------------------------------------------------------------------------------------

_NULL = re.compile(r"~|null|Null|NULL|")
_TRUE = re.compile(r"true|True|TRUE")
_FALSE = re.compile(r"false|False|FALSE")
_INTEGER = re.compile(r"[-+]?[0-9]{1,40}")
_OTHER_BASE = re.compile(r"0o[0-7]{1,40}|0x[0-9a-fA-F]{1,40}")
_FLOAT = re.compile(r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?")
_NOT_FINITE = re.compile(r"[-+]?(\.inf|\.Inf|\.INF)|\.nan|\.NaN|\.NAN")
_STRING_TAGS = ("!", "tag:yaml.org,2002:str")
_PLAIN_TAGS = (None, *(f"tag:yaml.org,2002:{name}" for name in ("null", "bool", "int", "float")))


def _read_yaml(text: str, limits: Limits) -> Any:
    """Builds the document from the parser's events: nothing recurses, no tag makes an object, aliases are counted."""
    builder = _Builder(limits.json_depth)
    try:
        for event in yaml.parse(text, Loader=_Loader):
            builder.take(event)
    except yaml.MarkedYAMLError as error:
        problem = " ".join(filter(None, (error.context, error.problem))) or "this is not YAML"
        builder.refuse(error.problem_mark or error.context_mark, "not-yaml", problem)
    except yaml.YAMLError as error:  # characters that YAML does not allow
        _refuse("not-yaml", f"The document is not YAML: {str(error).splitlines()[0]}.")
    return builder.document


@dataclass(slots=True)
class _Open:
    """A collection whose end has not come yet."""

    value: dict[str, Any] | list[Any]
    anchor: str | None
    weight: int = 1
    key: str | None = None  # mappings: the key whose value comes next


@dataclass(slots=True)
class _Builder:
    depth: int
    document: Any = None
    stack: list[_Open] = field(default_factory=list)
    anchors: dict[str, tuple[Any, int]] = field(default_factory=dict)  # value and how many values it holds
    documents: int = 0

    def take(self, event: Any) -> None:
        match event:
            case yaml.DocumentStartEvent():
                self.documents += 1
                if self.documents > 1:
                    self.refuse(event.start_mark, "not-yaml", "a second document starts here")
            case yaml.MappingStartEvent() | yaml.SequenceStartEvent():
                kind = "map" if isinstance(event, yaml.MappingStartEvent) else "seq"
                if event.tag not in (None, "!", f"tag:yaml.org,2002:{kind}"):
                    self.refuse(event.start_mark, "not-yaml", f"the tag {event.tag[:64]} is not allowed")
                if len(self.stack) > self.depth:
                    self.refuse(event.start_mark, "too-deep", f"nested too deep; the limit json_depth is {self.depth}")
                self._key_must_be_text(event)
                self.stack.append(_Open({} if kind == "map" else [], event.anchor))
            case yaml.MappingEndEvent() | yaml.SequenceEndEvent():
                done = self.stack.pop()
                self._add(event, done.value, done.weight, done.anchor)
            case yaml.ScalarEvent():
                self._add(event, self._scalar(event), 1, event.anchor)
            case yaml.AliasEvent():
                name = str(event.anchor)
                if name not in self.anchors:
                    self.refuse(event.start_mark, "not-yaml", f"the value of *{name[:64]} is not complete here")
                self._add(event, *self.anchors[name], None)

    def _add(self, event: Any, value: Any, weight: int, anchor: str | None) -> None:
        if anchor:
            self.anchors[anchor] = value, weight
        if not self.stack:
            self.document = value
            return
        top = self.stack[-1]
        top.weight += weight
        if top.weight > _MAX_VALUES:
            self.refuse(event.start_mark, "too-large", f"with its aliases the document has over {_MAX_VALUES} values")
        if isinstance(top.value, list):
            top.value.append(value)
        elif top.key is None:
            if not isinstance(value, str):
                self.refuse(event.start_mark, "not-yaml", "a key must be a string; quote it")
            if value in top.value:
                self.refuse(event.start_mark, "duplicate-key", f"the key `{value[:128]}` stands twice in one mapping")
            top.key = value
        else:
            top.value[top.key] = value
            top.key = None

    def _key_must_be_text(self, event: Any) -> None:
        if self.stack and isinstance(self.stack[-1].value, dict) and self.stack[-1].key is None:
            self.refuse(event.start_mark, "not-yaml", "a key must be a string")

    def _scalar(self, event: Any) -> Any:
        """A plain scalar by the core schema of YAML 1.2, section 10.3; any other is a string."""
        text: str = event.value
        if event.tag in _STRING_TAGS or (event.tag is None and not event.implicit[0]):
            return text
        if event.tag not in _PLAIN_TAGS:
            self.refuse(event.start_mark, "not-yaml", f"the tag {event.tag[:64]} is not allowed")
        if _NULL.fullmatch(text):
            return None
        if _TRUE.fullmatch(text) or _FALSE.fullmatch(text):
            return text[0] in "tT"
        if _INTEGER.fullmatch(text):
            return int(text)
        if _OTHER_BASE.fullmatch(text):
            return int(text[2:], 8 if text[1] == "o" else 16)
        if _NOT_FINITE.fullmatch(text) or (_FLOAT.fullmatch(text) and not math.isfinite(float(text))):
            self.refuse(event.start_mark, "not-json", f"{text[:40]} is not JSON")
        return float(text) if _FLOAT.fullmatch(text) else text

    def refuse(self, mark: Any, code: str, problem: str) -> NoReturn:
        where = f"Line {mark.line + 1}, column {mark.column + 1}: " if mark else ""
        _refuse(code, f"{where}{problem}.")
