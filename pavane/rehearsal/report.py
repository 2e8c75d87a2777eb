"""The report of played cases: one line each, and of a failed one its path and what was not as expected."""

from __future__ import annotations

import difflib
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from pavane.cli.output import compact, one_line, span
from pavane.rehearsal.matching import MISSING, Difference
from pavane.rehearsal.player import Played
from pavane.rehearsal.record import Record, Step

WIDTH = 100  # of a value on the path
LONGEST = 60  # lines of one difference


@dataclass(frozen=True, slots=True)
class Marks:
    """What stands before a case's name."""

    passed: str
    failed: str


SIGNS = Marks("\u2713", "\u2717")
WORDS = Marks("PASS", "FAIL")


def lines(played: Played, marks: Marks) -> Iterator[str]:
    """What is printed for one case."""
    if played.passed:
        yield f"{marks.passed} {played.case.name}"
        return
    yield f"{marks.failed} {played.case.name}"
    for line in _path(played):
        yield f"    {line}"
    if played.fault is not None:
        yield f"  a fault of the case: {played.fault}"
        if played.fault.rendered is not None:
            yield "  it was given:"
            yield from (f"    {line}" for line in _given(played.fault.rendered))
    for difference in played.differences:
        yield from _difference(difference)


def summary(all_played: list[Played], seconds: float) -> str:
    failed = sum(not played.passed for played in all_played)
    cases = f"{len(all_played)} case{'s' if len(all_played) != 1 else ''}"
    return f"{cases}, {failed} failed, in {seconds:.2f} s" if failed else f"{cases} passed in {seconds:.2f} s"


def as_json(played: Played) -> dict[str, Any]:
    """One case for machines."""
    record = played.record
    state = record.state()
    shown: dict[str, Any] = {
        "name": played.case.name,
        "passed": played.passed,
        "status": state.status or None,
        "output": record.result(state),
        "error": state.error,
        "path": record.path,
        "took_ms": played.took_ms,
        "differences": [_as_dict(difference) for difference in played.differences],
    }
    if played.fault is not None:
        fault = {"place": played.fault.place, "message": played.fault.message, "rendered": played.fault.rendered}
        shown["fault"] = {name: value for name, value in fault.items() if value is not None}
    return shown


def _as_dict(difference: Difference) -> dict[str, Any]:
    if difference.message:
        return {"place": difference.place, "message": difference.message}
    sides = {"expected": difference.expected, "actual": difference.actual}
    return {"place": difference.place} | {name: value for name, value in sides.items() if value is not MISSING}


# -- the path ----------------------------------------------------------------------------------------


def _path(played: Played) -> Iterator[str]:
    record = played.record
    shown = [(_place(record, step), step) for step in record.steps]
    width = min(max((len(place) for place, _ in shown), default=0), 40)
    for place, step in shown:
        yield f"{place:<{width}}  {_said(step)}"
    state = record.state()
    if state.ended_at is not None:
        error = f": {_error(state.error)}" if state.error else ""
        yield f"{state.status} after {span(played.took_ms)}{error}"


def _place(record: Record, step: Step) -> str:
    called = f"{step.run_id.removeprefix(record.run_id + ':')} > " if step.run_id != record.run_id else ""
    in_pass = f", pass {step.iteration}" if step.iteration else ""
    return f"{called}{step.node}{step.index}{in_pass}"


def _said(step: Step) -> str:
    if step.again:
        return f"failed, tries again: {_error(step.error)}"
    said = [f"failed: {_error(step.error)}"] if step.error is not None else []
    if step.decision is not None:
        said.append(_decided(step.decision))
    elif step.error is None:
        said.append(compact(step.value, WIDTH))
    return "; ".join([*said, *(f"counts as false: {fault}" for fault in step.condition_errors)])


def _decided(decision: Mapping[str, Any]) -> str:
    to = ", ".join(decision.get("next", decision.get("edges", ()))) or "nothing"
    if "rule" in decision:
        rule = decision["rule"]
        return f"{'default' if rule == 'default' else f'rule {rule + 1}'} -> {to}"
    if "pass" in decision:
        return f"{decision['result']} after pass {decision['pass']} -> {to}"
    return f"-> {to}"


def _error(error: Any) -> str:
    if not isinstance(error, Mapping):
        return one_line(error)
    return f"{error.get('class', 'error')}: {error.get('message', '')}"


# -- differences -------------------------------------------------------------------------------------


def _difference(difference: Difference) -> Iterator[str]:
    if difference.message:
        yield f"  {difference.place}: {difference.message}"
        return
    expected, actual = _text_lines(difference.expected), _text_lines(difference.actual)
    if max(len(expected), len(actual)) == 1 and len("".join(expected + actual)) <= WIDTH:
        yield f"  {difference.place}: expected {''.join(expected) or 'nothing'}, came {''.join(actual) or 'nothing'}"
        return
    yield f"  {difference.place}: - expected, + came"
    changes = difflib.ndiff(expected, actual)
    shown = [line for line in changes if not line.startswith("?")]
    yield from (f"    {line}" for line in shown[:LONGEST])
    if len(shown) > LONGEST:
        yield f"    ... {len(shown) - LONGEST} more lines"


def _given(rendered: Mapping[str, Any]) -> Iterator[str]:
    """What a node was given, field by field, texts as they are."""
    for name, value in rendered.items():
        text = value.splitlines() if isinstance(value, str) else _text_lines(value)
        if len(text) == 1:
            yield f"{name}: {text[0]}"
        else:
            yield f"{name}:"
            yield from (f"  {line}" for line in text)


def _text_lines(value: Any) -> list[str]:
    """A value as lines that can be compared: texts of several lines as they are, a path node by node, else JSON."""
    if value is MISSING:
        return []
    if isinstance(value, str) and "\n" in value:
        return value.splitlines()
    if isinstance(value, list) and value and all(isinstance(one, str) for one in value):
        return [str(one) for one in value]
    return json.dumps(value, ensure_ascii=False, indent=2).splitlines()
