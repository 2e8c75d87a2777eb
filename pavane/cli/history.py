"""History: what was done to batches, by whom, and what came of it."""

import re
from collections.abc import Mapping
from datetime import datetime, timedelta
from typing import Annotated, Any

import typer

from pavane.cli.options import Api, Data, Json, client_of, example
from pavane.cli.output import clock, compact, pairs, print_each, print_json, print_shown, span, styled, table
from pavane.client import Client

SHOWN = 1_000
"""Items of a batch, at most shown."""
WIDTH = 60
_UNITS = {"m": "minutes", "h": "hours", "d": "days", "w": "weeks"}
_REASONS = {"done": "done before", "running": "on its way", "twice": "its key's second item"}


def register(app: typer.Typer) -> None:
    app.command(
        epilog=example(
            "pavane history --since yesterday",
            "pavane history --by ada --action patch --workflow screening",
            "pavane history batch_0193f2a4",
            "pavane history batch_0193f2a4 --skipped",
        )
    )(history)


def history(
    batch_id: Annotated[str | None, typer.Argument(metavar="BATCH", help="One batch: its whole record.")] = None,
    workflow: Annotated[str | None, typer.Option(metavar="ID", help="Of this workflow.")] = None,
    by: Annotated[str | None, typer.Option(metavar="NAME", help="Asked by this person, or with this API key.")] = None,
    action: Annotated[
        str | None, typer.Option(help="run, pause, resume, retry, cancel, patch, promote or revert.")
    ] = None,
    since: Annotated[
        str | None, typer.Option(metavar="WHEN", help="2026-03-01, '2026-03-01 14:00', today, yesterday, 90m, 24h, 7d.")
    ] = None,
    until: Annotated[str | None, typer.Option(metavar="WHEN", help="Before then.")] = None,
    status: Annotated[
        str | None, typer.Option(help="Of the batch now: RUNNING, PAUSED, COMPLETED or CANCELLED.")
    ] = None,
    label: Annotated[list[str] | None, typer.Option(metavar="NAME=TEXT", help="With this label.")] = None,
    runs: Annotated[bool, typer.Option("--runs", help="Single runs instead.")] = False,
    skipped: Annotated[bool, typer.Option("--skipped", help="Of a batch: what it did not take, and why.")] = False,
    failed: Annotated[bool, typer.Option("--failed", help="Of a batch: the items that failed, and why.")] = False,
    withdrawn: Annotated[bool, typer.Option("--withdrawn", help="Of a batch: what was cancelled unstarted.")] = False,
    limit: Annotated[int, typer.Option(min=1, max=500)] = 50,
    as_json: Json = False,
    api: Api = None,
    data: Data = None,
) -> None:
    """What was done to batches: who, when, why, and what came of it; of one batch its whole record."""
    asked = [name for name, given in (("skipped", skipped), ("failed", failed), ("withdrawn", withdrawn)) if given]
    filters: dict[str, Any] = {
        "workflow_id": workflow, "by": by, "status": status and status.upper(), "label": label or None,
        "since": moment("--since", since), "until": moment("--until", until),
    }  # fmt: skip
    _check_use(batch_id, asked, {**filters, "action": action}, runs=runs)
    with client_of(api, data) as client:
        if batch_id and asked:
            _show_items(client, batch_id, asked[0], as_json=as_json)
        elif batch_id:
            _show_record(client.get("history", batch_id), as_json=as_json)
        elif runs:
            _show_runs(client.get("history", "runs", **filters, limit=limit), as_json=as_json)
        else:
            found = client.get("history", **filters, action=action and action.lower(), limit=limit)
            _show_operations(found, limit, as_json=as_json)


def _check_use(batch_id: str | None, asked: list[str], filters: Mapping[str, Any], *, runs: bool) -> None:
    """Raises BadParameter for options that do not go together."""
    if len(asked) > 1:
        raise typer.BadParameter(f"give one of --{' and --'.join(asked)}")
    if asked and not batch_id:
        raise typer.BadParameter(f"--{asked[0]} is of one batch: pavane history BATCH --{asked[0]}")
    if batch_id and (runs or any(value is not None for value in filters.values())):
        raise typer.BadParameter("a batch's record takes no filters")
    if runs and filters["action"] is not None:
        raise typer.BadParameter("--action is of batches, and does not go with --runs")


