"""Regular expressions by RE2: time linear in the text whatever the pattern, and bounded memory."""

from __future__ import annotations

import functools
from typing import Any

import re2

from schemas.expressions.budget import Budget
from schemas.expressions.conversions import encoded
from schemas.expressions.error import EvaluationError
from schemas.expressions.values import no_overload

_LONGEST_PATTERN = 1024
_MEMORY = 1 << 18
# RE2 takes at worst about 3 ns a byte and instruction (measured); a step is about 100 ns.
_INSTRUCTION_BYTES_A_STEP = 32
_COMPILE_STEPS = 10_000


def _options() -> Any:
    options = re2.Options()
    options.max_mem = _MEMORY
    options.never_capture = True
    options.log_errors = False
    return options


@functools.lru_cache(maxsize=256)
def compile_pattern(pattern: str) -> Any:
    """A compiled pattern of re2. Raises EvaluationError `bad-pattern`."""
    if len(pattern) > _LONGEST_PATTERN:
        raise EvaluationError("bad-pattern", f"the pattern is longer than {_LONGEST_PATTERN} characters")
    try:
        return re2._Regexp(encoded(pattern), _options())
    except re2.error as error:
        reason = error.args[0] if error.args else "not RE2"
        reason = reason.decode("utf-8", "replace") if isinstance(reason, bytes) else str(reason)
        raise EvaluationError("bad-pattern", f"the pattern is no regular expression: {reason[:80]}") from None


def matches(budget: Budget, text: Any, pattern: Any) -> bool:
    """Whether the pattern is found anywhere in the text."""
    if type(text) is not str or type(pattern) is not str:
        raise no_overload("matches()", text, pattern)
    if pattern not in budget.patterns:
        budget.spend(_COMPILE_STEPS)
        budget.patterns.add(pattern)
    compiled = compile_pattern(pattern)
    subject = encoded(text)
    budget.spend(10 + len(subject) * compiled.programsize // _INSTRUCTION_BYTES_A_STEP)
    return compiled.search(subject) is not None
