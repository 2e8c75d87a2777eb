"""Patches of a batch: patch with a canary or a filter, promote, revert, and what came of each run."""

import re
from collections.abc import Mapping, Sequence
from typing import Annotated, Any

import typer
from rich.text import Text

from pavane.cli.batches import BatchArgument
from pavane.cli.control import Reason
from pavane.cli.options import Api, Data, DryRun, Json, LiveTokens, Restart, client_of, example
from pavane.cli.output import clock, compact, print_json, print_shown, table
from pavane.client import Client

PATIENCE_S = 3_600.0
"""A batch of many thousand live runs takes its time."""
KEY_WIDTH = 16
PAGE = 500
OUTCOMES = (
    ("patched", "patched", "green"),
    ("begin", "begin with it", "green"),
    ("reverted", "reverted", "green"),
    ("refused", "refused", "red"),
    ("kept", "not reverted", "red"),
    ("ended", "had ended", ""),
    ("waiting", "not asked yet", "yellow"),
)
"""Counts in an answer, what people are told, and its colour."""


def register(app: typer.Typer) -> None:
    app.command(epilog=example("pavane promote batch_0193f2a4", "pavane promote batch_0193f2a4 --dry-run"))(promote)
    app.command(epilog=example("pavane revert batch_0193f2a4 --reason 'the summaries are worse'"))(revert)
    app.command(epilog=example("pavane patches batch_0193f2a4", "pavane patches batch_0193f2a4 1"))(patches)


def batch_options(canary: str | None, keys: Sequence[str] | None, nodes: Sequence[str] | None) -> dict[str, Any]:
    """What `--canary`, `--key` and `--node` add to a patch. Raises BadParameter."""
    options: dict[str, Any] = {}
    if canary is not None:
        found = re.fullmatch(r"(\d{1,9})(\.\d{1,6})?(%?)", canary.strip())
        if not found or (found[2] and not found[3]):
            raise typer.BadParameter(
                "a number of items, as in 50, or a share of them, as in 10%", param_hint="--canary"
            )
        size: dict[str, Any] = {"percent": float(found[1] + (found[2] or ""))} if found[3] else {"first": int(found[1])}
        options["canary"] = size
    chosen = {name: list(values) for name, values in (("keys", keys), ("nodes", nodes)) if values}
    return options | ({"filter": chosen} if chosen else {})


def patch_batch(client: Client, batch_id: str, body: Mapping[str, Any], *, dry_run: bool, as_json: bool) -> None:
    """POST /batches/{id}/patch, and a table of what came of it; exit 1 if a run refused. Raises what Client raises."""
    _ask(client, batch_id, "patch", body, dry_run=dry_run, as_json=as_json)


def promote(
    batch_id: BatchArgument,
    reason: Reason = None,
    live_tokens: LiveTokens = None,
    restart: Restart = False,
    dry_run: DryRun = False,
    as_json: Json = False,
    api: Api = None,
    data: Data = None,
) -> None:
    """Give the newest patch of a batch to all that has not got it: all of the batch after a canary, and the runs that
    had refused it."""
    with client_of(api, data) as client:
        _ask(client, batch_id, "promote", _body(reason, live_tokens, restart), dry_run=dry_run, as_json=as_json)


def revert(
    batch_id: BatchArgument,
    reason: Reason = None,
    live_tokens: LiveTokens = None,
    restart: Restart = False,
    dry_run: DryRun = False,
    as_json: Json = False,
    api: Api = None,
    data: Data = None,
) -> None:
    """Take the newest patch of a batch back: live runs get the workflow that they had before."""
    with client_of(api, data) as client:
        _ask(client, batch_id, "revert", _body(reason, live_tokens, restart), dry_run=dry_run, as_json=as_json)


def patches(
    batch_id: BatchArgument,
    number: Annotated[int | None, typer.Argument(min=1, help="Of this patch, what came of each run.")] = None,
    as_json: Json = False,
    api: Api = None,
    data: Data = None,
) -> None:
    """The patches of a batch, the newest first; with a number, what came of each run."""
    with client_of(api, data) as client:
        if number is None:
            found = client.get("batches", batch_id, "patches")["patches"]
            _show_patches(found, as_json=as_json)
        else:
            _show_runs(_patch_with_runs(client, batch_id, number), as_json=as_json)


