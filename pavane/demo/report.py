"""The end of the demo: its table, and commands that look closer."""

import shlex
import shutil
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pavane.cli.output import print_shown, span, table
from pavane.demo.figures import Figures, Meter


def print_report(batch: Mapping[str, Any], figures: Figures, meter: Meter, *, simulated: bool) -> None:
    """Every number is counted from the batch's events in Postgres, or read from the GPUs' meters."""
    shown = table("what", "count>", "")
    shown.show_header = False
    for name, number, detail in rows(batch, figures, meter, simulated=simulated):
        shown.add_row(name, number, detail)
    print_shown("", shown)


def rows(batch: Mapping[str, Any], figures: Figures, meter: Meter, *, simulated: bool) -> list[tuple[str, str, str]]:
    total = max(int(batch["total"]), 1)
    minutes = figures.wall_ms / 60_000 or 1.0
    tasks = sum(figures.executions.values())
    found = [
        ("items done", f"{batch['done']:,}", f"of {batch['total']:,}"),
        ("items failed", f"{batch['failed']:,}", f"{figures.retried:,} tasks tried again"),
    ]
    for branch, ways in figures.branches.items():
        for to, times in sorted(ways.items(), key=lambda way: -way[1]):
            found.append((f"branch {branch}", f"{times:,}", f"-> {to}, {times / total:.0%} of the items"))
    for loop, counts in figures.passes.items():
        items = sum(counts.values())
        spread = ", ".join(f"{number:,} with {passes}" for passes, number in sorted(counts.items()))
        passes = sum(number * times for number, times in counts.items())
        found.append((f"loop {loop}", f"{passes:,}", f"passes of {items:,} items: {spread}"))
    for node in (node["node_id"] for node in batch["per_node"] if node["node_id"] in figures.executions):
        times = figures.executions[node]
        found.append((f"step {node}", f"{times:,}", f"tasks, {times / total:.2f} an item"))
    sim = " (simulated)" if simulated else ""
    per_load = f"one for {tasks / meter.loads:.0f} tasks{sim}" if meter.loads else sim.strip()
    found += [
        ("model loads", f"{meter.loads:,}", per_load),
        ("GPU active", f"{meter.active_share:.0%}", f"of the time, {meter.loading_share:.0%} loading{sim}"),
        ("rate", f"{total / minutes:,.0f}", "items a minute"),
        ("wall time", span(figures.wall_ms), f"{tasks:,} tasks"),
        ("median item", span(figures.median_item_ms), "from its start to its end"),
    ]
    return found


def closer_look(folders: Sequence[Path], port: str, batch_id: str, run_id: str, *, simulated: bool) -> str:
    """Commands that work when pasted: the demo's servers have stopped, their data have not gone."""
    pavane = command_name()
    data = f"--data {shlex.quote(str(folders[0]))}"
    engine = "--engine simulated --runners 2" if simulated else "--engine ollama"
    api = f"http://127.0.0.1:{port}"
    commands = [
        f"curl -s {api}/batches/{batch_id}",
        f"curl -s {api}/runs/{run_id}",
        f"{pavane} monitor {batch_id} --snapshot {data}",
        f"{pavane} logs {run_id} {data}",
        f"{pavane} show {run_id} {data}",
        f"{pavane} results {batch_id} --csv --fields text {data}",
        f"{pavane} redis {data} --eval inspect_run {run_id}",
        f"{pavane} psql {data} -c 'select status, count(*) from run_projection group by 1'",
    ]
    lines = [
        "To look closer, start the same servers again, which have everything:",
        f"  {pavane} up {data} --port {port} {engine}",
        f"and then, in another terminal ({run_id} went through the most steps):",
        *(f"  {command}" for command in commands),
        f"When you are done: rm -r {shlex.join(map(str, folders))}",
    ]
    return "\n".join(lines)


def command_name() -> str:
    """How this `pavane` is called from here: by its name where the PATH finds it, else by its path."""
    program = Path(sys.argv[0])
    if program.name != "pavane":
        return f"{shlex.quote(sys.executable)} -m pavane"
    found = shutil.which("pavane")
    if found and Path(found).resolve() == program.resolve():
        return "pavane"
    try:
        return shlex.quote(str(program.absolute().relative_to(Path.cwd())))
    except ValueError:
        return shlex.quote(str(program.absolute()))
