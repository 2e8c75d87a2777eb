"""Answers to `pavane ask` as people read them: a sentence, and a table that fits into 80 columns."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from rich.table import Table
from rich.text import Text

from pavane.cli.output import clock, short_clock, span, styled, table

Answer = Mapping[str, Any]
MESSAGE_CHARS = 160


def scope_text(answer: Answer) -> str:
    """Of what was asked, to go behind a sentence: ` in batch_1 since 2026-03-01 12:00:00`."""
    parts = [
        f" {word} {answer[name]}" for name, word in (("workflow_id", "of"), ("batch_id", "in")) if answer.get(name)
    ]
    parts += [f" {name} {clock(answer[name])}" for name in ("since", "until") if answer.get(name) is not None]
    return "".join(parts)


def dropped_text(answer: Answer) -> str:
    """What retention has taken of that which the answer is made of; empty if nothing."""
    dropped = answer.get("dropped")
    if not dropped:
        return ""
    files = f"; exported to {', '.join(dropped['exports'][:3])}" if dropped["exports"] else ""
    return f"Not all that was: events before {clock(dropped['until'])} were dropped ({dropped['events']:,}{files})."


def missing_parts(answer: Answer, *, listed: bool) -> list[Any]:
    node, batch = answer["node"], answer["batch_id"]
    if not answer["missing"]:
        return [f"Every one of the {answer['total']:,} items of {batch} has an output of {node}."]
    said = f"{answer['missing']:,} of {answer['total']:,} items of {batch} have no output of {node}."
    if listed:
        shown = table("KEY", "RUN|36", "WHERE IT IS")
        for item in answer["items"]:
            shown.add_row(compact_text(item["key"], 30), item["run_id"], where_text(item))
        return [said, shown]
    shown = table("ITEMS>", "WHERE THEY ARE", "SUCH AS")
    for row in answer["reasons"]:
        message = f"\n{compact_text(row['message'], MESSAGE_CHARS)}" if row["message"] else ""
        keys = ", ".join(compact_text(example["key"], 16) for example in row["examples"])
        shown.add_row(f"{row['items']:,}", where_text(row) + message, keys)
    return [said, shown]


def where_text(place: Answer) -> str:
    """Where an item is that misses an output."""
    node, detail = place["node"], place["detail"]
    match place["reason"]:
        case "pending":
            return "not admitted yet"
        case "starting":
            return "admitted, and nothing is recorded yet"
        case "withdrawn":
            return "cancelled before it was admitted"
        case "live":
            since = f", for {span(time.time() * 1_000 - place['since'])}" if place["since"] else ""
            return f"at {node}, {detail}{since}" if node else f"live{f', {detail}' if detail else ''}"
        case "failed":
            return f"failed at {node or 'an unknown node'}: {detail}"
        case "taken over":
            return f"{node} failed ({detail}), and on_error went on"
        case "elsewhere" if node:
            return f"went another way at {node}: {detail}"
        case "elsewhere":
            return "completed another way; no decision says why"
        case "not kept":
            return "not known: its events were dropped, or lost"
        case "no such node":
            return "its revision of the workflow has no such node"
        case reason:
            return str(reason)


def cost_parts(answer: Answer, *, wide: bool = False) -> list[Any]:
    total, priced = answer["total"], "money" in answer["total"]
    if not total["tasks"]:
        return [f"No task that says what it took{scope_text(answer)}."]
    model = f" of {answer['model']}" if answer.get("model") else ""
    said = (
        f"{total['tasks']:,} tasks{model} took {_seconds(total['gpu_s'])} of GPU time and "
        f"{total['prompt_tokens'] + total['completion_tokens']:,} tokens{scope_text(answer)}."
    )
    if total["failed"]:
        took = f", which took {_seconds(total['failed_gpu_s'])} of it" if total["failed_gpu_s"] else ""
        said += f" {total['failed']:,} of them failed{took}."
    if priced:
        unpriced = "What it cost is unknown: some models have no price in PAVANE_PRICES."
        said += f" {unpriced}" if total["money"] is None else f" It cost {_money(total['money'])}."
    return [said, _costs(answer, wide)]


def _costs(answer: Answer, wide: bool) -> Table:
    """Columns in which there is nothing but 0 are left out, and some more where a terminal is narrow."""
    total = answer["total"]
    columns: list[tuple[str, str, Callable[[Any], str]]] = [
        ("TASKS", "tasks", _count), ("FAILED", "failed", _count), ("TOKENS IN", "prompt_tokens", _count),
        ("OUT", "completion_tokens", _count), ("RAN", "execution_s", _seconds), ("GPU", "gpu_s", _seconds),
        ("LOADS", "loads", _count), ("LOADING", "load_s", _seconds), ("MONEY", "money", _money),
    ]  # fmt: skip
    left_out = () if wide else ("execution_s", "load_s")
    shown_columns = [c for c in columns if c[1] in total and total[c[1]] != 0 and c[1] not in left_out]
    shown = table(answer["by"].upper(), *(f"{title}>" for title, _, _ in shown_columns))
    for row in answer["rows"]:
        shown.add_row(_name(row, answer), *(form(row[name]) for _, name, form in shown_columns))
    return shown


def conditions_parts(answer: Answer) -> list[Any]:
    rows = answer["rows"]
    if not rows:
        return [f"No condition was in error{scope_text(answer)}."]
    were = "condition was in error, and so" if answer["groups"] == 1 else "conditions were in error, and so"
    said = f"{answer['groups']:,} {were} counted as false{scope_text(answer)}."
    shown = table("TIMES>", "RUNS>", "NODE", "CONDITION AND ERROR", "LAST")
    for row in rows:
        where = f"rule {row['rule']}: " if row["rule"] is not None else f"to {row['to']}: " if row["to"] else ""
        what = Text(f"{where}{compact_text(row['expression'], MESSAGE_CHARS)}\n")
        what.append(f"{row['code']}: {compact_text(row['message'], MESSAGE_CHARS)}", style="red")
        shown.add_row(
            f"{row['count']:,}",
            f"{row['runs']:,}",
            _of_node(row, answer, row["node"]),
            what,
            short_clock(row["last_at"]),
        )
    return [said, shown, f"Look at one: pavane show {rows[0]['examples'][0]}"]


def slowest_parts(answer: Answer) -> list[Any]:
    rows = answer["rows"]
    if not rows:
        return [f"No task was executed{scope_text(answer)}."]
    first = rows[0]
    said = f"The slowest {answer['by']} is {_name(first, answer)}"
    if first["execution_s"]:
        said += f": 5 % of its tasks take over {_seconds(first['execution_s']['p95'])}"
    said += f"{scope_text(answer)}."
    shown = table(answer["by"].upper(), "TASKS>", "RAN p50>", "p95>", "MAX>", "WAITED p50>", "p95>", "MAX>")
    for row in rows:
        ran, waited = (row[name] or {} for name in ("execution_s", "waiting_s"))
        cells = [_seconds(times.get(name)) for times in (ran, waited) for name in ("p50", "p95", "max")]
        shown.add_row(_name(row, answer), f"{row['tasks']:,}", *cells)
    hint = [f"Where one took longest: pavane logs {first['examples'][0]}"] if first["examples"] else []
    return [said, shown, *hint]


def failures_parts(answer: Answer) -> list[Any]:
    rows = answer["rows"]
    if not rows:
        return [f"Nothing failed{scope_text(answer)}."]
    columns = [name for name in ("taken_over", "open") if any(row[name] for row in rows)]
    titles = [f"{name.upper().replace('_', ' ')}>" for name in columns]
    shown = table(answer["by"].upper(), "ATTEMPTS>", "TASKS>", "RECOVERED>", *titles, "FINAL>", "NEWEST")
    for row in rows:
        newest = row["newest"]
        error = newest["message"] if answer["by"] == "class" else f"{newest['class']}: {newest['message']}"
        counts = [f"{row[name]:,}" for name in ("attempts", "tasks", "recovered", *columns, "final")]
        shown.add_row(_name(row, answer), *counts, compact_text(error, MESSAGE_CHARS))
    said = f"What failed{scope_text(answer)}: attempts, the tasks they belong to, and what came of those."
    worst = rows[0]["newest"]
    steps = f"Why one did: pavane explain {worst['run_id']} {worst['node']}"
    if any(row["final"] for row in rows):
        steps += f"\nTo let the run go on there: pavane retry {answer.get('batch_id') or worst['run_id']}"
    return [said, shown, steps]


def search_parts(answer: Answer) -> list[Any]:
    runs, skipped = answer["runs"], answer["not_searched"]
    among = "all" if answer["whole"] else "the newest"
    count = "1 run" if len(runs) == 1 else f"{len(runs)} runs"
    first = "The newest " if answer["next_cursor"] and runs else ""
    said = f"{first}{count} found; {among} {answer['looked_at']:,} runs{scope_text(answer)} were looked at."
    left = [
        f"{skipped[name]:,} {words}" for name, words in (
            ("inputs", "have an input over 16 KB"), ("outputs", "have such an output over 16 KB"),
            ("unfinished", "have not ended"),
        ) if skipped[name]
    ]  # fmt: skip
    if left:
        said += f" Not looked into: {'; '.join(left)}."
    return [said, _runs(runs)] if runs else [said]


def _runs(runs: Sequence[Answer]) -> Table:
    """Columns that would say the same, or nothing, in every row are left out."""
    classes = [run["error"].get("class") if isinstance(run["error"], dict) else None for run in runs]
    several = len({run["workflow_id"] for run in runs}) > 1
    titles = [*(["WORKFLOW"] if several else []), "STATUS", "STARTED", "KEY", *(["ERROR"] if any(classes) else [])]
    shown = table("RUN|36", *titles)
    for run, klass in zip(runs, classes, strict=True):
        cells = [run["workflow_id"]] if several else []
        cells += [styled(run["status"]), short_clock(run["created_at"]), compact_text(run["key"] or "", 24)]
        shown.add_row(run["run_id"], *cells, *([klass or ""] if any(classes) else []))
    return shown


def compact_text(text: str | None, width: int) -> str:
    """A text as one line of at most `width` characters."""
    line = " ".join((text or "").split())
    return line if len(line) <= width else f"{line[: width - 1]}…"


def _name(row: Answer, answer: Answer) -> str:
    return _of_node(row, answer, row["name"]) or f"(no {answer['by'].removeprefix('label=')})"


def _of_node(row: Answer, answer: Answer, node: str) -> str:
    """A node with its workflow, unless one alone was asked of."""
    one = answer.get("workflow_id") or answer.get("batch_id")
    return f"{row['workflow_id']}/{node}" if row.get("workflow_id") and not one else node


def _seconds(seconds: float | None) -> str:
    return "" if seconds is None else "0" if seconds == 0 else span(seconds * 1_000)


def _count(number: int) -> str:
    return f"{number:,}"


def _money(money: float | None) -> str:
    return "unknown" if money is None else f"{money:,.2f}" if money >= 1 else f"{money:.4f}"
