"""Events as lines for people: what happened, where, how long it took, and what was decided."""

from collections.abc import Mapping
from typing import Any

from pavane.cli.output import compact, span
from schemas.events import STATUS_OF
from schemas.explanations.said import values

WIDTH = 100  # of a value that is shown


class EventLines:
    """Turns the events of one run, in order, into one line each; it remembers when tasks started."""

    def __init__(self) -> None:
        self._began = 0
        self._queued: dict[str, int] = {}  # token -> at
        self._started: dict[str, int] = {}

    def line(self, event: Mapping[str, Any]) -> str:
        """`  1.204 s  grade         completed in 1.19 s: {"score": 81}  qwen2.5:7b, 412 + 58 tokens`"""
        at = event["at"]
        if event["seq"] == 1:
            self._began = at
        place = (event.get("node_id") or "run") + _item(event.get("scope", ""))
        said = getattr(self, f"_{event['type']}", self._other)(event)
        for token, record in (event.get("tokens") or {}).items():
            if record.get("state") == "queued":
                self._queued[token] = at
        return f"{(at - self._began) / 1_000:9.3f} s  {place:<14} {said}"

    # -- by type -----------------------------------------------------------------------------------
    def _run_started(self, event: Mapping[str, Any]) -> str:
        version = f" version {event['version']}" if event.get("version") else ""
        batch = f", batch {event['batch_id']}" if event.get("batch_id") else ""
        given = event["stored_input"] if "stored_input" in event else event.get("input")
        return f"started: {event.get('workflow_id', '')}{version}{batch}, input {compact(given, WIDTH)}"

    def _run_forked(self, event: Mapping[str, Any]) -> str:
        source = event.get("forked_from") or {}
        return f"forked from {source.get('run_id')} after event {source.get('seq')}{_who(event)}"

    def _run_recovered(self, event: Mapping[str, Any]) -> str:
        return f"rebuilt in Redis from event {event.get('from_seq')}{_who(event)}"

    def _run_restated(self, event: Mapping[str, Any]) -> str:
        return f"told anew as it stands in Redis{_who(event)}"

    def _task_started(self, event: Mapping[str, Any]) -> str:
        token, at = event.get("token_id", ""), event["at"]
        self._started[token] = at
        waited = f" after {span(at - self._queued[token])} in the queue" if token in self._queued else ""
        attempt = event.get("attempt", 1)
        again = f", attempt {attempt}" if attempt > 1 else ""
        return f"started{waited} on {event.get('runner', '?')}{again}"

    def _node_completed(self, event: Mapping[str, Any]) -> str:
        outputs = dict(event.get("outputs") or {}) | dict(event.get("stored") or {})
        node = event.get("node_id", "")
        parts = [f"completed{self._took(event)}"]
        if node in outputs:
            parts[0] += f": {compact(outputs[node], WIDTH)}"
        if usage := usage_text(event.get("usage")):
            parts.append(usage)
        return "; ".join([*parts, *_decisions(event)])

    def _node_failed(self, event: Mapping[str, Any]) -> str:
        led = _led_to(event)
        return "; ".join([f"failed{self._took(event)}: {failure_text(event)}{led}", *_decisions(event)])

    def _task_retried(self, event: Mapping[str, Any]) -> str:
        raw = f"; the answer was {compact(event['raw'], WIDTH)}" if event.get("raw") else ""
        delay = span(event.get("delay_ms", 0))
        return f"failed{self._took(event)}, tries again in {delay}: {failure_text(event)}{raw}"

    def _task_queued(self, event: Mapping[str, Any]) -> str:
        return "queued again"

    def _tool_called(self, event: Mapping[str, Any]) -> str:
        gave = f"failed: {compact(event['error'], WIDTH)}" if "error" in event else compact(event.get("result"), WIDTH)
        return f"called {event['tool']}({compact(event['arguments'], WIDTH)}) in {span(event['ms'])}: {gave}"

    def _node_opened(self, event: Mapping[str, Any]) -> str:
        match event.get("waits_for"):
            case "answer":
                whom = f" {event['assignee']}" if event.get("assignee") else " somebody"
                asked = f": {compact(event['prompt'], WIDTH)}" if event.get("prompt") else ""
                return f"asks{whom}{asked}{self._until(event)}"
            case "event":
                key = f" with key {event['key']}" if event.get("key") else ""
                return f"waits for the event {event['event']}{key}{self._until(event)}"
            case "time":
                return f"waits for {span(max(event['due'] - event['at'], 0))}"
            case _:
                return f"called {event.get('child', 'a child run')}"

    def _node_answered(self, event: Mapping[str, Any]) -> str:
        return f"answered by {event.get('by', '?')}"

    def _node_reminded(self, event: Mapping[str, Any]) -> str:
        return f"not answered yet, reminder {event.get('times', '?')}"

    def _map_started(self, event: Mapping[str, Any]) -> str:
        return f"has {_items(event.get('total', 0))}"

    def _items_started(self, event: Mapping[str, Any]) -> str:
        first, count = event["first"], event["count"]
        return f"item {first} started" if count == 1 else f"items {first} to {first + count - 1} started"

    def _item_completed(self, event: Mapping[str, Any]) -> str:
        result = event.get("stored_result", event.get("result"))
        return f"item {event['index']} done: {compact(result, WIDTH)}"

    def _items_held(self, event: Mapping[str, Any]) -> str:
        return "items held: the run has failed"

    def _items_restored(self, event: Mapping[str, Any]) -> str:
        return "items go on"

    def _tokens_parked(self, event: Mapping[str, Any]) -> str:
        return "parked: the run is paused"

    def _tokens_unparked(self, event: Mapping[str, Any]) -> str:
        nodes = sorted({record["node"] for record in (event.get("tokens") or {}).values()})
        return f"goes on with {', '.join(nodes)}"

    def _run_paused(self, event: Mapping[str, Any]) -> str:
        return f"paused{_who(event)}"

    def _run_resumed(self, event: Mapping[str, Any]) -> str:
        return f"resumed{_who(event)}"

    def _run_retried(self, event: Mapping[str, Any]) -> str:
        return f"retried{_who(event)}"

    def _run_patched(self, event: Mapping[str, Any]) -> str:
        back = f" back to what revision {event['rollback_to']} was," if event.get("rollback_to") else ""
        gone = len(event.get("gone") or ())
        cancelled = f"; {gone} token{'' if gone == 1 else 's'} cancelled" if gone else ""
        what = f": {event['description']}" if event.get("description") else ""
        return f"patched,{back} revision {event['revision']}{_who(event)}{what}; {difference(event)}{cancelled}"

    def _items_patched(self, event: Mapping[str, Any]) -> str:
        return f"{_items(len(event['indexes']))} follow the patch"

    def _until(self, event: Mapping[str, Any]) -> str:
        return f", for {span(event['due'] - event['at'])} at most" if event.get("due") else ""

    def _other(self, event: Mapping[str, Any]) -> str:
        status = STATUS_OF.get(event["type"])
        if status is None:
            return str(event["type"])
        why = _who(event)
        error = f": {failure_text(event)}" if event.get("error") else ""
        return f"{status} after {span(event['at'] - self._began)}{why}{error}"

    def _took(self, event: Mapping[str, Any]) -> str:
        began = self._started.pop(event.get("token_id", ""), None)
        return "" if began is None else f" in {span(event['at'] - began)}"


