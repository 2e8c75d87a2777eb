"""The question: which workflow, or which values of one threshold, a batch's runs are routed again by."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pavane.whatif.swept import SweptCondition, swept_ir
from pavane.whatif.threshold import Threshold, find_threshold, read_values
from schemas.compiler.compiler import compile_workflow
from schemas.errors import InvalidDocument, Problem
from schemas.ir import IR
from schemas.revision import revise


@dataclass(frozen=True, slots=True)
class Question:
    """The changed IR; of a sweep that of its first value, and the condition that is asked at all of them."""

    base: IR  # that the batch's items begin with now
    ir: IR
    threshold: Threshold | None = None
    values: Sequence[float] = ()
    swept: SweptCondition | None = None
    warnings: Sequence[Problem] = ()  # of the compiler, about the changed workflow

    @property
    def count(self) -> int:
        """How many answers there are."""
        return len(self.values) or 1


def ask_workflow(base: IR, workflow: Mapping[str, Any]) -> Question:
    """Raises InvalidDocument."""
    try:
        compiled = compile_workflow(workflow)
    except InvalidDocument as error:
        raise InvalidDocument(Problem("/workflow" + p.path, p.code, p.message) for p in error.problems) from None
    return Question(base, compiled.ir, warnings=compiled.warnings)


def ask_operations(base: IR, operations: Any) -> Question:
    """Raises InvalidDocument."""
    revision = revise(base, operations)
    return Question(base, revision.ir, warnings=revision.warnings)


def ask_sweep(base: IR, path: str, values: Sequence[Any]) -> Question:
    """Raises InvalidDocument."""
    threshold, numbers = find_threshold(base.workflow, path), read_values(values)
    other = next((value for value in numbers if threshold.at(value) != threshold.expression), None)
    if other is None:
        return Question(base, base, threshold, numbers)
    first = revise(base, threshold.operations(other)).ir
    ir, swept = swept_ir(base, first, [threshold.condition_at(value) for value in numbers])
    return Question(base, ir, threshold, numbers, swept)
