"""Files that commands read and write: workflows, the items of batches, results."""

import csv
import sys
from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import orjson

from schemas.errors import InvalidDocument
from schemas.limits import LIMITS
from schemas.workflow import Media, json_problems, read_text, read_workflow

YAML_ENDINGS = (".yaml", ".yml")


class UnusableFile(ValueError):
    """A file that can not be read or written; the text names it, and the line."""


def read_document(path: Path) -> dict[str, Any]:
    """A workflow file; `-` is stdin. JSON by its name or first character, else YAML.

    Raises UnusableFile, and InvalidDocument for what is no document.
    """
    return read_workflow(*_text(path))


def read_operations(path: Path) -> dict[str, Any]:
    """A patch file: {operations, ...}, or their list alone; `-` is stdin. JSON or YAML, as `read_document`."""
    limits = replace(LIMITS, json_depth=LIMITS.json_depth + 3)  # values lie three levels inside
    found = read_text(*_text(path), limits)
    asked = {"operations": found} if isinstance(found, list) else found
    if problems := json_problems(asked, limits):
        raise InvalidDocument(problems)
    return dict(asked)


def _text(path: Path) -> tuple[bytes, Media]:
    try:
        if str(path) == "-":
            raw = sys.stdin.buffer.read(LIMITS.workflow_bytes + 1)
        else:
            with path.open("rb") as file:
                raw = file.read(LIMITS.workflow_bytes + 1)
    except OSError as error:
        raise UnusableFile(f"{path}: {error.strerror}") from None
    is_json = path.suffix == ".json" or (path.suffix not in YAML_ENDINGS and raw.lstrip()[:1] in (b"{", b"["))
    return raw, "json" if is_json else "yaml"


def read_items(path: Path) -> list[Any]:
    """Items from JSON lines, or from CSV with a header line: then each is an object of its cells, all text.

    Raises UnusableFile.
    """
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            return list(_csv_items(path, file) if path.suffix.lower() == ".csv" else _json_items(path, file))
    except OSError as error:
        raise UnusableFile(f"{path}: {error.strerror}") from None
    except UnicodeDecodeError as error:
        raise UnusableFile(f"{path} is not UTF-8: {error.reason} at byte {error.start}") from None


def _json_items(path: Path, lines: Iterator[str]) -> Iterator[Any]:
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            yield orjson.loads(line)
        except orjson.JSONDecodeError as error:
            raise UnusableFile(f"{path}, line {number}: not JSON: {error}") from None


def _csv_items(path: Path, lines: Iterator[str]) -> Iterator[dict[str, str]]:
    reader = csv.DictReader(lines, strict=True)
    try:
        for row in reader:
            if None in row or None in row.values():
                raise UnusableFile(f"{path}, line {reader.line_num}: not as many cells as the header has")
            yield row
    except csv.Error as error:
        raise UnusableFile(f"{path}, line {reader.line_num}: {error}") from None


def save_stream(path: Path, chunks: Iterable[bytes]) -> None:
    """Writes beside its place and moves it there, so that half an answer never looks like a whole one.

    Raises UnusableFile, and what reading `chunks` raises.
    """
    draft = path.with_name(f"{path.name}.part")
    try:
        with draft.open("wb") as file:
            for chunk in chunks:
                file.write(chunk)
        draft.replace(path)
    except OSError as error:
        raise UnusableFile(f"{path}: {error.strerror}") from None
    finally:
        draft.unlink(missing_ok=True)
