"""show: a run as it is now."""

from collections import Counter
from collections.abc import Mapping
from typing import Annotated, Any

import typer
from rich.text import Text

from pavane.cli.options import Api, Data, Json, client_of, example
from pavane.cli.output import (
    clock,
    compact,
    console,
    pairs,
    print_json,
    print_shown,
    short_clock,
    span,
    styled,
    table,
)
from pavane.client import Client
from pavane.event_lines import difference
from pavane.machines import breakers
from schemas.keys import path_of, pool_of

LAST_EVENTS = 2_000
"""Events of a run that are looked through for conditions in error."""

RunArgument = Annotated[str, typer.Argument(metavar="RUN", help="A run's id.")]


def register(app: typer.Typer) -> None:
    app.command(epilog=example("pavane show run_0193f2a4"))(show)


def show(run_id: RunArgument, as_json: Json = False, api: Api = None, data: Data = None) -> None:
    """Show a run: status, outputs, live tokens and what they wait for, child runs, usage, errors."""
    with client_of(api, data) as client:
        found = client.get("runs", run_id)
        faults = [] if as_json else _condition_errors(client, found)
        patched = None if as_json else _last_patch(client, found)
        held = [] if as_json else held_models(client, found["live_tokens"])
    if as_json:
        print_json(found)
        return
    out = console()
    width = max(60, out.width - 18) if out.is_terminal else 400
    facts = _facts(found, width)
    if patched:
        facts.insert(3, ("patched", patched))
    parts: list[Any] = [pairs(facts)]
    if found["outputs"]:
        parts += [
            "\noutputs",
            pairs((f"  {node}", compact(output, width)) for node, output in found["outputs"].items()),
        ]
    if found["live_tokens"]:
        parts += ["\nlive tokens", _tokens(found["run_id"], found["live_tokens"])]
    parts += held
    if found["children"]:
        children = table("  NODE", "STATUS", "RUN|36")
        for child in found["children"]:
            children.add_row(f"  {child['node_id'] or ''}", styled(child["status"] or ""), child["run_id"])
        parts += ["\nchild runs", children]
    if faults:
        parts += ["\nconditions in error, which count as false", pairs(faults)]
    print_shown(*parts)


def _last_patch(client: Client, found: Mapping[str, Any]) -> str | None:
    """`2026-01-01 12:00:00 by ada: warmer`"""
    if found["revision"] == 1:
        return None
    (last,) = client.get("runs", found["run_id"], "revisions", after=found["revision"] - 1, limit=1)["revisions"]
    return f"{clock(last['at'])} by {last['by'] or 'somebody'}: {last['description'] or difference(last)}"


def held_models(client: Client, tokens: list[dict[str, Any]]) -> list[Text]:
    """Why the models that its queued tokens wait for are not served, where that is so."""
    pools = {pool_of(token["stream"]) for token in tokens if token["state"] == "queued" and token["stream"]}
    if not pools - {""}:
        return []
    return [line for model in client.get("models")["models"] if model["model"] in pools for line in breakers(model)]


def _condition_errors(client: Client, found: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Node and fault, each once, of the run's last events."""
    answer = client.get("runs", found["run_id"], "events", after=max(0, found["seq"] - LAST_EVENTS), limit=LAST_EVENTS)
    faults = [fault for event in answer["events"] for fault in event.get("condition_errors") or ()]
    times = Counter((fault["node"], f"`{fault['expression']}`: {fault['message']}") for fault in faults)
    return [(f"  {node}", said if count == 1 else f"{said} ({count} times)") for (node, said), count in times.items()]


def _tokens(run_id: str, tokens: list[dict[str, Any]]) -> Any:
    """A token by its path, as `complete --token` takes it: the run's id stands above."""
    shown = table("  NODE", "STATE", "SINCE|8", "WHERE, OR WHAT FOR", "TRY>", "TOKEN")
    for token in tokens:
        where = waits_for(token) or token["runner"] or token["stream"] or ""
        path = "." + path_of(run_id, token["token_id"])
        shown.add_row(
            f"  {token['node_id']}",
            token["state"],
            short_clock(token["since"]),
            where,
            str(token["attempt"] or 0),
            path,
        )
    return shown


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


def _facts(found: Mapping[str, Any], width: int) -> list[tuple[str, Any]]:
    ended = found["ended_at"]
    version = f" version {found['version']}" if found["version"] else ""
    facts: list[tuple[str, Any]] = [
        ("run", found["run_id"]),
        ("status", styled(found["status"])),
        ("workflow", f"{found['workflow_id']}{version}, revision {found['revision']}"),
        ("started", clock(found["created_at"])),
    ]
    if found["parent"]:
        facts.append(("called by", found["parent"]))
    if ended:
        facts.append(("ended", f"{clock(ended)}, after {span(ended - found['created_at'])}"))
    if found["batch_id"]:
        facts.append(("batch", f"{found['batch_id']}, key {found['key']}" if found["key"] else found["batch_id"]))
    if found["labels"]:
        facts.append(("labels", ", ".join(f"{name}={value}" for name, value in found["labels"].items())))
    facts.append(("input", compact(found["input"], width)))
    if found["status"] == "COMPLETED":
        facts.append(("output", compact(found["output"], width)))
    if found["error"]:
        facts.append(("error", _error(found["error"], width)))
    if usage := found["usage"]:
        tasks = f"{usage['tasks']} task{'' if usage['tasks'] == 1 else 's'}"
        tokens = f"{usage['prompt_tokens']:,} + {usage['completion_tokens']:,} tokens"
        work = f"{tasks}, {span(usage['execution_time_ms'])} in models"
        facts.append(("usage", f"{work}, {tokens}" if usage["prompt_tokens"] else tasks))
    return facts


def _error(error: Any, width: int) -> str:
    if isinstance(error, Mapping) and "class" in error:
        where = f"{error['node']}: " if error.get("node") else ""
        tries = f" (attempt {error['attempts']})" if error.get("attempts", 1) > 1 else ""
        return f"{where}{error['class']}: {error.get('message', '')}{tries}"
    return compact(error, width)
