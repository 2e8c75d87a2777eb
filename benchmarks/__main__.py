"""`python -m benchmarks [hops|conditions|...]`: measure; each figure with its ratio.

Without names all but `gpus`, which takes ten minutes; `engines` only where llama.cpp is installed (`make test-engines`
does it).
"""

from __future__ import annotations

import os
import sys

from rich.console import Console
from rich.table import Table

from benchmarks import (
    conditions,
    decisions,
    gpu_policy,
    hops,
    maps,
    patches,
    real_engine,
    recorder,
    recovery,
    submission,
    time_travel,
    whatif,
)
from benchmarks.gpus import figures as gpus

MEASUREMENTS = {
    "hops": hops.measure,
    "recorder": recorder.measure,
    "time_travel": time_travel.measure,
    "recovery": recovery.measure,
    "conditions": conditions.measure,
    "submission": submission.measure,
    "maps": maps.measure,
    "patches": patches.measure,
    "whatif": whatif.measure,
    "policy": gpu_policy.measure,
    "decisions": decisions.measure,
    "engines": real_engine.measure,
    "gpus": gpus.measure,
}
LONG = {"gpus"}


def main() -> None:
    chosen = sys.argv[1:] or [name for name in MEASUREMENTS if name not in LONG]
    if unknown := set(chosen) - set(MEASUREMENTS):
        sys.exit(f"no measurement {', '.join(sorted(unknown))}; there are {', '.join(MEASUREMENTS)}")
    if "engines" in chosen and not real_engine.AVAILABLE:
        chosen.remove("engines")
        print("engines is left out: `make test-engines` installs llama.cpp", file=sys.stderr)
    table = Table("figure", "measured", "beside it, in the same run", "ratio", "should be")
    for name in chosen:
        for figure in MEASUREMENTS[name]():
            ratio = "" if figure.ratio is None else f"{figure.ratio:.2f}"
            table.add_row(figure.name, figure.value, figure.peer, ratio, figure.goal)
    load = os.getloadavg()[0]
    Console().print(table, f"{os.cpu_count()} cores, load {load:.1f}; medians of three where it says so")


if __name__ == "__main__":
    main()
