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
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence, Set
from contextlib import suppress
from typing import Any

import psycopg
from psycopg import AsyncConnection
from redis.asyncio import Redis
from redis.exceptions import RedisError

from coordinator.stream import NAMES_ARTIFACT, Part, RawEntry, continues, middle, named, parts, read_entry, read_started
from history.artifact_store import ArtifactStore, StoreAway
from history.entry import Entry
from history.journal import SNAPSHOT_EVERY, START, Journal, Page, Written
from lua.run_store import RunStore
from schemas.events import STARTS, STATUS_OF
from schemas.keys import Keys

log = logging.getLogger(__name__)

READ_COUNT = 2_000
"""Entries that are read at once; a page is made of some such reads."""
PAGE_COUNT, PAGE_BYTES = 10_000, 16 << 20
"""A page ends with the read in which it reaches one of these."""
SLICE = 100
"""Entries that are worked on before the servers are looked after again: so they work at the same time."""
STEP_COUNT = 100
"""More events than a step makes."""
READ_BLOCK_MS = 500
LINGER_S = 0.05
"""Pause after a page that was not full: small transactions cost as much as large ones."""
STANDBY_S = 1.0
BACKOFF_S = (0.1, 5.0)
PREPARE_S = 86_400
"""Partitions are made once a day, for the months to come."""

Connect = Callable[[], Awaitable[AsyncConnection[Any]]]
OnGap = Callable[[Set[str]], Awaitable[None]]
OnOlder = Callable[[Set[str] | None], Awaitable[None]]

_ENDS = frozenset(kind.encode() for kind in STATUS_OF)


class StreamLost(Exception):
    """What was read is not in Redis any more, though nobody has recorded it: Redis was emptied in between."""


