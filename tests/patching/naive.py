"""RFC 6902 once more, small and naive, as the judge of random patches. It imports nothing of the product."""

from __future__ import annotations

import copy
import json
from typing import Any


class Failed(Exception):
    pass


def patched(document: Any, operations: list[dict[str, Any]]) -> Any:
    for operation in operations:
        document = applied(document, operation)
    return document


def applied(document: Any, operation: dict[str, Any]) -> Any:
    document, kind, path = copy.deepcopy(document), operation["op"], operation["path"]
    if kind == "add":
        return _added(document, _parts(path), copy.deepcopy(operation["value"]))
    if kind == "remove":
        return _removed(document, _parts(path))
    if kind == "replace":
        if not path:
            return operation["value"]
        return _added(_removed(document, _parts(path)), _parts(path), copy.deepcopy(operation["value"]))
    if kind == "test":
        if canonical(found(document, path)) != canonical(operation["value"]):
            raise Failed("differs")
        return document
    source = operation["from"]
    value = copy.deepcopy(found(document, source))
    if kind == "copy":
        return _added(document, _parts(path), value)
    if path == source:
        return document
    if path.startswith(source + "/"):
        raise Failed("into itself")
    return _added(_removed(document, _parts(source)), _parts(path), value)


def found(document: Any, path: str) -> Any:
    for part in _parts(path):
        document = document[_key(document, part, len(document) - 1 if isinstance(document, list) else 0)]
    return document


def canonical(value: Any) -> str:
    """Equal for equal JSON: 1 and 1.0 are, 1 and true are not."""
    whole = isinstance(value, float) and value.is_integer()
    if isinstance(value, list):
        return "[" + ",".join(map(canonical, value)) + "]"
    if isinstance(value, dict):
        return "{" + ",".join(json.dumps(key) + ":" + canonical(value[key]) for key in sorted(value)) + "}"
    return json.dumps(int(value) if whole else value)


def _parts(path: str) -> list[str]:
    return [part.replace("~1", "/").replace("~0", "~") for part in path.split("/")[1:]]


def _key(container: Any, part: str, highest: int) -> Any:
    if isinstance(container, dict) and part in container:
        return part
    if isinstance(container, list) and part in map(str, range(highest + 1)):
        return int(part)
    raise Failed(part)


def _added(document: Any, parts: list[str], value: Any) -> Any:
    if not parts:
        return value
    *before, last = parts
    container = document
    for part in before:
        container = container[_key(container, part, len(container) - 1 if isinstance(container, list) else 0)]
    if isinstance(container, dict):
        container[last] = value
    elif isinstance(container, list):
        container.insert(len(container) if last == "-" else _key(container, last, len(container)), value)
    else:
        raise Failed(last)
    return document


def _removed(document: Any, parts: list[str]) -> Any:
    if not parts:
        raise Failed("whole")
    *before, last = parts
    container = document
    for part in before:
        container = container[_key(container, part, len(container) - 1 if isinstance(container, list) else 0)]
    if not isinstance(container, dict | list):
        raise Failed(last)
    del container[_key(container, last, len(container) - 1)]
    return document
