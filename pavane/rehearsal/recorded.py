"""Recorded runs as cases: what a run's nodes gave becomes the script, what came out the expectation."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from pavane.rehearsal.record import Record, Step
from pavane.rehearsal.reply import SCRIPTED
from schemas.events import Event
from schemas.ir import Node
from schemas.values import ARTIFACT
from schemas.variables import item_index

_HEAD = ("run_id", "seq", "type", "at", "node_id", "token_id", "scope")
_NOBODY_CAME = ("deadline", "queue_timeout")


class Unplayable(ValueError):
    """A run of which no case can be made; the text says why."""


def recorded_case(events: Iterable[Mapping[str, Any]], nodes: Mapping[str, Node]) -> dict[str, Any]:
    """The case of a run that has ended, as its author would write it; `events` as the API gives them.

    Raises Unplayable.
    """
    record = Record()
    for shown in events:
        record.take(_event(shown), _Texts())
    state = record.state()
    if state.status not in ("COMPLETED", "FAILED"):
        raise Unplayable(f"only a run that has completed or failed makes a case; this one is {state.status}")
    if any(event.type == "run_patched" for event in record.events):
        raise Unplayable("the run was patched: a case plays the workflow as it was registered")
    outputs: dict[str, list[Any]] = {}
    for step in record.steps:
        node = nodes.get(step.node)
        if node is None:
            raise Unplayable(f"the workflow has no node {step.node!r}, which the run executed")
        if _is_scripted(node):
            outputs.setdefault(step.node, []).append(_reply(step, node))
    case: dict[str, Any] = {"name": record.run_id, "input": _inline("the input", record.inputs[record.run_id])}
    case["outputs"] = {node: replies[0] if _all_same(replies) else replies for node, replies in outputs.items()}
    case["expect"] = _expected(record)
    return case


def _expected(record: Record) -> dict[str, Any]:
    state = record.state()
    times = dict(record.times)
    if state.status == "FAILED":
        return {"error": {name: state.error[name] for name in ("class", "node") if name in state.error}, "times": times}
    return {"output": _inline("the output", record.result(state)), "times": times}


def _is_scripted(node: Node) -> bool:
    return node.type in SCRIPTED and (node.type != "wait" or "event" in node.config)


def _reply(step: Step, node: Node) -> Any:
    """In the order of the run; in a map, where items overlap, by the item that it was."""
    given = _given(step, node)
    if not step.scope:
        return given["output"] if set(given) == {"output"} and _is_plain(given["output"]) else given
    where = {"item": item_index(step.scope)}
    if node.analysis.within is not None:
        where["iteration"] = step.iteration
    if step.again:
        where["attempt"] = (step.error or {})["attempts"]
    return {**where, **given}


def _given(step: Step, node: Node) -> dict[str, Any]:
    if step.error is None:
        return {"output": _inline(f"an output of {step.node}", step.value)}
    klass = step.error["class"]
    if klass in _NOBODY_CAME:
        return {"deadline": True}
    error = {"class": klass, "message": step.error.get("message", "")}
    return {"error": error | ({"retryable": step.again} if node.is_task else {})}


def _is_plain(value: Any) -> bool:
    """Whether an output may stand as it is, and is not taken for more than one."""
    return not isinstance(value, list) and not (
        isinstance(value, Mapping) and value.keys() & {"output", "error", "event"}
    )


def _all_same(replies: list[Any]) -> bool:
    return all(reply == replies[0] for reply in replies)


def _inline(what: str, value: Any) -> Any:
    if isinstance(value, str) and value.startswith(ARTIFACT):
        raise Unplayable(f"{what} is over the limit inline_bytes, and so not in the run's events")
    return value


def _event(shown: Mapping[str, Any]) -> Event:
    head = {name: shown[name] for name in _HEAD if name in shown}
    return Event(**head, data={name: value for name, value in shown.items() if name not in _HEAD})


class _Texts(dict[str, Any]):
    """Artifacts that nobody has loaded: each stands for itself."""

    def __missing__(self, text: str) -> str:
        return text
