"""Views of a state for people: where the tokens are and what they wait for, what the nodes gave, what changed."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from pavane.cli.output import clock, compact, span
from schemas.keys import path_of

Shown = Mapping[str, Any]
NODE = 14
STATE = 10


def state_lines(state: Shown, width: int) -> list[str]:
    """The whole state; values are cut, so that a line has `width` characters at most."""
    return [line[:width] for line in _state_lines(state, width)]


def _state_lines(state: Shown, width: int) -> Iterator[str]:
    yield headline(state)
    if state["error"]:
        yield f"error    {compact(state['error'], width - 9)}"
    count = state["counter"]
    yield f"tokens   {'none is live' if not state['live_tokens'] else f'{count} live'}"
    for token in state["live_tokens"]:
        yield f"  {token_line(state['run_id'], token)}"
    if state["passes"]:
        passes = (f"{node} {count} pass{'' if count == 1 else 'es'}" for node, count in sorted(state["passes"].items()))
        yield f"loops    {', '.join(passes)}"
    if state["outputs"]:
        yield "outputs"
        for node, output in state["outputs"].items():
            yield f"  {node:<{NODE}} {compact(output, max(20, width - NODE - 3))}"
    if state["status"] == "COMPLETED":
        yield f"output   {compact(state['output'], width - 9)}"


def headline(state: Shown) -> str:
    """`run_1  RUNNING  revision 1  3 executions, 412 + 58 tokens  2026-01-01 12:00:00`"""
    usage = state["usage"]
    parts = [state["run_id"], state["status"], f"revision {state['revision']}"]
    if state.get("forked_from"):
        parts.append(f"forked from {state['forked_from']['run_id']} at {state['forked_from']['seq']}")
    if usage["tasks"]:
        tokens = f", {usage['prompt_tokens']} + {usage['completion_tokens']} tokens" if usage["prompt_tokens"] else ""
        parts.append(f"{usage['tasks']} execution{'' if usage['tasks'] == 1 else 's'}{tokens}")
    if state["ended_at"]:
        parts.append(f"took {span(state['ended_at'] - state['created_at'])}")
    return "  ".join(parts)


def token_line(run_id: str, token: Shown) -> str:
    """`grade          running    attempt 2 on runner-1  .7`"""
    said = f"{token['node_id']:<{NODE}} {token['state']:<{STATE}} {why(token)}".rstrip()
    return f"{said}  .{path_of(run_id, token['token_id'])}"


def why(token: Shown) -> str:
    """Where a token is, or what it waits for."""
    if items := token.get("items"):
        return f"{items['done']} of {items['total']} items done, {items['running']} running"
    what = token.get("waits_for") or {}
    until = f", until {clock(what['due'])}" if what.get("due") else ""
    match token["state"]:
        case "running":
            return f"attempt {token['attempt']} on {token.get('runner') or 'a runner'}"
        case "queued":
            return f"in {token.get('stream') or 'its stream'}"
        case "waiting":
            arrived = token.get("arrived") or []
            return f"has {', '.join(arrived)}; other tokens can still reach it" if arrived else ""
        case "asked":
            return f"asks {what.get('assignee') or 'anybody'}: {compact(what.get('prompt') or 'an answer', 60)}{until}"
        case "listening":
            key = f" with key {what['key']}" if what.get("key") else ""
            return f"for the event {what.get('event')}{key}{until}"
        case "timed":
            return until.removeprefix(", ")
        case "calling":
            return f"for {what.get('run_id') or 'its child run'}"
    return ""


def change_lines(before: Shown, after: Shown, width: int) -> list[str]:
    """What one step changed: tokens that moved, outputs that came, loops, status, revision. `before` may be {}."""
    found = [*_head_changes(before, after), *_token_changes(before, after), *_output_changes(before, after, width)]
    return [line if len(line) <= width else f"{line[: width - 1]}…" for line in found]


def _head_changes(before: Shown, after: Shown) -> Iterator[str]:
    for name in ("status", "revision"):
        if before and before[name] != after[name]:
            yield f"{name:<8} {before[name]} -> {after[name]}"
    passes = before.get("passes") or {}
    for node in sorted({*passes, *after["passes"]}):
        was, now = passes.get(node, 0), after["passes"].get(node, 0)
        if was != now:
            yield f"loop     {node} pass {was} -> {now}" if now else f"loop     {node} begins anew"


def _token_changes(before: Shown, after: Shown) -> Iterator[str]:
    was = {token["token_id"]: token for token in before.get("live_tokens") or ()}
    now = {token["token_id"]: token for token in after["live_tokens"]}
    for token_id, token in was.items():
        if token_id not in now:
            yield f"token  - {token['node_id']:<{NODE}} gone  .{path_of(after['run_id'], token_id)}"
    for token_id, token in now.items():
        old = was.get(token_id)
        if old is None:
            yield f"token  + {token_line(after['run_id'], token)}"
        elif _moved(old, token):
            yield f"token  > {token_line(after['run_id'], token)}  (was {old['state']})"


def _moved(old: Shown, new: Shown) -> bool:
    return any(old.get(name) != new.get(name) for name in ("node_id", "state", "attempt", "items", "arrived", "stream"))


def _output_changes(before: Shown, after: Shown, width: int) -> Iterator[str]:
    was = before.get("outputs") or {}
    for node, output in after["outputs"].items():
        if node not in was or was[node] != output:
            sign = "+" if node not in was else ">"
            yield f"output {sign} {node:<{NODE}} {compact(output, max(20, width - NODE - 10))}"