def _body(reason: str | None, live_tokens: str | None, restart: bool) -> dict[str, Any]:
    given = {"reason": reason, "live_tokens": live_tokens, "running": "restart" if restart else None}
    return {name: value for name, value in given.items() if value is not None}


def _ask(client: Client, batch_id: str, action: str, body: Mapping[str, Any], *, dry_run: bool, as_json: bool) -> None:
    answer = client.post(
        "batches", batch_id, action, body=body, timeout_s=PATIENCE_S, dry_run="true" if dry_run else None
    )
    if as_json:
        print_json(answer)
    else:
        print_shown(_head(answer), _counts(answer["counts"]), *_hindered(answer))
    if answer["hindered"]:
        raise typer.Exit(1)


# -- what came of it ---------------------------------------------------------------------------------
def _head(answer: Mapping[str, Any]) -> Text:
    batch_id, number = answer["batch_id"], answer["number"]
    if answer.get("dry_run"):
        return Text(f"{batch_id}: patch {number}, a dry run; nothing was changed")
    state = "a canary: promote or revert it" if answer["state"] == "canary" else answer["state"]
    return Text(f"{batch_id}: patch {number}, {state}")


def _counts(counts: Mapping[str, int]) -> Any:
    shown = table("  outcome", "runs>")
    for name, said, style in OUTCOMES:
        if counts.get(name):
            shown.add_row(Text("  " + said, style=style), str(counts[name]))
    if not shown.row_count:
        shown.add_row("  nothing to patch", "0")
    return shown


def _hindered(answer: Mapping[str, Any]) -> list[Any]:
    """The runs that did not take it, and why."""
    if not answer["hindered"]:
        return []
    shown = table("  run|38", "item", "why")
    for run in answer["hindered"]:
        shown.add_row(f"  {run['run_id']}", compact(run["key"], KEY_WIDTH).strip('"'), why(run["reason"]))
    parts: list[Any] = [Text(), shown]
    left = answer["counts"]["refused"] + answer["counts"]["kept"] - len(answer["hindered"])
    if left > 0:
        parts.append(Text(f"  and {left} more: `pavane patches {answer['batch_id']} {answer['number']}`"))
    return parts


def why(reason: Mapping[str, Any]) -> str:
    """Why a run did not take a patch, in few words."""
    if nodes := list(dict.fromkeys(token["node_id"] for token in reason.get("tokens") or ())):
        said = {"live_tokens": "live tokens on", "retyped": "begun, and of another type now:"}
        return f"{said[reason['reason']]} {', '.join(nodes)}"
    return str(reason["message"])


def _show_patches(found: Sequence[Mapping[str, Any]], *, as_json: bool) -> None:
    if as_json:
        print_json({"patches": found})
        return
    if not found:
        typer.echo("no patches")
        return
    shown = table("patch>", "state", "at|19", "by", "patched>", "refused>", "begin>", "what for")
    for patch in found:
        counts, state = patch["counts"], patch["state"] + ("" if patch["done"] else ", cut off")
        shown.add_row(
            str(patch["number"]), state, clock(patch["at"]), patch["by"],
            str(counts["patched"] + counts["reverted"] + counts["kept"]), str(counts["refused"]),
            str(counts["begin"]), patch["description"] or "",
        )  # fmt: skip
    print_shown(shown)


def _patch_with_runs(client: Client, batch_id: str, number: int) -> dict[str, Any]:
    """All pages of a patch in one."""
    patch: dict[str, Any] = client.get("batches", batch_id, "patches", str(number), limit=PAGE)
    while (after := patch.pop("next_after")) is not None:
        page = client.get("batches", batch_id, "patches", str(number), limit=PAGE, after=after)
        patch["runs"] += page["runs"]
        patch["next_after"] = page["next_after"]
    return patch


def _show_runs(patch: Mapping[str, Any], *, as_json: bool) -> None:
    if as_json:
        print_json(patch)
        return
    shown = table("  run|38", "item", "outcome", "revision>", "why")
    for run in patch["runs"]:
        shown.add_row(
            f"  {run['run_id']}", compact(run["key"], KEY_WIDTH).strip('"'), run["outcome"] or "not asked yet",
            str(run["revision"] or ""), why(run["reason"]) if run["reason"] else "",
        )  # fmt: skip
    print_shown(_head(patch), shown)
