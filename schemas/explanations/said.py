"""What decisions, values and durations are in words. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from math import floor, log10
from typing import Any

import orjson

RESULTS = {"back": "goes round once more", "break": "is done", "timeout": "has no passes left"}


def names(nodes: Iterable[str]) -> str:
    """`a`, `a and b`, `a, b and c`."""
    *head, last = [*nodes] or [""]
    return f"{', '.join(head)} and {last}" if head else last


def decided(decision: Mapping[str, Any]) -> str:
    """`rule 1, because `output.score >= 80` was true (output.score is 81)`."""
    holds, missed = _conditions(decision, "true"), _conditions(decision, "false")
    if "rule" in decision:
        rule = decision["rule"]
        what = "its default" if rule == "default" else f"rule {rule + 1}"
    elif "pass" in decision:
        most = f" of at most {decision['max']}" if "max" in decision else ""
        what = f"after pass {decision['pass']}{most} it {RESULTS.get(decision['result'], decision['result'])}"
    else:
        what = "by the conditions of its edges"
    because = []
    if holds:
        because.append(f"{_texts(holds)} {'was' if len(holds) == 1 else 'were'} true")
    if missed:
        because.append(f"{_texts(missed)} {'was' if len(missed) == 1 else 'were'} false")
    why = f", because {' and '.join(because)}" if because else ""
    return f"{what}{why}{values(decision)}"


def values(decision: Mapping[str, Any]) -> str:
    """` (output.score is 71, there is no output.grade)`."""
    told = [f"{path} is {orjson.dumps(value).decode()}" for path, value in decision.get("values", {}).items()]
    told += [f"{path} is {text}" for path, text in decision.get("cut", {}).items()]
    told += [f"there is no {path}" for path in decision.get("absent", ())]
    return f" ({', '.join(told)})" if told else ""


def _conditions(decision: Mapping[str, Any], name: str) -> list[str]:
    given = decision.get(name, [])
    if isinstance(given, str):
        return [given]
    return [one if isinstance(one, str) else f"{one[1]}` for `{one[0]}" for one in given]


def _texts(conditions: Sequence[str]) -> str:
    return names(f"`{text}`" for text in conditions)


def span(ms: float) -> str:
    """`340 ms`, `4.21 s`, `3 min 20 s`, `2 h 5 min`."""
    if ms < 1_000:
        return f"{ms:.0f} ms"
    if ms < 60_000:
        return f"{ms / 1_000:.3g} s"
    seconds = round(ms / 1_000)
    if seconds < 3_600:
        return f"{seconds // 60} min {seconds % 60} s"
    return f"{seconds // 3_600} h {seconds % 3_600 // 60} min"


def size(count: int) -> str:
    return f"{count} bytes" if count < 10_000 else f"{count / 1_024:.0f} KB"


def money(amount: float) -> str:
    """`0.0000027`, `0.021`, `12.40`: two digits that count, and never an exponent."""
    digits = 2 if amount >= 1 or amount <= 0 else 1 - floor(log10(amount))
    return f"{amount:.{max(2, min(digits, 12))}f}"
