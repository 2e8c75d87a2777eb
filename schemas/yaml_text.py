"""Documents as YAML for people: members in their order, texts of several lines as they read."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import yaml


class _Dumper(getattr(yaml, "CSafeDumper", yaml.SafeDumper)):  # type: ignore[misc]
    def ignore_aliases(self, data: Any) -> bool:
        return True


_NUMBER_LIKE = re.compile(r"[-+.]?\d")  # `1e3` is text to PyYAML (YAML 1.1), and a number to our reader (1.2)


def _represented(dumper: Any, text: str) -> Any:
    style = "|" if "\n" in text else "'" if _NUMBER_LIKE.match(text) else None
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style=style)


_Dumper.add_representer(str, _represented)


def yaml_text(document: Mapping[str, Any]) -> str:
    """What `read_workflow` reads as the same document."""
    return str(yaml.dump(document, Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=2**20))
