"""A figure: what was measured, what it is compared with in the same run, and what it should reach."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Figure:
    name: str
    value: str
    peer: str
    ratio: float | None  # value / peer
    goal: str