def difference(patched: Mapping[str, Any]) -> str:
    """`added a, b; changed c`: what a patch made of the nodes."""
    kinds = ("added", "removed", "changed")
    return "; ".join(f"{kind} {', '.join(patched[kind])}" for kind in kinds if patched.get(kind)) or "no node differs"


def _led_to(event: Mapping[str, Any]) -> str:
    """` -> sorry`: what took over for a node that failed."""
    node = event.get("node_id", "")
    records = (event.get("tokens") or {}).values()
    queued = [r["node"] for r in records if any(source[0] == node for source in r.get("from") or ())]
    targets = dict.fromkeys([*(event.get("outputs") or {}), *(event.get("stored") or {}), *queued])
    targets.pop(node, None)
    return f" -> {', '.join(targets)}" if targets else ""


def _item(scope: str) -> str:
    """`[3]` for item 3 of a map, `[3][0]` for item 0 of a map in it."""
    return "".join(f"[{part.rpartition('-')[2]}]" for part in scope.split(".")) if scope else ""


def _items(count: int) -> str:
    return "1 item" if count == 1 else f"{count} items"


def _who(event: Mapping[str, Any]) -> str:
    return "".join(f", {name} {event[name]}" for name in ("by", "reason") if event.get(name))


def failure_text(event: Mapping[str, Any]) -> str:
    """`timeout: no answer within 60 s (attempt 2)`"""
    error = event.get("error") or {}
    if not isinstance(error, Mapping):
        return compact(error, WIDTH)
    tries = f" (attempt {error['attempts']})" if error.get("attempts", 1) > 1 else ""
    return f"{error.get('class', 'error')}: {error.get('message', '')}{tries}"


def usage_text(usage: Mapping[str, Any] | None) -> str:
    """`gemma3:4b, 86 + 14 tokens, loaded in 1.2 s`; "" for what used no model."""
    if not usage or not usage.get("llm_model"):
        return ""
    text = f"{usage['llm_model']}, {usage.get('prompt_tokens', 0)} + {usage.get('completion_tokens', 0)} tokens"
    return f"{text}, loaded in {span(usage['load_ms'])}" if usage.get("load_ms", 0) >= 100 else text


def _decisions(event: Mapping[str, Any]) -> list[str]:
    """Branches, loops and conditional edges that were decided in passing, and conditions that had no value."""
    said = []
    for decision in event.get("decisions") or ():
        node, to = decision["node"], ", ".join(decision.get("next", decision.get("edges", ()))) or "nothing"
        if "rule" in decision:
            rule = decision["rule"]
            what = "default" if rule == "default" else f"rule {rule + 1}"
            said.append(f"{node}: {what}{values(decision)} -> {to}")
        elif "pass" in decision:
            how = {"back": "once more", "break": "done", "timeout": "no more passes"}[decision["result"]]
            said.append(f"{node}: pass {decision['pass']}, {how}{values(decision)} -> {to}")
        else:
            said.append(f"{node}{values(decision)} -> {to}")
    for fault in event.get("condition_errors") or ():
        said.append(f"{fault['node']}: `{fault['expression']}` counts as false: {fault['message']}")
    return said
