"""docs/expressions.md names everything that an author can write and meet."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from schemas.expressions import error
from schemas.expressions.budget import SIZE, STEPS
from schemas.expressions.expression import VARIABLES
from schemas.expressions.functions import GLOBALS, METHODS
from schemas.expressions.parser import MACROS, MAX_DEPTH
from schemas.expressions.scanner import MAX_NESTING, MAX_TOKENS
from schemas.limits import LIMITS

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "expressions.md").read_text()
CODES = {
    code
    for path in (ROOT / "schemas" / "expressions").glob("*.py")
    for code in re.findall(r'(?:Error|error|_refused)\(\s*(?:part, [^"]+"[^"]+", )?"([a-z-]+)"[,)]', path.read_text())
}


@pytest.mark.parametrize("name", [*GLOBALS, *METHODS, *MACROS, "has"])
def test_functions_and_macros(name: str) -> None:
    assert re.search(rf"[`.]{name}\(", PAGE)


@pytest.mark.parametrize("name", VARIABLES)
def test_variables(name: str) -> None:
    assert f"`{name}`" in PAGE


def test_error_codes() -> None:
    assert {"syntax", "budget", "no-such-field", "duplicate-key", "unclosed"} <= CODES
    assert [code for code in sorted(CODES) if f"`{code}`" not in PAGE] == []


def test_error_codes_are_in_the_docstrings() -> None:
    known = f"{error.ExpressionError.__doc__}{error.EvaluationError.__doc__}{error.TemplateError.__doc__}"
    assert [code for code in sorted(CODES) if f"`{code}`" not in known] == []


@pytest.mark.parametrize(
    "limit", [STEPS, SIZE, MAX_TOKENS, MAX_DEPTH, MAX_NESTING, LIMITS.expression_bytes, LIMITS.prompt_bytes]
)
def test_limits(limit: int) -> None:
    assert f"{limit:,}" in PAGE
