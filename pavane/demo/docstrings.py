"""Items of the demo: docstrings of Python's own standard library, read from its files without importing anything."""

import ast
import sysconfig
import warnings
from collections.abc import Iterator
from itertools import chain, islice
from pathlib import Path

SHORTEST = 80
LONGEST = 6_000
"""Characters. Shorter ones leave nothing to summarise; longer ones are cut, so that a prompt fits a context of 4096."""
LEFT_OUT = ("site-packages", "dist-packages", "test", "tests", "idlelib", "lib2to3", "turtledemo", "__pycache__")

Item = dict[str, str]


def docstrings(count: int) -> list[Item]:
    """{name, text} of the first `count` docstrings: of modules, then of what is public in them, by name.

    The same on every run of the same Python; fewer where it has fewer.
    """
    sources = list(_sources(Path(sysconfig.get_path("stdlib"))))
    of_modules = (item for name, path in sources for item in _items(name, path, of_module=True))
    of_members = (item for name, path in sources for item in _items(name, path, of_module=False))
    seen: dict[str, Item] = {}
    for item in chain(of_modules, of_members):
        seen.setdefault(item["name"], item)
        if len(seen) >= count:
            break
    return list(islice(seen.values(), count))


def _sources(root: Path) -> Iterator[tuple[str, Path]]:
    """(module name, file) of every public module of the standard library."""
    found = []
    for path in root.rglob("*.py"):
        parts = path.relative_to(root).with_suffix("").parts
        if parts[-1] == "__init__":
            parts = parts[:-1]
        if parts and not any(part in LEFT_OUT or part.startswith("_") or "-" in part for part in parts):
            found.append((".".join(parts), path))
    yield from sorted(found)


def _items(module: str, path: Path, *, of_module: bool) -> Iterator[Item]:
    tree = _parse(path)
    if tree is None:
        return
    if of_module:
        yield from _item(module, tree)
    else:
        yield from _members(module, tree)


def _members(name: str, parent: ast.Module | ast.ClassDef) -> Iterator[Item]:
    for node in parent.body:
        if not isinstance(node, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef) or node.name.startswith("_"):
            continue
        yield from _item(f"{name}.{node.name}", node)
        if isinstance(node, ast.ClassDef):
            yield from _members(f"{name}.{node.name}", node)


def _item(name: str, node: ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef) -> Iterator[Item]:
    text = (ast.get_docstring(node) or "").strip()
    if len(text) >= SHORTEST:
        yield {"name": name, "text": text[:LONGEST]}


def _parse(path: Path) -> ast.Module | None:
    try:
        with warnings.catch_warnings():  # old escapes in other people's code are not our news
            warnings.simplefilter("ignore")
            return ast.parse(path.read_bytes())
    except (OSError, SyntaxError, ValueError):
        return None
