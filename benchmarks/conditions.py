"""Conditions: one evaluation of typical ones, with a small and a large context."""

from __future__ import annotations

import timeit
from typing import Any

from benchmarks.figure import Figure
from schemas.conditions.condition import Condition

EXPRESSION = "output.score >= 80 && ctx.enrich.output.revenue > 100000"
SCHEMA = {"type": "object", "required": ["score"], "properties": {"score": {"type": "integer", "minimum": 80}}}
CONDITIONS: dict[str, dict[str, Any]] = {
    "cel": {"type": "cel", "expression": EXPRESSION},
    "json_schema": {"type": "json_schema", "schema": SCHEMA},
    "jsonpath": {"type": "jsonpath", "path": "$[?@ >= 80]"},
}
SIZES = {"1 KB": 1_000, "50 KB": 50_000, "8 MB": 8_000_000}
PYTHON = "o = v['output']['score'] >= 80 and v['ctx']['enrich']['output']['revenue'] > 100000"
TIMES = 50_000


def _variables(size: int) -> dict[str, Any]:
    return {
        "output": {"score": 91},
        "ctx": {
            "enrich": {"output": {"revenue": 250_000, "text": "x" * (size // 2)}},
            "other": {"output": {"rows": [{"n": n} for n in range(size // 20)]}},
        },
    }


def measure() -> list[Figure]:
    figures = []
    for size, length in SIZES.items():
        variables = _variables(length)
        bare = _microseconds(PYTHON, v=variables)
        for kind, source in CONDITIONS.items():
            if kind != "cel" and size != "1 KB":
                continue
            ours = _microseconds("holds(v)", holds=Condition(source).holds, v=variables)
            peer = f"a comparison in Python {bare:.2f} us"
            figures.append(
                Figure(f"{kind} condition, {size} of context", f"{ours:.2f} us", peer, ours / bare, "under 10 us")
            )
    return figures


def _microseconds(statement: str, **names: Any) -> float:
    return min(timeit.repeat(statement, globals=names, number=TIMES, repeat=5)) / TIMES * 1e6
