"""show: the story of a run. What it is, what happened, what goes on, what it waits for, what it cost."""

from collections.abc import Iterator, Mapping
from typing import Annotated, Any

import typer
from rich.padding import Padding
from rich.text import Text

from pavane.cli.options import Api, Data, Json, client_of, example
from pavane.cli.output import clock, compact, console, print_json, short_clock, span, styled, table
from pavane.client import Client, Refused
from pavane.event_lines import difference
from pavane.machines import breakers
from pavane.run_story import RunStory, Told
from schemas.explanations.said import money, names
from schemas.keys import path_of, pool_of

FIRST_EVENTS, LAST_EVENTS = 200, 1_000
"""Of a long run's events; what lies between is left out."""
FIRST_SENTENCES, LAST_SENTENCES = 12, 20
TOKENS = 20
"""Live tokens that are told of."""
GONE = 410
WAITING = 5
"""Waiting nodes whose reasons are asked for."""

INDENT = 2
Line = str | Text | tuple[str, str]
"""A line of a section; of what happened: when, and what."""

LOST = "Nothing: Redis has lost the run. `pavane recover` lets it go on from its last recorded event."

RunArgument = Annotated[str, typer.Argument(metavar="RUN", help="A run's id.")]


def register(app: typer.Typer) -> None:
    app.command(epilog=example("pavane show run_0193f2a4"))(show)


def show(run_id: RunArgument, as_json: Json = False, api: Api = None, data: Data = None) -> None:
    """Tell the story of a run: what happened, what goes on now and what that waits for, what it cost, who did what."""
    with client_of(api, data) as client:
        found = client.get("runs", run_id)
        if as_json:
            print_json(found)
            return
        now: list[Line] = (
            [LOST] if found.get("lost") else [*_now(client, found), *held_models(client, found["live_tokens"])]
        )
        told: list[Told] = []
        gap, dropped, patched = 0, "", None
        cost: Mapping[str, Any] = {"cost": None}
        try:
            told, gap = _story(client, found)
            cost = client.get("runs", run_id, "cost")
            patched = _last_patch(client, found)
        except Refused as refused:  # its events were dropped: what it came to is kept
            if refused.status != GONE:
                raise
            dropped = refused.detail
    width = max(60, console().width - 4) if console().is_terminal else 400
    sections: list[tuple[str, list[Line]]] = [
        ("", list(_facts(found, width, patched))),
        ("What happened", [dropped] if dropped else _timeline(told, gap, run_id)),
        ("Now", now),
        ("What came of it" if found["ended_at"] else "So far", list(_results(found, cost, width))),
    ]
    _print(_heading(found), [section for section in sections if section[1]])


def _print(heading: Text, sections: list[tuple[str, list[Line]]]) -> None:
    """On a terminal lines are broken below their beginning; in a pipe they are not broken."""
    out = console()
    if not out.is_terminal:
        typer.echo(heading.plain)
        for title, lines in sections:
            typer.echo("\n".join([*(["", title] if title else []), *map(_plain, lines)]))
        return
    out.print(heading)
    for title, lines in sections:
        if title:
            out.print(Text(f"\n{title}", style="bold"))
        if isinstance(lines[0], tuple):
            shown = table("  AT>", "")
            shown.show_header = False
            for line in lines:
                shown.add_row(*(line if isinstance(line, tuple) else ("", line)))
            out.print(shown)
        else:
            for line in lines:
                out.print(Padding(line if isinstance(line, Text) else Text(str(line)), (0, 0, 0, INDENT)))


def _plain(line: Line) -> str:
    if isinstance(line, tuple):
        return f"{line[0]:>12}  {line[1]}"
    return " " * INDENT + (line.plain if isinstance(line, Text) else line)


# -- what it is ------------------------------------------------------------------------------------
def _heading(found: Mapping[str, Any]) -> Text:
    version = f" version {found['version']}" if found["version"] else ""
    return Text.assemble(
        (found["run_id"], "bold"), f", a run of {found['workflow_id']}{version}, is ", styled(found["status"]), "."
    )


def _facts(found: Mapping[str, Any], width: int, patched: str | None) -> Iterator[str]:
    ended = f" and ended {span(found['ended_at'] - found['created_at'])} later" if found["ended_at"] else ""
    yield f"It began {clock(found['created_at'])}{ended}, with {compact(found['input'], width - 40)}."
    if found["parent"]:
        yield f"It was called by {found['parent']}."
    if found["batch_id"]:
        key = f", with the key {found['key']}" if found["key"] else ""
        yield f"It belongs to the batch {found['batch_id']}{key}."
    if found["labels"]:
        yield f"Its labels are {', '.join(f'{name}={value}' for name, value in found['labels'].items())}."
    if patched:
        yield f"It follows revision {found['revision']}, made {patched}."
    for child in found["children"]:
        yield f"{child['node_id'] or 'A tool'} called {child['run_id']}, which is {child['status'] or 'not known'}."


def _last_patch(client: Client, found: Mapping[str, Any]) -> str | None:
    """`2026-01-01 12:00:00 by ada: warmer`"""
    if found["revision"] == 1:
        return None
    made = client.get("runs", found["run_id"], "revisions", after=found["revision"] - 1, limit=1)["revisions"]
    if not made:
        return None
    return f"{clock(made[0]['at'])} by {made[0]['by'] or 'somebody'}: {made[0]['description'] or difference(made[0])}"


