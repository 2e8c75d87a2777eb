"""The recorder: copies the events of one shard from Redis to Postgres, exactly once.

    XREAD after the position ─► one transaction: events, projections, artifacts, IRs, the position ─► XTRIM

The position in Postgres is what counts: an entry is deleted only after the transaction that holds it, so a recorder
that dies anywhere leaves nothing out and nothing twice. One recorder of a shard records, by an advisory lock that lives
as long as the connection it writes with; the others stand by.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
import re
import time
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from typing import Any

import orjson
import psycopg
from psycopg import AsyncConnection
from redis.asyncio import Redis
from redis.exceptions import RedisError

from history.entry import Entry
from history.journal import START, Journal, Page
from lua.run_store import RunStore
from schemas.events import STATUS_OF, event_json
from schemas.keys import Keys
from schemas.values import ARTIFACT

log = logging.getLogger(__name__)

READ_COUNT = 2_000
READ_BLOCK_MS = 500
LINGER_S = 0.05
"""Pause after a page that was not full: small transactions cost as much as large ones."""
STANDBY_S = 1.0
BACKOFF_S = (0.1, 5.0)
ARTIFACTS_IN_PAGE = 64
"""A page ends where it names more: each may be some megabytes."""
PREPARE_S = 86_400
"""Partitions are made once a day, for the months to come."""

Connect = Callable[[], Awaitable[AsyncConnection[Any]]]
RawEntry = tuple[bytes, Mapping[bytes, bytes]]

_ARTIFACT = ARTIFACT.encode()
_ENDS = frozenset(kind.encode() for kind in STATUS_OF)
_HEAD = re.compile(rb"[\w.:-]{1,128}\t[1-9]\d{0,8}\t[a-z_]{1,40}\t\d{1,14}\t\w{0,64}\t[\w.:-]{0,256}\t[\w.:/-]{0,1024}")
_BREAKS = re.compile(rb"[\t\n\r\0]")


class Malformed(ValueError):
    """An entry of the stream that is no event."""


class Recorder:
    """`connect` opens a connection to Postgres for this recorder alone. The counters are for metrics."""

    def __init__(self, redis: Redis, keys: Keys, connect: Connect) -> None:
        self.store = RunStore(redis, keys)
        self.redis = redis
        self.keys = keys
        self.journal = Journal(keys.prefix)
        self.state = "starting"  # then standby, recording, away
        self.recorded = self.repeated = self.diverged = self.malformed = 0
        self._connect = connect

    async def run(self, stop: asyncio.Event) -> None:
        """Record until `stop`. While Redis or Postgres is away it keeps trying; the stream keeps the events."""
        delay = BACKOFF_S[0]
        while not stop.is_set():
            try:
                async with await self._connect() as connection:
                    await connection.set_autocommit(True)
                    while not stop.is_set():
                        delay = BACKOFF_S[0]
                        if await self.journal.lock(connection):
                            await self._record(connection, stop)
                        else:
                            self._turn("standby", "another recorder records %s; standing by")
                            await _pause(stop, STANDBY_S)
            except (psycopg.OperationalError, psycopg.InterfaceError, RedisError, OSError) as error:
                self._turn("away", f"{_server(error)} is away: {error}; the events of %s wait in Redis")
                await _pause(stop, delay)
                delay = min(delay * 2, BACKOFF_S[1])

    def _turn(self, state: str, message: str) -> None:
        """Say so once per change."""
        if state != self.state:
            self.state = state
            log.log(logging.WARNING if state == "away" else logging.INFO, message, self.keys.events)

    async def _record(self, connection: AsyncConnection[Any], stop: asyncio.Event) -> None:
        position = await self._first_position(connection)
        await self._retire_recorded(position)
        await self._trim(position)
        self._turn("recording", "recording %s")
        prepared = 0.0
        while not stop.is_set():
            if time.time() > prepared + PREPARE_S:
                prepared = time.time()
                await self.journal.prepare(connection, int(prepared * 1_000))
            raw = await self._read(position)
            for part in _parts(raw):
                position = await self._write(connection, part)
            if raw:
                await self._trim(position)
            if len(raw) < READ_COUNT:
                await _pause(stop, LINGER_S)

    async def _first_position(self, connection: AsyncConnection[Any]) -> str:
        """Where to go on. A stream that ends before the position is an older one, or a new: all of it is looked at,
        and what is recorded already is found to be so."""
        position = await self.journal.position(connection)
        last = START
        if await self.redis.exists(self.keys.events):
            last = (await self.redis.xinfo_stream(self.keys.events))["last-generated-id"].decode()
        if _order(last) < _order(position):
            log.warning("%s ends at %s, before the position %s: reading it all", self.keys.events, last, position)
            return START
        return position

    async def _read(self, position: str) -> Sequence[RawEntry]:
        answer = await self.redis.xread({self.keys.events: position}, count=READ_COUNT, block=READ_BLOCK_MS)
        if isinstance(answer, dict):  # RESP3
            answer = [[name, entries[0]] for name, entries in answer.items()]
        return answer[0][1] if answer else ()

    async def _write(self, connection: AsyncConnection[Any], raw: Sequence[RawEntry]) -> str:
        """Record consecutive entries; the position after them. Those that can not be go to the dead letters."""
        position = raw[-1][0].decode()
        try:
            entries = [read_entry(fields) for _, fields in raw]
            page = Page(position, entries, await self._artifacts(entries), await self._irs(connection, entries))
            written = await self.journal.write(connection, page)
        except (ValueError, KeyError, psycopg.DataError, psycopg.IntegrityError) as error:
            if len(raw) > 1:  # find it
                await self._write(connection, raw[: len(raw) // 2])
                return await self._write(connection, raw[len(raw) // 2 :])
            await self._refuse(*raw[0], error)
            await self.journal.write(connection, Page(position))
            return position
        await self._retire(raw)
        self.recorded += written.recorded
        self.repeated += written.repeated
        self.diverged += written.diverged
        return position

    async def _retire(self, raw: Sequence[RawEntry]) -> None:
        """Recorded runs that have ended need not stay for the recorder any more."""
        ended = [fields.get(b"run", b"") for _, fields in raw if fields.get(b"type") in _ENDS]
        await self.store.retire_run([run_id.decode(errors="replace") for run_id in ended])

    async def _retire_recorded(self, position: str) -> None:
        """What is recorded and was not deleted: a recorder that died may not have come to its runs."""
        redis: Any = self.redis
        first = "-"
        while position != START and (raw := await redis.xrange(self.keys.events, first, position, READ_COUNT)):
            await self._retire(raw)
            first = f"({raw[-1][0].decode()}"

    async def _refuse(self, entry_id: bytes, fields: Mapping[bytes, bytes], error: Exception) -> None:
        """Put what is no event to the dead letters: it stops nothing."""
        self.malformed += 1
        reason = f"{entry_id.decode()}: {type(error).__name__}: {error}".strip()
        log.error("%s holds what is no event: %s", self.keys.events, reason)
        detail = b" ".join(part for pair in fields.items() for part in pair)[:10_000]
        letter: dict[Any, Any] = {"reason": "event", "error": reason, "detail": detail}
        await self.redis.xadd(self.keys.dead_letters, letter, maxlen=100_000, approximate=True)

    # -- what the events name ----------------------------------------------------------------------
    async def _artifacts(self, entries: Sequence[Entry]) -> dict[str, bytes]:
        wanted = [(entry.run_id, name) for entry in entries if _ARTIFACT in entry.data for name in _named(entry)]
        if not wanted:
            return {}
        pipe = self.redis.pipeline(transaction=False)
        for run_id, name in wanted:
            pipe.hget(self.keys.artifacts(run_id), name)
        found = dict(zip(wanted, await pipe.execute(), strict=True))
        for run_id, name in [place for place, packed in found.items() if packed is None]:
            log.error("artifact %s of %s is not in Redis", name, run_id, extra={"run_id": run_id})
        return {name: packed for (_, name), packed in found.items() if packed is not None}

    async def _irs(self, connection: AsyncConnection[Any], entries: Sequence[Entry]) -> dict[str, str]:
        """IRs by digest that no event before these has named."""
        runs = {read_started(entry)["digest"]: entry.run_id for entry in entries if entry.type == "run_started"}
        irs: dict[str, str] = {}
        for digest in await self.journal.unknown_irs(connection, runs) if runs else ():
            run_id = runs[digest]
            # The run may have been patched before its first event is recorded.
            texts: Any = await self.redis.mget(self.keys.ir(run_id), self.keys.first_ir(run_id))
            for text in texts:
                if text is not None and f"sha256-{hashlib.sha256(text).hexdigest()}" == digest:
                    irs[digest] = text.decode()
            if digest not in irs:
                log.warning("the IR %s of %s is not in Redis any more", digest, run_id)
        return irs

    # -- the stream --------------------------------------------------------------------------------
    async def _trim(self, position: str) -> None:
        """Delete what is recorded."""
        if position != START:
            await self.redis.xtrim(self.keys.events, minid=_next(position), approximate=False)


def read_entry(fields: Mapping[bytes, bytes]) -> Entry:
    """The event of a stream entry, its JSON unread. Raises Malformed or KeyError."""
    run, seq, kind, at = fields[b"run"], fields[b"seq"], fields[b"type"], fields[b"at"]
    node, token, scope = fields[b"node"], fields[b"token"], fields[b"scope"]
    if not _HEAD.fullmatch(b"\t".join((run, seq, kind, at, node, token, scope))):
        raise Malformed("a field is not of its form")
    data = event_json(fields[b"body"], fields[b"applied"])
    if _BREAKS.search(data):
        data = _BREAKS.sub(b" ", data)  # in JSON only white space between its parts
    return Entry(run.decode(), int(seq), kind.decode(), int(at), node.decode(), token.decode(), scope.decode(), data)


def read_started(entry: Entry) -> dict[str, Any]:
    """The data of a run_started, checked. Raises Malformed."""
    data = _object(entry)
    kinds = {"workflow_id": str, "digest": str, "revision": int}
    wrong = [name for name, kind in kinds.items() if not isinstance(data.get(name), kind)]
    wrong += ["labels"] if not isinstance(data.get("labels") or {}, dict) else []
    if wrong:
        raise Malformed(f"run_started with a wrong {wrong[0]}")
    return data


def _object(entry: Entry) -> dict[str, Any]:
    data = orjson.loads(entry.data)
    if not isinstance(data, dict):
        raise Malformed("its body is no JSON object")
    return data


def _parts(raw: Sequence[RawEntry]) -> Iterator[Sequence[RawEntry]]:
    """The entries as pages that name a bounded number of artifacts each."""
    first = named = 0
    for last, (_, fields) in enumerate(raw, 1):
        named += fields.get(b"body", b"").count(_ARTIFACT)
        if named >= ARTIFACTS_IN_PAGE:
            yield raw[first:last]
            first, named = last, 0
    if first < len(raw):
        yield raw[first:]


def _named(entry: Entry) -> list[str]:
    """The artifacts that an event names."""
    data = _object(entry)
    if not isinstance(data.get("stored") or {}, dict):
        raise Malformed("stored is no object")
    alone = [data.get(name) for name in ("stored_input", "stored_items", "stored_result")]
    texts = [*(data.get("stored") or {}).values(), *filter(None, alone)]
    return [str(text).removeprefix(ARTIFACT) for text in texts]


def _order(entry_id: str) -> tuple[int, int]:
    ms, _, number = entry_id.partition("-")
    return int(ms), int(number)


def _next(entry_id: str) -> str:
    ms, number = _order(entry_id)
    return f"{ms}-{number + 1}"


def _server(error: Exception) -> str:
    return "Postgres" if isinstance(error, psycopg.Error) else "Redis"


async def _pause(stop: asyncio.Event, seconds: float) -> None:
    try:
        await asyncio.wait_for(stop.wait(), seconds)
    except TimeoutError:
        pass
