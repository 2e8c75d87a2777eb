"""How two documents differ, for people: a unified diff of what they are as YAML."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from typing import Any

from schemas.yaml_text import yaml_text

MOST_LINES = 30_000
"""Lines of two documents, less those that both begin and end with: over it, all that is left counts as different."""


def document_diff(one: Mapping[str, Any], other: Mapping[str, Any], name: str, other_name: str) -> list[str]:
    """Lines as `diff -u` prints them; [] if nothing differs."""
    before, after = yaml_text(one).rstrip("\n").split("\n"), yaml_text(other).rstrip("\n").split("\n")
    first = next((n for n, pair in enumerate(zip(before, after, strict=False)) if pair[0] != pair[1]), None)
    if first is None and len(before) == len(after):
        return []
    first = min(len(before), len(after)) if first is None else first
    last = 0
    while last < min(len(before), len(after)) - first and before[-1 - last] == after[-1 - last]:
        last += 1
    if len(before) + len(after) - 2 * (first + last) <= MOST_LINES:
        return list(difflib.unified_diff(before, after, name, other_name, lineterm=""))
    removed, added = before[first : len(before) - last], after[first : len(after) - last]
    head = [f"--- {name}", f"+++ {other_name}", f"@@ -{first + 1},{len(removed)} +{first + 1},{len(added)} @@"]
    return [*head, *("-" + line for line in removed), *("+" + line for line in added)]
