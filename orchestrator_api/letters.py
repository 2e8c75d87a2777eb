"""Letters: the dead letters of one shard, read, filtered and joined with what is known of their runs."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import orjson
from psycopg import OperationalError

from history.runs import Runs
from lua.run_store import RunStore

IDS = {"run": "run_id", "token": "token_id", "node": "node_id"}
READ = 500
"""Letters that are read in one round trip."""
MOST = 10_000
"""Letters that one request looks at."""
_FACTS = ("status", "workflow", "version", "batch", "key", "labels")

Letter = dict[str, Any]


@dataclass(frozen=True, slots=True)
class LetterFilter:
    """What letters must have; None for any."""

    reason: str | None = None
    workflow_id: str | None = None
    batch_id: str | None = None
    node: str | None = None
    klass: str | None = None  # of the error

    @property
    def of_run(self) -> bool:
        """Whether it asks for what only the letter's run says."""
        return self.workflow_id is not None or self.batch_id is not None

    def takes(self, letter: Letter) -> bool:
        asked = {
            "reason": self.reason, "workflow_id": self.workflow_id, "batch_id": self.batch_id, "node_id": self.node,
        }  # fmt: skip
        error = letter.get("error")
        klass = error.get("class") if isinstance(error, Mapping) else None
        return self.klass in (None, klass) and all(
            value is None or letter.get(name) == value for name, value in asked.items()
        )


class Letters:
    def __init__(self, store: RunStore, runs: Runs) -> None:
        self.store = store
        self.runs = runs

    async def page(self, wanted: LetterFilter, limit: int, cursor: str | None) -> tuple[list[Letter], str | None]:
        """Up to `limit` letters, the newest first, and where the next page goes on; None where there is none. A page
        may be short of letters, and not the last."""
        found: list[Letter] = []
        looked = 0
        while looked < MOST:
            entries = await self._entries(cursor)
            for letter in await self._joined(entries, strict=wanted.of_run):
                cursor = letter["id"]
                if wanted.takes(letter):
                    found.append(letter)
                    if len(found) == limit:
                        return found, cursor
            looked += len(entries)
            if len(entries) < READ:
                return found, None
        return found, cursor

    async def get(self, letter_id: str) -> Letter | None:
        """A letter with `run`, what is known of its run, and what else its event said: `attempt`, `raw`."""
        entries = await self.store.redis.xrange(self.store.keys.dead_letters, letter_id, letter_id)
        if not entries:
            return None
        letter = read_letter(letter_id, entries[0][1])
        run_id = letter.get("run_id")
        known = await self.facts([run_id] if run_id else [])
        return _join(letter, known) | {"run": known.get(run_id or "")} | _said(entries[0][1])

    async def delete(self, letter_id: str) -> None:
        await self.store.redis.xdel(self.store.keys.dead_letters, letter_id)

    async def facts(self, run_ids: Iterable[str]) -> dict[str, dict[str, Any]]:
        """{status, workflow_id, version, batch_id, key, labels} of the runs that Redis or Postgres knows."""
        asked = list(dict.fromkeys(run_ids))
        async with self.store.redis.pipeline(transaction=False) as pipe:
            for run_id in asked:
                pipe.hmget(self.store.keys.run(run_id), _FACTS)
            answers = await pipe.execute()
        found = {run: _facts(values) for run, values in zip(asked, answers, strict=True) if values[0] is not None}
        if missing := [run for run in asked if run not in found and "\0" not in run]:
            found |= await self.runs.facts(missing)
        return found

    async def _entries(self, cursor: str | None) -> list[Any]:
        last = f"({cursor}" if cursor else "+"
        return list(await self.store.redis.xrevrange(self.store.keys.dead_letters, last, "-", count=READ))

    async def _joined(self, entries: Sequence[Any], *, strict: bool) -> list[Letter]:
        """Raises OperationalError if `strict`; else what only Postgres knows is left out while it is away."""
        letters = [read_letter(entry.decode(), fields) for entry, fields in entries]
        known: dict[str, dict[str, Any]] = {}
        try:
            known = await self.facts(letter["run_id"] for letter in letters if letter.get("run_id"))
        except OperationalError:
            if strict:
                raise
        return [_join(letter, known) for letter in letters]


def read_letter(entry: str, fields: Mapping[bytes, bytes]) -> Letter:
    """{id, reason, at, run_id?, token_id?, node_id?, and error or detail} of an entry, whoever wrote it: nothing in it
    is taken for granted."""
    text = {name.decode(errors="replace"): value.decode(errors="replace") for name, value in fields.items()}
    at = text.get("at", "")
    letter: Letter = {"id": entry, "reason": text.get("reason", ""), "at": int(at) if at.isdecimal() else None}
    letter |= {shown: text[name] for name, shown in IDS.items() if name in text}
    detail = text.get("detail", "")
    if letter["reason"] == "task":  # the event's body: the error is what people look for
        with suppress(orjson.JSONDecodeError, AttributeError):
            return letter | {"error": orjson.loads(detail).get("error")}
    return letter | {"detail": detail}


def _said(fields: Mapping[bytes, bytes]) -> dict[str, Any]:
    """What the event of a task's failure says besides its error: the attempt, the model's own words."""
    with suppress(orjson.JSONDecodeError, AttributeError):
        body = orjson.loads(fields.get(b"detail", b""))
        return {name: body[name] for name in ("attempt", "raw") if name in body}
    return {}


def _join(letter: Letter, known: Mapping[str, Mapping[str, Any]]) -> Letter:
    run = known.get(letter.get("run_id", ""))
    return letter | {name: run[name] for name in ("workflow_id", "batch_id", "key")} if run else letter


def _facts(values: Sequence[bytes | None]) -> dict[str, Any]:
    status, workflow, version, batch, key, labels = (value.decode() if value else "" for value in values)
    return {
        "status": status,
        "workflow_id": workflow,
        "version": int(version) if version else None,
        "batch_id": batch or None,
        "key": key or None,
        "labels": orjson.loads(labels or "{}"),
    }