# -- what happened ---------------------------------------------------------------------------------
def _story(client: Client, found: Mapping[str, Any]) -> tuple[list[Told], int]:
    """The sentences, and the place of a gap in them (0: none): of a long run only its beginning and its end is read."""
    run_id, seq = found["run_id"], found["seq"]
    story = RunStory(found["created_at"])
    if seq <= FIRST_EVENTS + LAST_EVENTS:
        told = story.tell(client.get("runs", run_id, "events", limit=FIRST_EVENTS + LAST_EVENTS)["events"])
        gap = FIRST_SENTENCES if len(told) > FIRST_SENTENCES + LAST_SENTENCES else 0
        return (told[:gap] + told[-LAST_SENTENCES:], gap) if gap else (told, 0)
    first = story.tell(client.get("runs", run_id, "events", limit=FIRST_EVENTS)["events"])[:FIRST_SENTENCES]
    events = client.get("runs", run_id, "events", after=seq - LAST_EVENTS, limit=LAST_EVENTS)["events"]
    return first + story.tell(events)[-LAST_SENTENCES:], len(first)


def _timeline(told: list[Told], gap: int, run_id: str) -> list[Line]:
    lines: list[Line] = [(span(one.at), one.text) for one in told]
    if gap:
        lines.insert(gap, ("...", f"More lies between: pavane logs {run_id} shows all of it."))
    return lines or ["Nothing yet."]


# -- what goes on ----------------------------------------------------------------------------------
def _now(client: Client, found: Mapping[str, Any]) -> list[Line]:
    """A line for each live token."""
    lines: list[Line] = []
    asked = 0
    for token in found["live_tokens"][:TOKENS]:
        why = ""
        if token["state"] == "waiting" and asked < WAITING:
            asked += 1
            why = _awaited(client, found["run_id"], token)
        path = "." + path_of(found["run_id"], token["token_id"])
        lines.append(f"{token['node_id']} {_doing(token)}{why} (token {path}, since {short_clock(token['since'])}).")
    if left := len(found["live_tokens"]) - TOKENS:
        lines += [f"{left} more tokens are alive: pavane show {found['run_id']} --json."] if left > 0 else []
    return lines


def _doing(token: Mapping[str, Any]) -> str:
    """`is running on runner-1, attempt 2`"""
    where = waits_for(token) or token["runner"] or token["stream"] or ""
    match token["state"]:
        case "asked" | "listening" | "calling":
            return f"waits for {where}"
        case "timed":
            return f"waits {where}"
        case "mapping":
            return f"has done {where}"
    tries = f", attempt {token['attempt']}" if (token["attempt"] or 0) > 1 else ""
    link = {"running": " on ", "queued": " in "}.get(token["state"], ", ")
    return f"is {token['state']}{link + where if where else ''}{tries}"


def _awaited(client: Client, run_id: str, token: Mapping[str, Any]) -> str:
    """` for ask and fetch`: what can still reach a node that waits."""
    try:
        told = client.get("runs", run_id, "nodes", token["node_id"], "explain", limit=50)
    except Refused:
        return ""
    mine = (one for one in told["executions"] if one.get("token_id") == token["token_id"])
    nodes = list(dict.fromkeys(blocker["node"] for one in mine for blocker in one.get("blockers", ())))
    more = f" and {len(nodes) - 8} more" if len(nodes) > 8 else ""
    return f" for {names(nodes[:8])}{more}" if nodes else ""


def held_models(client: Client, tokens: list[dict[str, Any]]) -> list[Text]:
    """Why the models that its queued tokens wait for are not served, where that is so."""
    pools = {pool_of(token["stream"]) for token in tokens if token["state"] == "queued" and token["stream"]}
    if not pools - {""}:
        return []
    return [line for model in client.get("models")["models"] if model["model"] in pools for line in breakers(model)]


def waits_for(token: Mapping[str, Any]) -> str:
    """`ada: Publish this? until 2026-01-01 12:00:00`, `event paid for order-17`, `17 of 200 items, 8 running`."""
    if items := token.get("items"):
        return f"{items['done']} of {items['total']} items, {items['running']} running"
    what = token.get("waits_for") or {}
    until = f"until {clock(what['due'])}" if what.get("due") else ""
    match token["state"]:
        case "asked":
            asked = f"{what.get('assignee') or 'anybody'}: {compact(what.get('prompt') or 'an answer', 80)}"
            return f"{asked} {until}".rstrip()
        case "listening":
            key = f" for {what['key']}" if what.get("key") else ""
            return f"event {what.get('event')}{key} {until}".rstrip()
        case "calling":
            return str(what.get("run_id") or "")
    return until


# -- what came of it -------------------------------------------------------------------------------
def _results(found: Mapping[str, Any], cost: Mapping[str, Any], width: int) -> Iterator[str]:
    if found["status"] == "COMPLETED":
        yield f"Its output is {compact(found['output'], width - 15)}."
    elif found["error"]:
        yield f"Its error is {_error(found['error'], width)}."
    others: dict[str, Any] = {}
    for node, output in found["outputs"].items():
        if output != found["output"] and output not in others.values():  # a branch passes its input on
            others[node] = output
    yield from (f"{node} gave {compact(output, width - 10 - len(node))}." for node, output in others.items())
    if usage := found["usage"]:
        tasks = f"{usage['tasks']} task{'' if usage['tasks'] == 1 else 's'}"
        used = f", {usage['prompt_tokens']:,} + {usage['completion_tokens']:,} tokens" if usage["prompt_tokens"] else ""
        work = f", {span(usage['execution_time_ms'])} of work" if usage["execution_time_ms"] else ""
        price = f", and cost {money(cost['cost'])}" if cost["cost"] is not None else ""
        yield f"It took {tasks}{work}{used}{price}."


def _error(error: Any, width: int) -> str:
    if isinstance(error, Mapping) and "class" in error:
        where = f"{error['node']}: " if error.get("node") else ""
        tries = f" (attempt {error['attempts']})" if error.get("attempts", 1) > 1 else ""
        return f"{where}{error['class']}: {error.get('message', '')}{tries}"
    return compact(error, width)
