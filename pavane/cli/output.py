"""What commands print: JSON for machines; tables, times and values for people."""

import json
import sys
from collections.abc import Callable, Iterable, Sequence
from datetime import datetime
from typing import Any

import orjson
import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from schemas.explanations import said

CUT = "…"

STATUS_STYLE = {
    "RUNNING": "cyan", "PAUSED": "yellow",
    "COMPLETED": "green", "FAILED": "red", "CANCELLED": "yellow", "TIMED_OUT": "red",
}  # fmt: skip


def console() -> Console:
    """Made for each use, because tests and pipes replace stdout. Nothing that is printed is markup or highlighted."""
    return Console(file=sys.stdout, markup=False, highlight=False, soft_wrap=not sys.stdout.isatty())


def print_shown(*parts: Any) -> None:
    """Prints tables and texts, in pipes without the blanks that fill their columns."""
    out = console()
    if out.is_terminal:
        out.print(*parts, sep="\n")
        return
    with out.capture() as capture:
        out.print(*parts, sep="\n")
    typer.echo("\n".join(line.rstrip() for line in capture.get().splitlines()))


def print_each(found: Sequence[dict[str, Any]], lines: Callable[[dict[str, Any]], Iterable[str]], nothing: str) -> None:
    """Prints the lines of each record, or else that there is none."""
    for one in found:
        typer.echo("\n".join(lines(one)))
    if not found:
        typer.echo(nothing)


def print_json(value: Any) -> None:
    """One line for pipes, indented on a terminal."""
    option = orjson.OPT_INDENT_2 if sys.stdout.isatty() else 0
    typer.echo(orjson.dumps(value, option=option).decode())


def compact(value: Any, width: int) -> str:
    """A value as one line of JSON, cut to `width`."""
    text = value if isinstance(value, str) and value.startswith("artifact://") else one_line(value)
    return text if len(text) <= width else text[: width - 1] + CUT


def one_line(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, separators=(", ", ": "))


def styled(status: str) -> Text:
    """A status in its colour."""
    return Text(status, style=STATUS_STYLE.get(status, ""))


def clock(at_ms: int | None) -> str:
    """Local date and time to the second; "" for None."""
    return "" if at_ms is None else datetime.fromtimestamp(at_ms / 1_000).strftime("%Y-%m-%d %H:%M:%S")


def short_clock(at_ms: int) -> str:
    """The time of today, else the day: what a column has room for."""
    at = datetime.fromtimestamp(at_ms / 1_000)
    return at.strftime("%H:%M:%S" if at.date() == datetime.now().date() else "%Y-%m-%d")


def span(ms: float | None) -> str:
    """A duration with about three digits: `340 ms`, `4.21 s`, `3 min 20 s`, `2 h 5 min`."""
    return "" if ms is None else said.span(ms)


def table(*columns: str) -> Table:
    """A plain table. `NAME>` is right-aligned; a column with a width, `NAME|36`, is never broken: ids are copied."""
    made = Table(box=None, pad_edge=False, header_style="bold", padding=(0, 2, 0, 0))
    for column in columns:
        name, _, width = column.partition("|")
        right = name.endswith(">")
        made.add_column(
            name.rstrip(">"),
            justify="right" if right else "left",
            no_wrap=right or bool(width),
            min_width=int(width) if width else None,
            overflow="fold",
        )
    return made


def pairs(rows: Iterable[tuple[str, Any]]) -> Table:
    """Names and values below each other."""
    made = table("", "")
    made.show_header = False
    for name, value in rows:
        made.add_row(name, value)
    return made
