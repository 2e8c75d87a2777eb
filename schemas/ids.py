"""Identifiers: the patterns that they must match and how new ones are made."""

from __future__ import annotations

import os
import re
import time

WORKFLOW_ID = re.compile(r"^[a-z0-9][a-z0-9_-]{0,63}$")
NODE_ID = re.compile(r"^[a-zA-Z_][a-zA-Z0-9_]{0,63}$")
MCP_SERVER = re.compile(r"[a-z0-9][a-z0-9_-]{0,63}")
NAME = re.compile(r"^[A-Za-z0-9][A-Za-z0-9_.:-]{0,127}$")
"""Runs, batches, runners and handlers."""
TOKEN_ID = re.compile(r"^[A-Za-z0-9][A-Za-z0-9_.:-]{0,255}$")
"""A run's id and what numbers the token in it."""


def uuid7(now_ms: int | None = None) -> str:
    """A UUID version 7 (RFC 9562, section 5.7) as 32 hex digits: sorts by creation time."""
    ms = int(time.time() * 1000) if now_ms is None else now_ms
    random = int.from_bytes(os.urandom(10), "big")
    value = (ms & (1 << 48) - 1) << 80 | 0x7 << 76 | (random >> 68 & 0xFFF) << 64 | 0b10 << 62
    return f"{value | random & (1 << 62) - 1:032x}"


def new_run_id() -> str:
    return f"run_{uuid7()}"


def new_batch_id() -> str:
    return f"batch_{uuid7()}"