class Recorder:
    """`connect` opens a connection to Postgres for this recorder alone. The counters are for metrics.

    Two hooks put right what one of the servers has lost. They are awaited one at a time, by the recorder that records,
    between two transactions; what they raise is logged and stops nothing, unless it says that a server is away: then
    the recorder begins again, and so do they. Both may be told of a run again after a restart, until its
    `run_recovered` or `run_restated` is recorded.

    `on_older(runs)`: Redis came back older than Postgres. None (all runs): the stream ends before the recorded
        position; awaited before anything is read from it. Else the runs of which Redis tells other events than are
        recorded: after the page in which that was seen, and at the start for those that are still so. The hook
        rebuilds runs from what is recorded, with the event `run_recovered`.
    `on_gap(runs)`: Postgres has lost events of these runs: after the page in which that was seen, and at the start
        for those that are still so. The hook has their whole states told, with the event `run_restated`.
    """

    def __init__(
        self, redis: Redis, keys: Keys, connect: Connect, artifacts: ArtifactStore | None = None,
        snapshot_every: int = SNAPSHOT_EVERY,
    ) -> None:  # fmt: skip
        self.store = RunStore(redis, keys)
        self.redis = redis
        self.keys = keys
        self.journal = Journal(keys.prefix, artifacts, snapshot_every)
        self.on_older: OnOlder | None = None
        self.on_gap: OnGap | None = None
        self.state = "starting"  # then standby, recording, away
        self.recorded = self.repeated = self.diverged = self.malformed = 0
        self._connect = connect
        self._stop = asyncio.Event()

    async def run(self, stop: asyncio.Event) -> None:
        """Record until `stop`. While Redis or Postgres is away it keeps trying; the stream keeps the events."""
        self._stop = stop
        delay = BACKOFF_S[0]
        while not stop.is_set():
            try:
                async with await self._connect() as connection:
                    await connection.set_autocommit(True)
                    while not stop.is_set():
                        delay = BACKOFF_S[0]
                        if await self.journal.lock(connection):
                            with suppress(StreamLost):
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
        ahead: asyncio.Task[Part] | None = None
        try:
            while not stop.is_set():
                if time.time() > prepared + PREPARE_S:
                    prepared = time.time()
                    await self.journal.prepare(connection, int(prepared * 1_000))
                page = await (ahead or self._read_page(position))
                full = len(page.raw) >= READ_COUNT
                # While Postgres works on a page, the next one comes.
                ahead = asyncio.create_task(self._read_page(page.raw[-1][0].decode())) if full else None
                for part in parts(page):
                    position = await self._write(connection, part)
                if page.raw:
                    await self._trim(position)
                if not full:
                    await _pause(stop, LINGER_S)
        finally:
            if ahead:
                ahead.cancel()

    async def _first_position(self, connection: AsyncConnection[Any]) -> str:
        """Where to go on. A stream that ends before the position is an older one, or a new: all of it is looked at,
        and what is recorded already is found to be so."""
        position = await self.journal.position(connection)
        last = START
        if await self.redis.exists(self.keys.events):
            last = (await self.redis.xinfo_stream(self.keys.events))["last-generated-id"].decode()
        gaps, diverged = await self.journal.wrong_runs(connection)
        older = _order(last) < _order(position)
        if older:
            log.warning("%s ends at %s, before the position %s: reading it all", self.keys.events, last, position)
            position = START
        await self._put_right(gaps, diverged, older)
        return position

    async def _put_right(self, gaps: Set[str], diverged: Set[str], older: bool = False) -> None:
        """Tell the hooks, if there is anything to tell."""
        try:
            if self.on_older and (older or diverged):
                await self.on_older(None if older else diverged)
            if self.on_gap and gaps:
                await self.on_gap(gaps)
        except (psycopg.OperationalError, psycopg.InterfaceError, RedisError, OSError):
            raise
        except Exception:
            log.exception("runs that are to be put right stay as they are until the recorder starts again")

    async def _read_page(self, position: str) -> Part:
        """What follows on the position. It never ends within a step."""
        raw: list[RawEntry] = []
        entries: list[Entry] = []
        whole, size = True, 0
        while len(raw) < PAGE_COUNT and size < PAGE_BYTES:
            more = await self._read(position, block=not raw)
            if len(more) == READ_COUNT:
                more = [*more, *await self._rest_of_step(more[-1])]
            raw += more
            try:
                for first in range(0, len(more), SLICE):
                    fresh = [read_entry(fields) for _, fields in more[first : first + SLICE]]
                    size += sum([len(entry.data) for entry in fresh])
                    entries += fresh
                    await asyncio.sleep(0)
            except (ValueError, KeyError):
                whole = False
                break
            if len(more) < READ_COUNT:
                break
            position = raw[-1][0].decode()
        return Part(raw, entries if whole else None)

    async def _read(self, position: str, block: bool) -> Sequence[RawEntry]:
        answer = await self.redis.xread(
            {self.keys.events: position}, count=READ_COUNT, block=READ_BLOCK_MS if block else None
        )
        if isinstance(answer, dict):  # RESP3
            answer = [[name, entries[0]] for name, entries in answer.items()]
        return answer[0][1] if answer else ()

    async def _rest_of_step(self, last: RawEntry) -> Sequence[RawEntry]:
        """The entries after the `last` one that was read which its step has written too."""
        redis: Any = self.redis
        found: list[RawEntry] = []
        for one in await redis.xrange(self.keys.events, f"({last[0].decode()}", count=STEP_COUNT):
            if not continues(one, last):
                break
            found.append(one)
        return found

    async def _write(self, connection: AsyncConnection[Any], part: Part) -> str:
        """Record consecutive entries; the position after them. Those that can not be go to the dead letters."""
        raw = part.raw
        position = raw[-1][0].decode()
        try:
            entries = part.entries or [read_entry(fields) for _, fields in raw]
            page = Page(position, entries, await self._artifacts(raw, entries), await self._irs(connection, entries))
            written = await self._write_page(connection, page)
        except (ValueError, KeyError, psycopg.DataError, psycopg.IntegrityError) as error:
            if len(raw) > 1:  # find it
                cut = middle(raw)
                await self._write(connection, Part(raw[:cut], None))
                return await self._write(connection, Part(raw[cut:], None))
            await self._refuse(*raw[0], error)
            await self.journal.write(connection, Page(position))
            return position
        await self._retire(raw)
        self._count(written)
        await self._put_right(written.gaps, written.diverged_runs)
        return position

    async def _write_page(self, connection: AsyncConnection[Any], page: Page) -> Written:
        """Waits for the artifact store, and stays the shard's recorder while it does. Raises StoreAway at the stop."""
        delay = BACKOFF_S[0]
        while True:
            try:
                written = await self.journal.write(connection, page)
                self._turn("recording", "recording %s")
                return written
            except StoreAway as error:
                self._turn("away", str(error).replace("%", "%%") + "; the events of %s wait in Redis")
                if self._stop.is_set():
                    raise
                await _pause(self._stop, delay)
                delay = min(delay * 2, BACKOFF_S[1])

    def _count(self, written: Written) -> None:
        self.recorded += written.recorded
        self.repeated += written.repeated
        self.diverged += written.diverged

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
    async def _artifacts(self, raw: Sequence[RawEntry], entries: Sequence[Entry]) -> dict[str, bytes]:
        """The artifacts that the events name. Raises StreamLost."""
        naming = [
            (entry_id, entry) for (entry_id, _), entry in zip(raw, entries, strict=True) if NAMES_ARTIFACT in entry.data
        ]
        wanted = {(entry.run_id, name): entry_id for entry_id, entry in naming for name in named(entry)}
        if not wanted:
            return {}
        pipe = self.redis.pipeline(transaction=False)
        for run_id, name in wanted:
            pipe.hget(self.keys.artifacts(run_id), name)
        found = dict(zip(wanted, await pipe.execute(), strict=True))
        missing = [place for place, packed in found.items() if packed is None]
        await self._expect_in_stream({wanted[place] for place in missing})
        for run_id, name in missing:
            log.error("artifact %s of %s is not in Redis", name, run_id, extra={"run_id": run_id})
        return {name: packed for (_, name), packed in found.items() if packed is not None}

    async def _expect_in_stream(self, entry_ids: Set[bytes]) -> None:
        """Raises StreamLost where one of the entries is gone."""
        if not entry_ids:
            return
        pipe = self.redis.pipeline(transaction=False)
        for entry_id in entry_ids:
            pipe.xrange(self.keys.events, entry_id, entry_id)
        if not all(await pipe.execute()):
            log.warning("%s lost what was just read of it: beginning again where it is recorded", self.keys.events)
            raise StreamLost

    async def _irs(self, connection: AsyncConnection[Any], entries: Sequence[Entry]) -> dict[str, str]:
        """IRs by digest that no event before these has named."""
        runs = {read_started(entry)["digest"]: entry.run_id for entry in entries if entry.type in STARTS}
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
