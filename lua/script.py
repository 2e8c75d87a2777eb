"""Scripts: read from this folder, includes put in, the names of KEYS and ARGV bound as their header lists them.

A header line `-- ARGV    prefix run_id now` makes `local prefix, run_id, now = ARGV[1], ARGV[2], ARGV[3]` (in `now` and
nothing else, a number). `--@include parts/keys` puts the part in at that line.
"""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass
from functools import cached_property
from importlib.resources import files

_HEADER = re.compile(r"^-- (KEYS|ARGV) +(.*)$", re.MULTILINE)
_INCLUDE = re.compile(r"^--@include +(.+)$", re.MULTILINE)


@dataclass(frozen=True)
class Script:
    """One script, ready for EVALSHA."""

    name: str
    source: str
    keys: tuple[str, ...]
    args: tuple[str, ...]

    @cached_property
    def sha(self) -> str:
        return hashlib.sha1(self.source.encode(), usedforsecurity=False).hexdigest()


def load_script(name: str) -> Script:
    """The script of file `<name>.lua`. Raises FileNotFoundError if there is none."""
    text = _read(name)
    header = dict(_HEADER.findall(text))
    keys, args = (tuple(re.sub(r"\(.*?\)", "", header.get(kind, "")).split()) for kind in ("KEYS", "ARGV"))
    body = _INCLUDE.sub(lambda line: "\n".join(_read(part) for part in line[1].split()), text)
    return Script(name, _bindings("KEYS", keys) + _bindings("ARGV", args) + body, keys, args)


def _bindings(table: str, names: tuple[str, ...]) -> str:
    values = (f"tonumber({table}[{i}])" if name == "now" else f"{table}[{i}]" for i, name in enumerate(names, 1))
    return f"local {', '.join(names)} = {', '.join(values)}\n" if names else ""


def _read(name: str) -> str:
    return files("lua").joinpath(f"{name}.lua").read_text(encoding="utf-8")
