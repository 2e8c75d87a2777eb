"""The picture of the docs: what one GPU does while the same items go through, in four ways."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from benchmarks.gpus.batch import Course
from benchmarks.gpus.peers import simulate
from benchmarks.gpusim.gpusim import Item
from benchmarks.gpusim.ollama import Ollama
from benchmarks.gpusim.wave import Wave
from pavane.planning.picture import draw

SVG = Path(__file__).resolve().parents[2] / "docs" / "pictures" / "gpus.svg"
SHOWN_S = 4_500.0
SERIAL_GAP_S = 0.12  # of a slot between two tasks, where nothing is fetched ahead


def draw_ways(items: Sequence[Item], course: Course) -> str:
    """`course`: the real run of these items on one GPU. The others are simulated by the same laws."""
    ways = {
        "item first": simulate(items, 1, Ollama(1, "item")),
        "FIFO": simulate(items, 1, Ollama(16, "fifo")),
        "waves of 35": simulate(items, 1, Wave(35, "pipe", True), SERIAL_GAP_S),
    }
    rows = [(f"{name}, {_clock(way.seconds)}", way.first_gpu) for name, way in ways.items()]
    rows.append((f"Pavane, {_clock(course.seconds)}", course.gpus[0].segments))
    first = f"the first {SHOWN_S / 60:.0f} minutes, and how long all of it takes"
    title = f"{len(items)} items, four models, one 8 GB GPU: {first}"
    return draw(rows, title, end=SHOWN_S)


def _clock(seconds: float) -> str:
    minutes = round(seconds / 60)
    return f"{minutes // 60}:{minutes % 60:02d} h"
