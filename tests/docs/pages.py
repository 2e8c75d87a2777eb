"""Pages of documentation, as their tests read them."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
PAGES = sorted(DOCS.rglob("*.md"))
ENTRANCES = [ROOT / "README.md", ROOT / "examples" / "README.md", ROOT / "benchmarks" / "README.md"]
"""Pages outside docs/ that lead into it."""

_FENCE = re.compile(r"^```([a-z]*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_LINK = re.compile(r"\[[^\]\n]+\]\(([^)\s]+)\)")


def named(path: Path) -> str:
    """A page's name in test ids and failures."""
    return str(path.relative_to(ROOT))


def page(name: str) -> str:
    """The text of docs/<name>.md."""
    return (DOCS / f"{name}.md").read_text(encoding="utf-8")


def fences(text: str) -> Iterator[tuple[str, str]]:
    """(language, content) of each fenced block."""
    yield from _FENCE.findall(text)


def links(text: str) -> list[str]:
    """Targets of the links outside fences."""
    return _LINK.findall(_FENCE.sub("", text))


def anchors(text: str) -> set[str]:
    """What `#...` may name on a page, as GitHub makes it of the headings."""
    headings = re.findall(r"^#+ (.+)$", _FENCE.sub("", text), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).strip().replace(" ", "-") for heading in headings}


def rows(text: str) -> dict[str, list[str]]:
    """The rows of all tables whose first cell is one or more names in back quotes: name -> the other cells."""
    found: dict[str, list[str]] = {}
    for line in text.splitlines():
        if line.startswith("| `"):
            first, *others = [cell.strip().replace("\\|", "|") for cell in re.split(r"(?<!\\)\|", line.strip("|"))]
            found |= dict.fromkeys(re.findall(r"`([^`]+)`", first), others)
    return found


def commands(text: str) -> list[str]:
    """Every command line of ours that a page shows, without `pavane`: in fences, and in back quotes."""
    shown = [line for _, content in fences(text) for line in content.splitlines()]
    shown += re.findall(r"`([^`\n]+)`", _FENCE.sub("", text))
    found = (re.search(r"(?:^|[\s/])pavane +(-*[a-z].*)$", line.strip().removeprefix("# ")) for line in shown)
    return [match[1] for match in found if match]
