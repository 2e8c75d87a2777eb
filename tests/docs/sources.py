"""What the sources say that there is: read from their text, so that nothing has to be started."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterable, Iterator
from pathlib import Path

from tests.docs.pages import ROOT

_CODE = re.compile(r"[a-z0-9][a-z0-9-]*")
_METHODS = {"get", "post", "put", "patch", "delete"}


def calls(*paths: Path) -> Iterator[ast.Call]:
    """Every call in the given files and folders."""
    for path in paths:
        for file in sorted(path.rglob("*.py")) if path.is_dir() else [path]:
            yield from (node for node in ast.walk(ast.parse(file.read_text())) if isinstance(node, ast.Call))


def called(call: ast.Call) -> str:
    """The last part of what is called: `refuse` of `place.at(x).refuse(...)`."""
    return getattr(call.func, "attr", getattr(call.func, "id", ""))


def texts(node: ast.AST) -> list[str]:
    """The string constants in a part of a program."""
    return [part.value for part in ast.walk(node) if isinstance(part, ast.Constant) and isinstance(part.value, str)]


def problem_codes(*paths: Path) -> set[str]:
    """The codes of refusals and warnings. One that ends in `-` is the beginning of several."""
    codes: set[str] = set()
    for call in calls(*paths):
        if called(call) in ("refuse", "_refuse", "warn", "Problem"):
            places = call.args[1:2] if called(call) == "Problem" else call.args[:2]  # a mark may stand before the code
            given = [place for place in places if not isinstance(place, ast.JoinedStr)]  # a sentence
            codes |= {text for place in given for text in texts(place) if _CODE.fullmatch(text)}
    return codes


def routes(folder: Path) -> set[str]:
    """`GET /runs/{}`: method and path of each HTTP route; names of parameters are left out."""
    found = set()
    for call in calls(folder):
        if called(call) in _METHODS and call.args and isinstance(call.func, ast.Attribute):
            first = call.args[0]
            if isinstance(first, ast.Constant) and str(first.value).startswith("/"):
                found.add(f"{called(call).upper()} {without_names(str(first.value))}")
    return found


def without_names(path: str) -> str:
    return re.sub(r"\{[^}]*\}", "{}", path)


def runner_fields() -> set[str]:
    """The fields of `runner:<id>`: what the runner describes, and what its heartbeat adds."""
    described = [ast.parse((ROOT / "agent_runner" / "description.py").read_text())]
    beat = ast.parse((ROOT / "agent_runner" / "heartbeat.py").read_text())
    return _keys(described) | {key for key in _keys([beat]) if key.endswith("_at") and key != "served_at"}


def _keys(trees: Iterable[ast.AST]) -> set[str]:
    """Constants that are keys of dict literals or subscripts."""
    keys: list[ast.AST | None] = []
    for tree in trees:
        for node in ast.walk(tree):
            if isinstance(node, ast.Dict):
                keys += node.keys
            elif isinstance(node, ast.Subscript):
                keys.append(node.slice)
    return {key.value for key in keys if isinstance(key, ast.Constant) and isinstance(key.value, str)}


def model_fields() -> set[str]:
    """The fields of `model:<model>`: what runners write, and the counts that scripts keep."""
    written: set[str] = set()
    for call in calls(ROOT / "agent_runner"):
        if called(call) in ("hset", "hdel", "hincrby", "hincrbyfloat") and ".model(" in ast.unparse(call.args[0]):
            written |= {texts(call.args[1])[0].rstrip("|")} if texts(call.args[1]) else set()
    for script in (ROOT / "lua").rglob("*.lua"):
        written |= set(re.findall(r"count_model\([^,]+, '(\w+)'", script.read_text()))
    return written


def dead_letter_reasons() -> set[str]:
    packages = [ROOT / name for name in ("lua", "coordinator", "agent_runner", "orchestrator_api", "history")]
    reasons = {texts(call.args[0])[0] for call in calls(*packages) if called(call) == "dead_letter" and call.args}
    for file in (path for package in packages for path in package.rglob("*.*") if path.suffix in (".py", ".lua")):
        text = file.read_text()
        if "dead_letters" in text:
            reasons |= set(re.findall(r"""['"]reason['"][:,] ['"](\w+)['"]""", text))
    return reasons


def header(script: Path, kind: str) -> str:
    """The lines of a script's header that begin with `-- <kind>`, with those that go on."""
    found = re.search(rf"^-- {kind} +(.*(?:\n--  +.*)*)", script.read_text(), re.MULTILINE)
    return found[1] if found else ""
