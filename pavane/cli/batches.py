"""Batches: results, monitor, and what `run --items` needs of them."""

import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from pavane.cli.options import Api, Data, Json, client_of, example
from pavane.cli.output import print_json
from pavane.client import Client
from pavane.documents import read_items, save_stream
from pavane.monitor import follow_batch, snapshot, summary

QUERY_TIMEOUT_S = 3_600.0
"""The API bounds a query, by the connection's `timeout_ms`."""
BatchArgument = Annotated[str, typer.Argument(metavar="BATCH", help="A batch's id.")]

Audit = dict[str, str]
"""A batch's audit query: {connection, query}."""


def register(app: typer.Typer) -> None:
    app.command(epilog=example("pavane results batch_0193f2a4 --csv --fields score,summary -o results.csv"))(results)
    app.command(epilog=example("pavane monitor batch_0193f2a4"))(monitor)


def submit_batch(
    client: Client, chosen: dict[str, Any], items: Path, key: str | None, *, force: bool, audit: Audit | None = None
) -> dict[str, Any]:
    """POST /batches with the items of a file. Raises what Client and read_items raise."""
    found = read_items(items)
    answer: dict[str, Any]
    if "workflow" in chosen:
        body = {**chosen, "items": found, "force": force, **_given(key=key, audit=audit)}
        answer = client.post("batches", body=body)
    else:  # JSON lines carry no document, and may be far larger
        more: dict[str, Any] = {f"audit_{name}": text for name, text in (audit or {}).items()}
        more["label"] = [f"{name}={text}" for name, text in chosen.get("labels", {}).items()]
        more |= {name: given for name, given in chosen.items() if name != "labels"}
        answer = client.post_lines("batches", values=found, key=key, force="true" if force else None, **more)
    return answer


def submit_source(
    client: Client,
    chosen: dict[str, Any],
    source: dict[str, Any],
    key: str | None,
    *,
    force: bool,
    audit: Audit | None = None,
) -> dict[str, Any]:
    """POST /batches with the rows of a query. Raises what Client raises."""
    body = {**chosen, "source": source, "force": force, **_given(key=key, audit=audit)}
    answer: dict[str, Any] = client.post("batches", body=body, timeout_s=QUERY_TIMEOUT_S)
    return answer


def _given(**fields: Any) -> dict[str, Any]:
    return {name: value for name, value in fields.items() if value}


def watch_batch(client: Client, batch_id: str, *, as_json: bool) -> None:
    """Follow a batch to its end; exit 1 if an item failed or the batch was cancelled."""
    ended = follow_batch(client, batch_id, quiet=as_json)
    if as_json:
        print_json(ended)
    else:
        typer.echo(summary(ended))
    if ended["failed"] or ended["status"] != "COMPLETED":
        raise typer.Exit(1)


def results(
    batch_id: BatchArgument,
    as_csv: Annotated[bool, typer.Option("--csv", help="CSV instead of JSON lines.")] = False,
    fields: Annotated[
        str | None, typer.Option(metavar="A,B.C", help="Only these fields of the output, inner ones by dots.")
    ] = None,
    output: Annotated[Path | None, typer.Option("--output", "-o", metavar="FILE", help="Into this file.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="JSON lines, which is the default.")] = False,
    api: Api = None,
    data: Data = None,
) -> None:
    """The outputs of a batch, one line an item in the order of the items; also while it runs."""
    if as_csv and as_json:
        raise typer.BadParameter("--csv and --json are two formats")
    kind = "csv" if as_csv else "ndjson"
    with client_of(api, data) as client:
        chunks = client.chunks("batches", batch_id, "results", format=kind, fields=fields)
        if output is None:
            for chunk in chunks:
                sys.stdout.buffer.write(chunk)
            sys.stdout.buffer.flush()
            return
        save_stream(output, chunks)
    typer.echo(f"results are in {output}", err=True)


def monitor(
    batch_id: BatchArgument,
    once: Annotated[bool, typer.Option("--snapshot", help="Show it as it is now, and end.")] = False,
    as_json: Json = False,
    api: Api = None,
    data: Data = None,
) -> None:
    """Watch a batch: per-step bars, rate, time left, models and GPUs."""
    with client_of(api, data) as client:
        if once and as_json:
            print_json({**client.get("batches", batch_id), **client.get("models"), **client.get("runners")})
        elif once:
            snapshot(client, batch_id)
        else:
            watch_batch(client, batch_id, as_json=as_json)
