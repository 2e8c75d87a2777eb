"""A batch as it goes: bars for each step, rate and time left, models and GPUs."""

import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import typer
from rich.console import Group, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from pavane.cli.output import console, print_shown, span, styled, table
from pavane.client import Client, Unreachable
from pavane.machines import Shown, machines

REFRESH_S = 0.4
LINE_S = 2.0
"""Where nobody watches a terminal, a line so often, and only if something changed."""
PATIENCE = 25
"""Refreshes that may find no API, while `pavane up` starts it again."""
BAR_WIDTH = 32

_never = threading.Event()


def follow_batch(client: Client, batch_id: str, *, quiet: bool = False) -> dict[str, Any]:
    """Show a batch until it has ended, live on a terminal, else as plain lines; the batch as it is then."""
    out = console()
    if quiet:
        return _follow(client, batch_id, lambda batch: None, REFRESH_S)
    if not out.is_terminal:
        return _follow(client, batch_id, _Lines().show, REFRESH_S)
    with Live(console=out, auto_refresh=False, transient=False) as live:

        def draw(batch: Mapping[str, Any]) -> None:
            live.update(_page(batch, *_machines(client)), refresh=True)

        return _follow(client, batch_id, draw, REFRESH_S)


def _follow(
    client: Client, batch_id: str, show: Callable[[Mapping[str, Any]], None], refresh_s: float
) -> dict[str, Any]:
    missed = 0
    while True:
        try:
            batch: dict[str, Any] = client.get("batches", batch_id)
            missed = 0
            show(batch)
            if batch["ended_at"] is not None:
                return batch
        except Unreachable:
            missed += 1
            if missed > PATIENCE:
                raise
        _never.wait(refresh_s)


def snapshot(client: Client, batch_id: str) -> None:
    """Show a batch once."""
    print_shown(_page(client.get("batches", batch_id), *_machines(client)))


def summary(batch: Mapping[str, Any]) -> str:
    """One line: `batch_01: COMPLETED, 198 done, 2 failed of 200, after 31.2 s`."""
    after = f", after {span(batch['ended_at'] - batch['created_at'])}" if batch["ended_at"] else ""
    counts = f"{batch['done']} done, {batch['failed']} failed of {batch['total']}"
    return f"{batch['batch_id']}: {batch['status']}, {counts}{after}"


class _Lines:
    """Progress for logs and pipes."""

    def __init__(self) -> None:
        self._said = ""
        self._at = 0.0

    def show(self, batch: Mapping[str, Any]) -> None:
        over = batch["ended_at"] is not None
        steps = "  ".join(f"{node['node_id']} {node['done']}" for node in batch["per_node"] if node["done"])
        text = f"{_ended(batch):>6} of {batch['total']} items  {steps}"
        if text != self._said and (over or time.monotonic() - self._at >= LINE_S):
            typer.echo(text)
            sys.stdout.flush()
            self._said, self._at = text, time.monotonic()


def _ended(batch: Mapping[str, Any]) -> int:
    return int(batch["done"]) + int(batch["failed"]) + int(batch.get("withdrawn") or 0)


def _machines(client: Client) -> tuple[Sequence[Shown], Sequence[Shown]]:
    return client.get("models")["models"], client.get("runners")["runners"]


def _page(batch: Mapping[str, Any], models: Sequence[Shown], runners: Sequence[Shown]) -> RenderableType:
    return Group(_head(batch), _steps(batch), machines(models, runners))


def _head(batch: Mapping[str, Any]) -> Text:
    text = Text(f"{batch['batch_id']}  {batch['workflow_id']}  ", style="bold")
    text.append_text(styled(batch["status"]))
    if batch["status"] == "PAUSED":
        by = next((action["by"] for action in batch["actions"] if action["action"] == "pause"), "somebody")
        text.append(f"  by {by}; `pavane resume {batch['batch_id']}` lets it go on", style="default")
    elif batch["ended_at"]:
        text.append(f"  after {span(batch['ended_at'] - batch['created_at'])}", style="default")
    else:
        rate = f"{batch['rate_per_min']:,.0f} items/min" if batch["rate_per_min"] else "no item has ended yet"
        left = "" if batch["eta_s"] is None else f"  about {span(batch['eta_s'] * 1_000)} left"
        text.append(f"  {rate}{left}", style="default")
    if (patch := batch["patch"]) and patch["state"] == "canary":
        text.append(f"\npatch {patch['number']} is a canary: `pavane promote` or `pavane revert`", style="yellow")
    if batch["stalled"]:
        text.append("  STALLED: nothing has happened for a while", style="bold red")
    return text


def _steps(batch: Mapping[str, Any]) -> Table:
    shown = table("step", "", "done>", "running>", "queued>", "failed>")
    total = max(int(batch["total"]), 1)
    failed = Text(str(batch["failed"]), style="red" if batch["failed"] else "dim")
    shown.add_row(
        Text("items", style="bold"), _bar(_ended(batch), total), f"{_ended(batch)}/{total}", str(batch["running"]),
        str(batch["pending"]), failed,
    )  # fmt: skip
    for node in batch["per_node"]:
        here = node["done"] + node["failed"] + node["queued"] + node["running"]
        shown.add_row(
            node["node_id"], _bar(node["done"] + node["failed"], max(total, here)), str(node["done"]),
            str(node["running"]), str(node["queued"]),
            Text(str(node["failed"]), style="red" if node["failed"] else "dim"),
        )  # fmt: skip
    return shown


def _bar(done: int, total: int) -> ProgressBar:
    return ProgressBar(total=total, completed=done, width=BAR_WIDTH)
