"""`python -m benchmarks [hops|conditions|submission|maps|patches ...]`: measure; each figure with its ratio."""

from __future__ import annotations

import os
import sys

from rich.console import Console
from rich.table import Table

from benchmarks import conditions, hops, maps, patches, submission

MEASUREMENTS = {
    "hops": hops.measure,
    "conditions": conditions.measure,
    "submission": submission.measure,
    "maps": maps.measure,
    "patches": patches.measure,
}


def main() -> None:
    chosen = sys.argv[1:] or list(MEASUREMENTS)
    if unknown := set(chosen) - set(MEASUREMENTS):
        sys.exit(f"no measurement {', '.join(sorted(unknown))}; there are {', '.join(MEASUREMENTS)}")
    table = Table("figure", "measured", "beside it, in the same run", "ratio", "should be")
    for name in chosen:
        for figure in MEASUREMENTS[name]():
            ratio = "" if figure.ratio is None else f"{figure.ratio:.2f}"
            table.add_row(figure.name, figure.value, figure.peer, ratio, figure.goal)
    load = os.getloadavg()[0]
    Console().print(table, f"{os.cpu_count()} cores, load {load:.1f}; medians of three where it says so")


if __name__ == "__main__":
    main()
