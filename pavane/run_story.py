"""Run story: what happened in a run, in sentences. Pure; what an item of a map did is told by its map."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from pavane.cli.output import compact, span
from pavane.event_lines import difference, failure_text, usage_text
from schemas.events import STATUS_OF
from schemas.explanations.said import decided, names

WIDTH = 80  # of a value that is shown
_CONTROL = {"run_paused": "paused it", "run_resumed": "let it go on", "run_retried": "let it go on where it had failed"}
_ENDS = {"CANCELLED": "cancelled it", "TIMED_OUT": "ran out of time"}


@dataclass(frozen=True, slots=True)
class Told:
    """One sentence, `at` ms after the run began."""

    seq: int
    at: int
    text: str


class RunStory:
    """Tells the events of one run, given in order. `began`: ms since the epoch."""

    def __init__(self, began: int) -> None:
        self.began = began
        self._started: dict[str, tuple[int, int]] = {}  # token -> (at, attempt)
        self._maps: dict[str, int] = {}  # token -> items
        self._done: dict[str, int] = {}

    def tell(self, events: Iterable[Mapping[str, Any]]) -> list[Told]:
        """The sentences of these events; most say nothing that another one does not."""
        return [
            Told(event["seq"], event["at"] - self.began, sentence)
            for event in events
            for sentence in self._sentences(event)
        ]

    def _sentences(self, event: Mapping[str, Any]) -> list[str]:
        kind, node = event["type"], event.get("node_id", "")
        if kind == "task_started":
            self._started[event["token_id"]] = event["at"], event.get("attempt", 1)
            return []
        if event.get("scope"):  # of an item only that it failed
            return [f"{_place(event)} failed: {failure_text(event)}."] if kind == "node_failed" else []
        match kind:
            case "node_completed":
                return self._completed(event)
            case "node_failed":
                return [self._failed(event), *_passed(event), *_decisions(event)]
            case "task_retried":
                again = f"it is tried again after {span(event.get('delay_ms', 0))}"
                return [f"{node} failed{self._took(event)}: {failure_text(event)}; {again}."]
            case "node_opened":
                return [f"{node} {_opened(event)}."]
            case "node_answered":
                return [f"{event.get('by') or 'Somebody'} answered {node}."]
            case "node_reminded":
                return [f"{node} was not answered yet; a reminder was due."]
            case "map_started":
                self._maps[event["token_id"]] = event["total"]
                return [f"{node} began with {_items(event['total'])}."]
            case "item_completed":
                return self._item(event)
            case _:
                return self._of_run(event)

    def _completed(self, event: Mapping[str, Any]) -> list[str]:
        outputs = dict(event.get("outputs") or {}) | dict(event.get("stored") or {})
        node = event["node_id"]
        known = {decision["node"] for decision in event.get("decisions") or ()}
        said = []
        if node in outputs and event.get("token_id") in self._started:
            used = usage_text(event.get("usage"))
            by = f" ({used})" if used else ""
            said.append(f"{node} gave {compact(outputs[node], WIDTH)}{self._took(event)}{by}.")
        elif node in outputs and node not in known:
            said.append(f"{node} gave {compact(outputs[node], WIDTH)}.")
        return [*said, *_passed(event), *_decisions(event)]

    def _failed(self, event: Mapping[str, Any]) -> str:
        taken = (event.get("taken_over") or {}).get("next")
        over = f"; {names(taken)} took over" if taken else ""
        return f"{event['node_id']} failed{self._took(event)}: {failure_text(event)}{over}."

    def _item(self, event: Mapping[str, Any]) -> list[str]:
        token = event["token_id"]
        done = self._done[token] = self._done.get(token, 0) + 1
        total = self._maps.get(token)
        return [f"All {_items(total)} of {event['node_id']} were done."] if total and done == total else []

    def _of_run(self, event: Mapping[str, Any]) -> list[str]:
        kind = event["type"]
        by, reason = event.get("by"), f": {event['reason']}" if event.get("reason") else ""
        if kind == "run_started":
            return [f"{by} started it."] if by else []
        if kind in _CONTROL:
            return [f"{by or 'Somebody'} {_CONTROL[kind]}{reason}."]
        if kind == "run_patched":
            back = f" back to what revision {event['rollback_to']} was" if event.get("rollback_to") else ""
            why = f", as {event['description']!r}" if event.get("description") else ""
            return [f"{by or 'Somebody'} patched it{back} to revision {event['revision']}{why}: {difference(event)}."]
        if kind in ("run_recovered", "run_restated"):
            return [f"It was rebuilt from what was recorded{f' by {by}' if by else ''}{reason}."]
        if kind == "run_forked":
            source = event.get("forked_from") or {}
            return [f"It goes on from event {source.get('seq')} of {source.get('run_id')}{f', by {by}' if by else ''}."]
        status = STATUS_OF.get(kind)
        if status == "CANCELLED":
            return [f"{by or 'Somebody'} {_ENDS[status]}{reason}."]
        return [f"It {_ENDS[status]}{reason}."] if status == "TIMED_OUT" else []

    def _took(self, event: Mapping[str, Any]) -> str:
        started = self._started.pop(event.get("token_id", ""), None)
        return "" if started is None else f" after {span(event['at'] - started[0])}"


def _passed(event: Mapping[str, Any]) -> list[str]:
    """What was decided in passing and is no decision."""
    outputs = dict(event.get("outputs") or {}) | dict(event.get("stored") or {})
    known = {event["node_id"], *(decision["node"] for decision in event.get("decisions") or ())}
    return [f"{node} gave {compact(value, WIDTH)}." for node, value in outputs.items() if node not in known]


def _decisions(event: Mapping[str, Any]) -> list[str]:
    said = []
    for decision in event.get("decisions") or ():
        to = names(decision.get("next", decision.get("edges", ()))) or "nothing more"
        said.append(f"{decision['node']} went to {to}: {decided(decision)}.")
    for fault in event.get("condition_errors") or ():
        said.append(f"{fault['node']}: `{fault['expression']}` has no value, and counts as false: {fault['message']}.")
    return said


def _opened(event: Mapping[str, Any]) -> str:
    match event.get("waits_for"):
        case "answer":
            asked = f": {compact(event['prompt'], WIDTH)}" if event.get("prompt") else ""
            return f"asked {event.get('assignee') or 'somebody'}{asked}"
        case "event":
            return f"waited for the event {event['event']}{' for ' + event['key'] if event.get('key') else ''}"
        case "time":
            return f"waited for {span(max(event['due'] - event['at'], 0))}"
        case _:
            return f"called the run {event.get('child', '')}"


def _place(event: Mapping[str, Any]) -> str:
    index = event["scope"].rpartition("-")[2]
    return f"{event.get('node_id', '')} of item {index}"


def _items(count: int) -> str:
    return "1 item" if count == 1 else f"{count} items"
