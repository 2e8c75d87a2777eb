"""Patches that must be refused."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from schemas.errors import InvalidDocument, Problem
from schemas.limits import LIMITS
from schemas.patch import apply_patch


def refused(document: Any, operations: Any, **limits: int) -> tuple[Problem, ...]:
    """The problems of a patch that must be refused."""
    with pytest.raises(InvalidDocument) as caught:
        apply_patch(document, operations, replace(LIMITS, **limits))
    return caught.value.problems


def problem(document: Any, operations: Any, **limits: int) -> Problem:
    """The only one."""
    (only,) = refused(document, operations, **limits)
    assert only.message.endswith(".") or only.code == "test-failed"
    return only
