"""JSON Patch (RFC 6902) on workflow documents, where a pointer may also name a node by its id (docs/patching.md)."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any, NoReturn

import orjson
from jsonpatch import JsonPatchTestFailed, JsonPointer, JsonPointerException, TestOperation

from schemas.errors import InvalidDocument, Problem, pointer
from schemas.ids import NODE_ID
from schemas.limits import LIMITS, Limits
from schemas.workflow import json_problems

Step = str | int

_NEEDS: Mapping[str, str | None] = {
    "add": "value",
    "remove": None,
    "replace": "value",
    "move": "from",
    "copy": "from",
    "test": "value",
}
"""What each operation must have beside `op` and `path`."""
_INDEX = re.compile(r"0|[1-9][0-9]{0,15}")  # RFC 6901, section 4; none of our lists is longer
_NODES = re.compile(r"(/nodes/[0-9]+/config(/document|/tools/[0-9]+/workflow/document)?)*/nodes")
"""Where lists of nodes lie: in the document, in maps, in inline workflows of nodes and of tools."""


def apply_patch(workflow: Mapping[str, Any], operations: Any, limits: Limits = LIMITS) -> dict[str, Any]:
    """The workflow document after all operations, as a document of its own; what is given is left as it is.

    Raises InvalidDocument, with places in the request (`/operations/3/path`): all faults of what the operations say,
    or else the first of them that can not be carried out, and then none is. The result is within `workflow_bytes` and
    `json_depth`, is an object and has the id that the workflow has; apart from that it is not validated.
    """
    problems = list(_faults(operations, limits))
    if problems:
        raise InvalidDocument(problems)
    document = _Document(workflow, limits)
    changed = None  # the operation since which the id is another one
    for number, operation in enumerate(orjson.loads(orjson.dumps(operations, default=dict))):
        document.apply(operation, f"/operations/{number}")
        if document.id == workflow.get("id"):
            changed = None
        elif changed is None:
            changed = number
    where = "/operations" if changed is None else f"/operations/{changed}/path"
    patched = document.whole
    if not isinstance(patched, dict):
        _refuse(where, "wrong-type", "The patched document is not an object, and a workflow must be one.")
    if changed is not None:
        _refuse(where, "id-changed", "The `id` of a workflow can not be patched: it is what the workflow is known by.")
    if _is_deeper(patched, limits.json_depth):
        _too_deep("/operations", "The patched document", limits)
    return patched


# -- the request -------------------------------------------------------------------------------------


def _faults(operations: Any, limits: Limits) -> Iterator[Problem]:
    """What is wrong with the operations as such, whatever the document."""
    here = "/operations"
    if not isinstance(operations, list | tuple):
        yield Problem(here, "wrong-type", "A patch must be a list of operations (RFC 6902).")
    elif (count := len(operations)) > (most := limits.patch_operations):
        message = f"A patch has at most {most} operations (limit patch_operations), not {count}."
        yield Problem(here, "too-many-operations", message)
    elif problems := [*_value_faults(operations, limits)]:
        yield from problems
    else:
        for number, operation in enumerate(operations):
            yield from _operation_faults(operation, f"{here}/{number}")


def _value_faults(operations: Any, limits: Limits) -> Iterator[Problem]:
    """What is not JSON, or out of bounds: after it nothing recurses too deep."""
    try:
        size = len(orjson.dumps(operations, default=dict))
    except (TypeError, ValueError):  # no JSON, or far too deep: where is found below
        size = 0
    if size > (most := limits.patch_bytes):
        yield Problem(
            "/operations", "patch-too-large", f"The operations have {size} bytes; the limit patch_bytes is {most}."
        )
        return
    # A value lies three steps inside the request, and may be as deep as a document.
    bounds = replace(limits, workflow_bytes=limits.patch_bytes, json_depth=limits.json_depth + 3)
    for problem in json_problems({"operations": operations}, bounds):
        if problem.code == "too-large":
            message = f"The operations have too many bytes; the limit patch_bytes is {most}."
            yield Problem("/operations", "patch-too-large", message)
        elif problem.code == "too-deep":
            message = f"The value is nested too deep: the limit json_depth is {limits.json_depth}."
            yield Problem(problem.path, "too-deep", message)
        else:
            yield problem


def _operation_faults(operation: Any, here: str) -> Iterator[Problem]:
    if not isinstance(operation, Mapping):
        yield Problem(here, "wrong-type", "An operation must be an object.")
        return
    op = operation.get("op")
    listed = ", ".join(f"`{name}`" for name in _NEEDS)
    if "op" not in operation:
        yield Problem(here, "missing-field", f"An operation needs `op`, one of {listed}.")
    elif not isinstance(op, str) or op not in _NEEDS:
        said = f" `{op[:64]}`" if isinstance(op, str) else ""
        yield Problem(here + "/op", "unknown-op", f"There is no operation{said}; there are {listed}.")
    needs = _NEEDS.get(op) if isinstance(op, str) else None
    for name in filter(None, ("path", needs)):
        if name not in operation:
            yield Problem(here, "missing-field", f"The operation needs `{name}`.")
        elif name != "value":
            yield from _pointer_faults(operation[name], f"{here}/{name}")


def _pointer_faults(text: Any, where: str) -> Iterator[Problem]:
    if not isinstance(text, str):
        yield Problem(where, "wrong-type", "A JSON pointer must be a string.")
        return
    try:
        JsonPointer(text)
    except JsonPointerException:
        message = "This is no JSON pointer (RFC 6901): it is empty or begins with `/`, and after `~` comes `0` or `1`."
        yield Problem(where, "bad-pointer", message)


# -- the document ------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Place:
    """A member of a list or an object, there or to be. steps: those that lead to it, names resolved to indexes."""

    container: Any
    step: Step
    steps: tuple[Step, ...]


class _Document:
    """A private copy of the document that operations change one by one. Knows its size as compact JSON at any time."""

    def __init__(self, workflow: Mapping[str, Any], limits: Limits) -> None:
        text = orjson.dumps(workflow, default=dict)
        self._holder: dict[str, Any] = {"": orjson.loads(text)}  # so that the whole document is a member too
        self._limits = limits
        self._size = len(text)
        # One that came as YAML may have passed with more: then it just may not grow.
        self._most = max(limits.workflow_bytes, self._size)
        self._copied = 0

    @property
    def whole(self) -> Any:
        return self._holder[""]

    @property
    def id(self) -> Any:
        return self.whole.get("id") if isinstance(self.whole, dict) else None

    def apply(self, operation: Mapping[str, Any], here: str) -> None:
        parts, where = JsonPointer(operation["path"]).parts, here + "/path"
        match operation["op"]:
            case "add":
                self._put(self._place(parts, where, new=True), operation["value"], where)
            case "replace":
                self._set(self._place(parts, where), operation["value"], where)
            case "remove":
                if not parts:
                    _refuse(where, "whole-document", "The whole document can not be removed.")
                self._take(self._place(parts, where), where)
            case "test":
                self._test(parts, where, operation)
            case "copy":
                self._copy(JsonPointer(operation["from"]).parts, parts, here)
            case "move":
                self._move(JsonPointer(operation["from"]).parts, parts, here)
        if self._size > self._most:
            limit = self._limits.workflow_bytes
            message = f"The document would have {self._size} bytes; the limit workflow_bytes is {limit}."
            _refuse(where, "too-large", message)

    def _test(self, parts: list[str], where: str, operation: Mapping[str, Any]) -> None:
        shown = _cut(operation["path"])
        try:
            place = self._place(parts, where)
        except InvalidDocument as error:
            if error.problems[0].code == "not-found":
                _refuse(where, "test-failed", f"The test of `{shown}` failed: {error.problems[0].message}")
            raise
        found = place.container[place.step]
        try:
            TestOperation({"op": "test", "path": "", "value": operation["value"]}).apply(found)
        except JsonPatchTestFailed:
            there = _cut(self._text(found, where).decode())
            _refuse(where, "test-failed", f"The test of `{shown}` failed: there is {there}")

    def _copy(self, source: list[str], parts: list[str], here: str) -> None:
        place = self._place(source, here + "/from")
        text = self._text(place.container[place.step], here + "/from")
        self._copied += len(text)
        if self._copied > (most := self._most):
            message = f"A patch copies at most {most} bytes in all (limit workflow_bytes)."
            _refuse(here + "/from", "too-much-copied", message)
        self._put(self._place(parts, here + "/path", new=True), orjson.loads(text), here + "/path")

    def _move(self, source: list[str], parts: list[str], here: str) -> None:
        """Removes, then adds: a name or an index in `path` means the document without what is moved (RFC 6902, 4.4)."""
        place = self._place(source, here + "/from")
        if self._leads(parts[: len(source)], place):
            if len(parts) > len(source):
                _refuse(here + "/path", "into-itself", "A value can not be moved into itself.")
            return
        value = place.container[place.step]
        self._take(place, here + "/from", weight=0)  # it stays in the document: its own bytes need not be counted
        self._put(self._place(parts, here + "/path", new=True), value, here + "/path", weight=0)

    def _leads(self, parts: list[str], place: _Place) -> bool:
        """Whether a pointer leads to that place, by whatever names."""
        try:
            return self._place(parts, "").steps == place.steps
        except InvalidDocument:
            return False

    # -- changes -----------------------------------------------------------

    def _put(self, place: _Place, value: Any, where: str, weight: int | None = None) -> None:
        """Adds a member: into a list before the one that is there, into an object instead of it."""
        container, step = place.container, place.step
        if isinstance(container, dict) and step in container:
            self._set(place, value, where, weight)
            return
        self._size += self._member_size(place) + (len(self._text(value, where)) if weight is None else weight)
        if isinstance(container, list):
            container.insert(int(step), value)
        else:
            container[step] = value

    def _set(self, place: _Place, value: Any, where: str, weight: int | None = None) -> None:
        """A member that is there gets another value, and keeps its place in the order of keys."""
        self._size -= len(self._text(place.container[place.step], where))
        self._size += len(self._text(value, where)) if weight is None else weight
        place.container[place.step] = value

    def _take(self, place: _Place, where: str, weight: int | None = None) -> None:
        value = place.container[place.step]
        del place.container[place.step]
        self._size -= self._member_size(place) + (len(self._text(value, where)) if weight is None else weight)

    def _member_size(self, place: _Place) -> int:
        """Bytes of a member without its value: its comma, where there are others, and its key."""
        comma = 1 if place.container else 0
        return comma if isinstance(place.step, int) else comma + len(orjson.dumps(place.step)) + 1

    def _text(self, value: Any, where: str) -> bytes:
        try:
            return orjson.dumps(value)
        except TypeError:  # orjson's own bound on nesting: many moves into each other lead there
            _too_deep(where, "The value", self._limits)

    # -- places ------------------------------------------------------------

    def _place(self, parts: list[str], where: str, new: bool = False) -> _Place:
        """Where a pointer leads. new: something is put there, so there may be nothing yet."""
        if len(parts) > self._limits.json_depth:  # nothing that a document may hold lies there
            _too_deep(where, "What the pointer leads to", self._limits)
        container: Any = self._holder
        step: Step = ""
        steps: tuple[Step, ...] = ()
        for position, part in enumerate(parts):
            container = container[step]
            step = self._step(container, part, steps, where)
            steps = (*steps, step)
            last_and_new = new and position == len(parts) - 1
            if isinstance(container, list):
                if int(step) >= len(container) + last_and_new:
                    what = f"`{_cut(pointer(*steps[:-1]))}` has {len(container)} members, counted from 0"
                    _refuse(where, "not-found", f"There is nothing at {_cut(part)}: {what}.")
            elif step not in container and not last_and_new:
                _refuse(where, "not-found", f"There is nothing at `{_cut(pointer(*steps))}`.")
        return _Place(container, step, steps)

    def _step(self, container: Any, part: str, steps: tuple[Step, ...], where: str) -> Step:
        """The key or index that a part of a pointer means in what the steps before it lead to."""
        if isinstance(container, dict):
            return part
        before = _cut(pointer(*steps))
        if not isinstance(container, list):
            _refuse(where, "not-found", f"Nothing can lie in `{before}`: it is neither an object nor a list.")
        if part == "-":
            return len(container)
        if _INDEX.fullmatch(part):
            return int(part)
        if not NODE_ID.fullmatch(part) or not _NODES.fullmatch(pointer(*steps)):
            message = f"`{before}` is a list, and `{_cut(part)}` is no index of it: 0, 1, 2 and so on."
            _refuse(where, "bad-index", message)
        return self._index_of(part, container, before, where)

    def _index_of(self, node_id: str, nodes: list[Any], before: str, where: str) -> int:
        if len(nodes) > (most := self._limits.workflow_nodes):
            _refuse(where, "too-many-nodes", f"A workflow has at most {most} nodes (limit workflow_nodes).")
        ids = [node.get("id") if isinstance(node, dict) else None for node in nodes]
        found = [index for index, known in enumerate(ids) if known == node_id]
        if not found:
            close = difflib.get_close_matches(node_id, [known for known in ids[:200] if isinstance(known, str)], n=1)
            meant = f" (did you mean `{close[0]}`?)" if close else ""
            hint = "`-` as the last step appends one, an index or another node's id inserts it before that"
            _refuse(where, "not-found", f"There is no node `{node_id}` in `{before}`{meant}; {hint}.")
        if len(found) > 1:
            _refuse(where, "ambiguous-id", f"`{before}` has {len(found)} nodes `{node_id}`: use an index.")
        return found[0]


def _is_deeper(document: Any, limit: int) -> bool:
    """Whether a value lies more than `limit` steps inside."""
    level = [document]
    for _ in range(limit):
        level = [
            child
            for container in level
            for child in (container.values() if isinstance(container, dict) else container)
            if child and isinstance(child, dict | list)
        ]
    return bool(level)


def _cut(text: str) -> str:
    return text if len(text) <= 200 else text[:200] + " ..."


def _too_deep(where: str, what: str, limits: Limits) -> NoReturn:
    _refuse(where, "too-deep", f"{what} is nested too deep: the limit json_depth is {limits.json_depth}.")


def _refuse(where: str, code: str, message: str) -> NoReturn:
    raise InvalidDocument([Problem(where, code, message)])
