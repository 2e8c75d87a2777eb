"""GPUs over time as a picture: SVG as text, readable in light and in dark viewers.

Each row is a bar: its height is the GPU's time, a colour a model, hatched where a model loads and nothing runs, light
where nothing happens. Marks under a bar are all its loads.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import groupby
from typing import TypeVar
from xml.sax.saxutils import escape

from pavane.planning.timeline import Segment

WIDTH, LABEL, RIGHT = 1_000, 150, 20
PLOT = WIDTH - LABEL - RIGHT
TOP, BAR, MARKS, ROW = 62, 36, 5, 54
COLOURS = ("#0072b2", "#e69f00", "#009e73", "#cc79a7", "#56b4e9", "#d55e00", "#b8a900", "#8a63d2")
"""Apart for colour-blind readers too: after Okabe and Ito."""
LOADING, IDLE = "loading", "idle"
_TICKS = (0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 15, 30, 60, 120, 240, 480, 960, 1_920, 3_840)
_STYLE = """
  text { font: 13px system-ui, sans-serif; fill: #24292f } .title { font-weight: 600; font-size: 15px }
  .axis { stroke: #8c959f } .grid { stroke: #8c959f; stroke-opacity: .3 } .idle { fill: #e3e7eb }
  .load { fill: #24292f } .hatch { stroke: #24292f } .under { fill: #afb8c1 }
  @media (prefers-color-scheme: dark) {
    text { fill: #e6edf3 } .idle { fill: #2d333b }
    .load { fill: #e6edf3 } .hatch { stroke: #e6edf3 } .under { fill: #57606a }
  }"""

Cell = TypeVar("Cell")
Row = tuple[str, Sequence[Segment]]
_Column = tuple[int, ...]
"""Pixels of each layer, from below: the models, then loading."""


def draw(rows: Sequence[Row], title: str, *, begin: float = 0.0, end: float | None = None) -> str:
    """The picture of some rows of (label, segments), between two times in seconds; by default all of it."""
    until = max((segment.end for _, row in rows for segment in row), default=1.0) if end is None else end
    until = max(until, begin + 1e-3)
    models = sorted(
        {model for _, row in rows for segment in row for model in (*segment.active, segment.loading) if model}
    )
    colours = {model: COLOURS[place % len(COLOURS)] for place, model in enumerate(models)}
    bottom = TOP + ROW * len(rows)
    parts = [
        *_head(title, rows, bottom + 34),
        *_legend(colours),
        *_axis(begin, until, bottom),
        *(part for place, row in enumerate(rows) for part in _row(row, TOP + ROW * place, colours, begin, until)),
        "</svg>\n",
    ]
    return "\n".join(parts)


def _head(title: str, rows: Sequence[Row], height: int) -> Iterator[str]:
    yield (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" width="{WIDTH}" height="{height}" '
        'role="img" aria-labelledby="title says">'
    )
    yield f'<title id="title">{escape(title)}</title>'
    yield f'<desc id="says">{escape("; ".join(_in_words(label, row) for label, row in rows))}</desc>'
    yield f"<style>{_STYLE}\n</style>"
    yield (
        '<defs><pattern id="loading" width="6" height="6" patternUnits="userSpaceOnUse" patternTransform="rotate(45)">'
        '<rect class="under" width="6" height="6"/><path class="hatch" d="M0 0v6" stroke-width="4"/></pattern></defs>'
    )
    yield f'<text class="title" x="12" y="18">{escape(title)}</text>'


def _in_words(label: str, row: Sequence[Segment]) -> str:
    whole = sum(segment.seconds for segment in row) or 1.0
    active = sum(segment.seconds for segment in row if segment.active) / whole
    loads = sum(1 for model, _ in groupby(row, key=lambda segment: segment.loading) if model)
    return f"{label}: active {active:.0%} of the time, {loads} loads"


def _legend(colours: Mapping[str, str]) -> Iterator[str]:
    x = float(LABEL)
    entries = [(model, f'fill="{colour}"') for model, colour in colours.items()]
    for name, paint in [*entries, (LOADING, 'fill="url(#loading)"'), (IDLE, 'class="idle"')]:
        yield f'<rect x="{x:g}" y="30" width="13" height="13" {paint}/>'
        yield f'<text x="{x + 18:g}" y="41">{escape(name)}</text>'
        x += 40 + 7.2 * len(name)


def _axis(begin: float, end: float, bottom: int) -> Iterator[str]:
    minutes = (end - begin) / 60
    step = next((tick for tick in _TICKS if minutes / tick <= 12), _TICKS[-1])
    tick = -(-begin // (60 * step)) * step
    while tick * 60 <= end + 1e-9:
        x = LABEL + PLOT * (tick * 60 - begin) / (end - begin)
        yield f'<path class="grid" d="M{x:.1f} {TOP - 6}V{bottom}"/>'
        yield f'<text x="{x:.1f}" y="{bottom + 18}" text-anchor="middle">{tick:.6g}</text>'
        tick += step
    yield f'<path class="axis" d="M{LABEL} {bottom}h{PLOT}"/>'
    yield f'<text x="{LABEL - 10}" y="{bottom + 18}" text-anchor="end">minutes</text>'


def _row(row: Row, y: int, colours: Mapping[str, str], begin: float, end: float) -> Iterator[str]:
    label, segments = row
    columns, marks = _columns(segments, list(colours), begin, end)
    yield f'<text x="{LABEL - 10}" y="{y + BAR / 2 + 5:g}" text-anchor="end">{escape(label)}</text>'
    over = min(max((segment.end for segment in segments), default=begin), end)
    yield f'<rect class="idle" x="{LABEL}" y="{y}" width="{PLOT * (over - begin) / (end - begin):.1f}" height="{BAR}"/>'
    paints = [*(f'fill="{colour}"' for colour in colours.values()), 'fill="url(#loading)"']
    for layer, paint in enumerate(paints):
        if path := "".join(_boxes(columns, layer, y + BAR)):
            yield f'<path {paint} d="{path}"/>'
    runs = [(LABEL + first, width) for first, width, loads in _runs(marks) if loads]
    if runs:
        yield f'<path class="load" d="{"".join(_box(x, y + BAR + 2, width, MARKS) for x, width in runs)}"/>'


def _columns(
    segments: Iterable[Segment], models: Sequence[str], begin: float, end: float
) -> tuple[list[_Column], list[bool]]:
    """What each column of pixels shows, and whether a load falls into it."""
    place = {model: layer for layer, model in enumerate(models)}
    alone = len(models)
    layers = [[0.0] * PLOT for _ in range(alone + 1)]
    marks = [False] * PLOT
    scale = PLOT / (end - begin)
    for segment in segments:
        shown = [place[model] for model in segment.active] or ([alone] if segment.loading else [])
        for column, part in _covered(segment, begin, scale) if shown else ():
            for layer in shown:
                layers[layer][column] += part / len(shown)
            marks[column] = marks[column] or segment.loading is not None
    return [_pixels([layer[column] for layer in layers]) for column in range(PLOT)], marks


def _covered(segment: Segment, begin: float, scale: float) -> Iterator[tuple[int, float]]:
    """The columns that a segment lies in, and the part of each."""
    first, last = max((segment.begin - begin) * scale, 0.0), min((segment.end - begin) * scale, float(PLOT))
    column = int(first)
    while column < last:
        yield column, min(last, column + 1) - max(first, column)
        column += 1


def _pixels(parts: Sequence[float]) -> _Column:
    """Heights whose sums are rounded, so that layers leave no gaps."""
    heights, below, total = [], 0, 0.0
    for part in parts:
        total += part
        reached = round(min(total, 1.0) * BAR)
        heights.append(reached - below)
        below = reached
    return tuple(heights)


def _boxes(columns: Sequence[_Column], layer: int, bottom: int) -> Iterator[str]:
    cuts = [(sum(column[: layer + 1]), column[layer]) for column in columns]
    for first, width, (top, height) in _runs(cuts):
        if height:
            yield _box(LABEL + first, bottom - top, width, height)


def _runs(cells: Sequence[Cell]) -> Iterator[tuple[int, int, Cell]]:
    """Equal neighbours together: (first, how many, what)."""
    first = 0
    for cell, group in groupby(cells):
        width = sum(1 for _ in group)
        yield first, width, cell
        first += width


def _box(x: float, y: float, width: float, height: float) -> str:
    return f"M{x:g} {y:g}h{width:g}v{height:g}h-{width:g}z"
