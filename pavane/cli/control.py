"""Control: stop, pause, resume, retry, of a run or of a batch."""

from collections.abc import Mapping
from typing import Annotated, Any

import typer

from pavane.cli.options import Api, Data, Json, client_of, example
from pavane.cli.output import print_json
from pavane.client import Client, Refused

Target = Annotated[str, typer.Argument(metavar="RUN_OR_BATCH", help="The id of a run or of a batch.")]
Reason = Annotated[str | None, typer.Option(help="Why; kept with it.")]

COUNTS = {
    "cancelled": "{} live runs", "paused": "{} runs paused", "resumed": "{} runs resumed", "retried": "{} runs retried",
    "gone": "{} that Redis has forgotten",
}  # fmt: skip
"""What a batch's answers count."""
UNKNOWN = 404


def register(app: typer.Typer) -> None:
    app.command(epilog=example("pavane stop run_0193f2a4 --reason 'wrong input'"))(stop)
    app.command(epilog=example("pavane pause batch_0193f2a4 --reason 'the card is needed'"))(pause)
    app.command(epilog=example("pavane resume batch_0193f2a4"))(resume)
    app.command(
        epilog=example(
            "pavane retry run_0193f2a4", "pavane retry run_0193f2a4 --paused", "pavane retry batch_0193f2a4"
        )
    )(retry)  # fmt: skip


def stop(target: Target, reason: Reason = None, as_json: Json = False, api: Api = None, data: Data = None) -> None:
    """Cancel a run or a batch: what is queued is withdrawn, what is running is ignored when it comes in."""
    with client_of(api, data) as client:
        _say(target, act(client, target, "cancel", reason), as_json=as_json)


def pause(target: Target, reason: Reason = None, as_json: Json = False, api: Api = None, data: Data = None) -> None:
    """Start nothing more of a run or a batch: tasks that run are finished, its clocks stand still."""
    with client_of(api, data) as client:
        _say(target, act(client, target, "pause", reason), as_json=as_json)


def resume(target: Target, reason: Reason = None, as_json: Json = False, api: Api = None, data: Data = None) -> None:
    """Let a paused run or batch go on."""
    with client_of(api, data) as client:
        _say(target, act(client, target, "resume", reason), as_json=as_json)


def retry(
    target: Target,
    reason: Reason = None,
    paused: Annotated[bool, typer.Option("--paused", help="Of a run: let it go on by `resume`, to patch it.")] = False,
    as_json: Json = False,
    api: Api = None,
    data: Data = None,
) -> None:
    """Let a failed run go on where it failed, or all failed runs of a batch."""
    with client_of(api, data) as client:
        _say(target, act(client, target, "retry", reason, {"paused": True} if paused else {}), as_json=as_json)


def act(client: Client, target: str, action: str, reason: str | None, more: Mapping[str, Any] | None = None) -> Any:
    """POST /runs/{id}/{action}, or /batches. Made ids say what they are of; others are tried as a run first."""
    body = {**({"reason": reason} if reason else {}), **(more or {})}
    if target.startswith("batch_"):
        return client.post("batches", target, action, body=body)
    try:
        return client.post("runs", target, action, body=body)
    except Refused as refused:
        if refused.status != UNKNOWN or target.startswith("run_"):
            raise
    try:
        return client.post("batches", target, action, body=body)
    except Refused as refused:
        if refused.status != UNKNOWN:
            raise
        raise Refused(UNKNOWN, f"There is no run or batch {target}.") from None


def _say(target: str, answer: dict[str, Any], *, as_json: bool) -> None:
    if as_json:
        print_json(answer)
        return
    named = {name: text for name, text in COUNTS.items() if name in answer and (answer[name] or name != "gone")}
    counts = [text.format(answer[name]) for name, text in named.items()]
    typer.echo(f"{target}: {', '.join([answer['status'], *counts])}")