def moment(option: str, text: str | None, now: datetime | None = None) -> int | None:
    """A moment in ms since the epoch: a date or time (ISO, of this machine's clock unless it says otherwise), `today`,
    `yesterday`, or how long ago. Raises BadParameter."""
    if text is None:
        return None
    now = now or datetime.now().astimezone()
    midnight = now.replace(hour=0, minute=0, second=0, microsecond=0, tzinfo=None)
    try:
        if ago := re.fullmatch(r"(\d{1,6})([mhdw])", text):
            found = now - timedelta(**{_UNITS[ago[2]]: int(ago[1])})
        elif text in ("today", "yesterday"):
            found = midnight - timedelta(days=text == "yesterday")
        else:
            found = datetime.fromisoformat(text)
        return max(0, round(found.timestamp() * 1_000))
    except (ValueError, OverflowError, OSError):
        message = f"{text!r} is no time: write 2026-03-01, '2026-03-01 14:00', today, yesterday, 90m, 24h or 7d"
        raise typer.BadParameter(message, param_hint=option) from None


# -- the list --------------------------------------------------------------------------------------------------------
def _show_operations(found: Mapping[str, Any], limit: int, *, as_json: bool) -> None:
    if as_json:
        print_json(found)
        return
    print_each(found["operations"], _operation_lines, "nothing was done")
    if found["next_cursor"]:
        typer.echo(f"there are more than these {limit}; --limit goes up to 500, and --until further back", err=True)


def _operation_lines(one: Mapping[str, Any]) -> list[str]:
    """When, who, what and how long; below it of which batch, and what came of it."""
    by = f"by {one['by']}" if one["by"] else "by nobody who said so"
    status = f"{_workflow(one)}, {one['status']}"
    return [f"{clock(one['at'])}  {one['action']:<7}  {by}  {status}  {_took(one)}",
            f"    {one['batch_id']}  {_outcome(one)}"]  # fmt: skip


def _workflow(one: Mapping[str, Any]) -> str:
    return str(one["workflow_id"]) + (f" version {one['version']}" if one["version"] else "")


def _took(one: Mapping[str, Any]) -> str:
    if one["took_ms"] is not None:
        return span(one["took_ms"])
    return "goes on" if one["action"] == "run" else "not over: under way, or cut off"


def _outcome(one: Mapping[str, Any]) -> str:
    """What an operation came to, in one line."""
    if one["action"] != "run":
        said = ", ".join(f"{count} {name}" for name, count in (one["counts"] or {}).items()) or "no run touched"
        return said + (f" ({one['reason']})" if one["reason"] else "")
    counts = one["counts"]
    said = f"{counts['done']} of {one['expected_work']['runs']} done"
    said += "".join(f", {counts[name]} {name}" for name in ("failed", "withdrawn", "skipped") if counts[name])
    changes = ((one["delta"] or {}).get("audit") or {}).items()
    return said + "".join(f"; {name} {change_text(change)}" for name, change in changes)


def change_text(change: Any) -> str:
    """A difference: `+57`, `-3`, `+0`, or `"old" -> "new"`."""
    if isinstance(change, list):
        return f"{compact(change[0], WIDTH)} -> {compact(change[1], WIDTH)}"
    return f"{change:+}"


# -- one batch -------------------------------------------------------------------------------------------------------
def _show_record(record: Mapping[str, Any], *, as_json: bool) -> None:
    if as_json:
        print_json(record)
        return
    print_shown(pairs(_head(record)), "", _states(record), "")
    print_each(record["operations"], _step_lines, "nothing was done to it")
    for warning in record["warnings"]:
        typer.echo(f"warning: {warning}")
    for option in ("skipped", "failed", "withdrawn"):
        if record[option]:
            typer.echo(f"the {option} ones: pavane history {record['batch_id']} --{option}")


