"""The picture: XML that stands alone, says in words what it shows, and has the right areas."""

from __future__ import annotations

import re
from collections.abc import Sequence
from xml.etree import ElementTree

import pytest

from pavane.planning.picture import BAR, COLOURS, PLOT, draw
from pavane.planning.timeline import Segment, Timeline, shares

SVG = "{http://www.w3.org/2000/svg}"
ROW = [
    Segment(0, 60, (), "gemma3:4b"), Segment(60, 300, ("gemma3:4b",)), Segment(300, 540, ("gemma3:4b", "phi3")),
    Segment(540, 600),
]  # fmt: skip


def areas(picture: str) -> dict[str, float]:
    """By paint, the share of a bar."""
    found: dict[str, float] = {}
    for path in ElementTree.fromstring(picture).iter(f"{SVG}path"):
        boxes = re.findall(r"h([\d.]+)v(\d+)h-", path.get("d", ""))
        if boxes and path.get("fill"):
            paint = str(path.get("fill"))
            found[paint] = found.get(paint, 0.0) + sum(float(w) * float(h) for w, h in boxes) / (PLOT * BAR)
    return found


def test_colours_cover_what_models_had_of_the_gpu() -> None:
    shown = areas(draw([("1 · 8GB", ROW)], "w"))
    assert shown == {
        COLOURS[0]: pytest.approx(0.6, abs=0.01),
        COLOURS[1]: pytest.approx(0.2, abs=0.01),
        "url(#loading)": pytest.approx(0.1, abs=0.01),
    }


def test_a_part_of_the_time() -> None:
    shown = areas(draw([("1", ROW)], "w", begin=60, end=300))
    assert shown == {COLOURS[0]: pytest.approx(1.0)}


def test_many_short_segments_add_up() -> None:
    row: list[Segment] = []
    for number in range(20_000):
        row += [Segment(number, number + 0.25, (), "a"), Segment(number + 0.25, number + 1, ("a",))]
    picture = draw([("1", row)], "w")
    assert areas(picture)[COLOURS[0]] == pytest.approx(0.75, abs=0.02)
    assert len(picture) < 100_000


def test_it_says_in_words_what_it_shows() -> None:
    root = ElementTree.fromstring(draw([("item-first <1>", ROW), ("other", ROW[1:2])], "A & B"))
    assert root.get("role") == "img"
    assert root.findtext(f"{SVG}title") == "A & B"
    assert (
        root.findtext(f"{SVG}desc")
        == "item-first <1>: active 80% of the time, 1 loads; other: active 100% of the time, 0 loads"
    )
    words = [text.text for text in root.iter(f"{SVG}text")]
    assert {"gemma3:4b", "phi3", "loading", "idle", "minutes", "0", "5", "10"} <= set(words)


@pytest.mark.parametrize("rows", [[], [("1", [])], [("1", [Segment(0, 0.001, ("a",))])], [("1", [Segment(0, 4e6)])]])
def test_small_and_large_ones(rows: Sequence[tuple[str, Sequence[Segment]]]) -> None:
    root = ElementTree.fromstring(draw(rows, "w"))
    assert len(list(root.iter(f"{SVG}text"))) < 40


def test_a_timeline_keeps_what_changes() -> None:
    line = Timeline()
    line.note(0.0, (), "a")
    line.note(1.0, (), "a")
    line.note(2.0, ("a",), None)
    line.note(5.0, (), None)
    line.note(5.0, ("a", "b"), None)
    expected = [Segment(0, 2, (), "a"), Segment(2, 5, ("a",)), Segment(5, 9, ("a", "b"))]
    assert line.segments(9.0) == expected
    assert shares(expected) == {"a": 5.0, "b": 2.0}
    assert line.segments(4.0) == [expected[0], Segment(2, 4, ("a",))]
