"""Conditions: one evaluation of a typical one, with a small and a large context."""

from __future__ import annotations

import timeit
from typing import Any

from benchmarks.figure import Figure
from schemas.expressions.expression import parse_expression

TEXT = "output.score >= 80 && ctx.enrich.output.revenue > 100000"


def _variables(size: int) -> dict[str, Any]:
    return {
        "output": {"score": 91},
        "ctx": {
            "enrich": {"output": {"revenue": 250_000, "text": "x" * (size // 2)}},
            "other": {"output": {"rows": [{"n": n} for n in range(size // 20)]}},
        },
    }


def measure() -> list[Figure]:
    expression = parse_expression(TEXT)
    python = "o = v['output']['score'] >= 80 and v['ctx']['enrich']['output']['revenue'] > 100000"
    figures = []
    for size, name in ((1_000, "1 KB"), (50_000, "50 KB")):
        variables = _variables(size)
        ours = min(timeit.repeat(lambda v=variables: expression.holds(v), number=100_000, repeat=5)) * 10
        bare = min(timeit.repeat(python, globals={"v": variables}, number=100_000, repeat=5)) * 10
        figures.append(
            Figure(
                f"condition, {name} of context", f"{ours:.2f} us", f"the same in Python {bare:.2f} us", ours / bare,
                "under 5 us",
            )
        )  # fmt: skip
    return figures