def _head(record: Mapping[str, Any]) -> list[tuple[str, Any]]:
    """What there is to say of a batch in a line each."""
    asked = record["requested_by"] or "nobody who said so"
    asked += f" (as {record['by']})" if record["by"] and record["by"] != record["requested_by"] else ""
    rows: list[tuple[str, Any]] = [
        ("batch", record["batch_id"]),
        ("workflow", _workflow(record)),
        ("status", styled(record["status"])),
        ("asked by", asked),
    ]
    if record["labels"]:
        rows.append(("labels", ", ".join(f"{name}={text}" for name, text in record["labels"].items())))
    skips = ", ".join(f"{count} {_REASONS[reason]}" for reason, count in record["skips"].items())
    expected = f"{record['expected_work']['runs']} runs" + (f"; skipped: {skips}" if skips else "")
    came = ", ".join(f"{record[name]} {name}" for name in ("done", "failed", "withdrawn", "running", "pending"))
    began = clock(record["started_at"]) or "no item yet"
    rows += [
        ("submitted", clock(record["created_at"])),
        ("first item", began + (f", after {span(record['waited_ms'])}" if record["waited_ms"] is not None else "")),
        ("ended", clock(record["ended_at"]) or "not yet"),
        ("took", span(record["took_ms"]) or "not over"),
        ("paused", span(record["paused_ms"]) if record["paused_ms"] else "never"),
        ("expected", expected),
        ("came", came),
    ]
    if record["audit"]:
        rows.append(("audit", f"{record['audit']['connection']}: {' '.join(record['audit']['query'].split())}"))
    return rows


def _states(record: Mapping[str, Any]) -> Any:
    """The state before and after, and the difference, a row each value."""
    shown = table("STATE", "BEFORE>", "AFTER>", "DIFFERENCE>")
    before, after, delta = (_flat(record[name]) for name in ("state_before", "state_after", "delta"))
    for name in dict.fromkeys((*before, *after)):
        old, new = (compact(state[name], WIDTH) if name in state else "" for state in (before, after))
        shown.add_row(name, old, new, change_text(delta[name]) if name in delta else "")
    return shown


def _flat(state: Mapping[str, Any] | None) -> dict[str, Any]:
    """The counts of all batches of the workflow version, then what the audit query gave."""
    found = dict(state or {})
    audit = found.pop("audit", None) or {}
    return {f"all {name}": value for name, value in found.items()} | audit


def _step_lines(one: Mapping[str, Any]) -> list[str]:
    """An operation within its batch's record, with the counts before and after it."""
    by = f"by {one['by']}" if one["by"] else "by nobody who said so"
    lines = [f"{clock(one['at'])}  {one['action']:<7}  {by}  {_took(one)}  {_outcome(one)}"]
    if one["action"] != "run":
        before, after = (_counts_text(one[name]) for name in ("state_before", "state_after"))
        lines.append(f"    {before or 'unknown'}  ->  {after or 'not known yet'}")
    return lines


def _counts_text(state: Mapping[str, Any] | None) -> str:
    """`PAUSED: 3 done, 2 running`."""
    if state is None:
        return ""
    counts = ", ".join(f"{count} {name}" for name, count in state.items() if name != "status" and count)
    return f"{state['status']}{': ' if counts else ''}{counts}"


def _show_items(client: Client, batch_id: str, outcome: str, *, as_json: bool) -> None:
    found = client.get("history", batch_id, "items", outcome=outcome, limit=SHOWN)
    if as_json:
        print_json(found)
        return
    print_each(found["items"], _skipped_lines if outcome == "skipped" else _undone_lines, f"no item was {outcome}")
    if found["next_after"] is not None:
        typer.echo(f"and more than {SHOWN}; --json and the API's `after` go on", err=True)


def _skipped_lines(one: Mapping[str, Any]) -> list[str]:
    status = f", {one['status']}" if one["status"] else ""
    return [f"{one['key']}  {_REASONS[one['reason']]}: {one['run_id']} of {one['batch_id']}{status}"]


def _undone_lines(one: Mapping[str, Any]) -> list[str]:
    error = one["error"] or {}
    said = ": ".join(str(error[name]) for name in ("class", "message") if error.get(name))
    return [f"{one['key']}  {one['run_id']}  {one['status'] or ''}" + (f"  {said}" if said else "")]


# -- single runs -----------------------------------------------------------------------------------------------------
def _show_runs(found: Mapping[str, Any], *, as_json: bool) -> None:
    if as_json:
        print_json(found)
        return
    print_each(found["runs"], _run_lines, "no run")


def _run_lines(one: Mapping[str, Any]) -> list[str]:
    took = "goes on" if one["ended_at"] is None else span(one["ended_at"] - one["created_at"])
    by = f"by {one['by']}" if one["by"] else "by nobody who said so"
    return [f"{clock(one['created_at'])}  {by}  {_workflow(one)}, {one['status']}  {took}  {one['run_id']}"]
