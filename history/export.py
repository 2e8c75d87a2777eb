"""Export: recorded events as NDJSON, one gzipped file a lot, with a manifest beside it.

    <name>.ndjson.gz       a line an event: {run_id, seq, type, at, node_id, token_id, scope, data}; a run's events
                           follow on each other, in order
    <name>.manifest.json   {file, format, lines, runs, sha256 (of the file), exported_at (ms)}

A file has its name only when it is whole and on the disk, and its manifest only after that.
"""

from __future__ import annotations

import asyncio
import gzip
import hashlib
import os
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Any, BinaryIO

import orjson
from psycopg import AsyncCursor

from schemas.events import Event

FORMAT = 1
CHUNK = 2_000
FIELDS = ("run_id", "seq", "type", "at", "node_id", "token_id", "scope", "data")

Row = tuple[str, int, str, int, str, str, str, str]


@dataclass(frozen=True, slots=True)
class Exported:
    file: Path
    lines: int
    sha256: str


class Export:
    """Exports into one folder, which is made if it is missing. Methods raise OSError."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    async def write(self, name: str, rows: AsyncCursor[Any]) -> Exported:
        """All the cursor's rows, with the columns FIELDS (`at` in ms, `data` JSON text), ordered by run and seq.

        What an earlier, interrupted export left is begun anew. A file of this name with other content stays: the new
        one is numbered.
        """
        await asyncio.to_thread(self.folder.mkdir, parents=True, exist_ok=True)
        part = self.folder / f"{name}.part"
        lines = runs = 0
        last = ""
        with part.open("wb") as file:
            # No time and no name inside: the same events make the same file.
            with gzip.GzipFile("", "wb", 6, file, mtime=0) as packed:
                while chunk := await rows.fetchmany(CHUNK):
                    await asyncio.to_thread(_write_lines, packed, chunk)
                    for row in chunk:
                        runs += row[0] != last
                        last = row[0]
                    lines += len(chunk)
            await asyncio.to_thread(_to_disk, file)
        digest = await asyncio.to_thread(_sha256, part)
        target = await asyncio.to_thread(self._free, name, digest)
        part.rename(target)
        stem = target.name.removesuffix(".ndjson.gz")
        manifest = {
            "file": target.name, "format": FORMAT, "lines": lines, "runs": runs, "sha256": digest,
            "exported_at": int(time.time() * 1_000),
        }  # fmt: skip
        await self.keep(f"{stem}.manifest.json", orjson.dumps(manifest, option=orjson.OPT_INDENT_2) + b"\n")
        return Exported(target, lines, digest)

    async def keep(self, name: str, content: bytes) -> None:
        """A file of this content, whole or not at all. `name` may begin with a folder."""
        await asyncio.to_thread(_keep, self.folder / name, content)

    def _free(self, name: str, digest: str) -> Path:
        for number in count(1):
            path = self.folder / (f"{name}.ndjson.gz" if number == 1 else f"{name}-{number}.ndjson.gz")
            if not path.exists() or _sha256(path) == digest:
                return path
        raise AssertionError


def read_export(file: Path) -> Iterator[Event]:
    """The events of an exported file. Raises OSError, and ValueError for what is none."""
    with gzip.open(file, "rb") as lines:
        for line in lines:
            fields: dict[str, Any] = orjson.loads(line)
            yield Event(**fields)


def _write_lines(packed: gzip.GzipFile, rows: Sequence[Row]) -> None:
    packed.write(b"".join([_line(row) for row in rows]))


def _line(row: Row) -> bytes:
    # Raw breaks in JSON are only white space between its parts.
    data = orjson.Fragment(row[7].replace("\n", " ").replace("\r", " "))
    return orjson.dumps(dict(zip(FIELDS, (*row[:7], data), strict=True)), option=orjson.OPT_APPEND_NEWLINE)


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _to_disk(file: BinaryIO) -> None:
    file.flush()
    os.fsync(file.fileno())


def _keep(path: Path, content: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f"{path.name}.part")
    with part.open("wb") as file:
        file.write(content)
        _to_disk(file)
    part.rename(path)
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)  # the names too
    finally:
        os.close(folder)
