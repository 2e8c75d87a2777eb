"""Redis and Postgres for `pavane up`: those that the environment names, else embedded ones, kept running."""

import asyncio
import logging
from dataclasses import dataclass

from pavane.embedded.folder import EmbeddedServerError
from pavane.embedded.postgres import EmbeddedPostgres
from pavane.embedded.server import EmbeddedServer
from pavane.embedded.valkey import EmbeddedValkey
from pavane.settings import Settings

log = logging.getLogger("pavane.up")

BACKOFF_S = (0.2, 15.0)


@dataclass(frozen=True, slots=True)
class Place:
    """Where a server answers: `inner` for our own processes, `outer` for people's tools on this machine."""

    inner: str
    outer: str


class Servers:
    """`start`, then `redis` and `postgres`; `stop` ends what was started here, data stay."""

    def __init__(self, settings: Settings, *, redis_port: int = 0, postgres_port: int = 0) -> None:
        self._valkey: EmbeddedValkey | None = None
        self._postgres: EmbeddedPostgres | None = None
        self._given_redis = settings.redis_url and settings.redis_url.get_secret_value()
        self._given_postgres = settings.database_url and settings.database_url.get_secret_value()
        if not self._given_redis:
            self._valkey = EmbeddedValkey(settings.data / "valkey", port=redis_port)
        if not self._given_postgres:
            self._postgres = EmbeddedPostgres(settings.data / "postgres", port=postgres_port)
        self._starting: asyncio.Future[list[None]] | None = None
        self._keepers: list[asyncio.Task[None]] = []
        self._stopping = asyncio.Event()

    @property
    def embedded(self) -> list[EmbeddedServer]:
        return [server for server in (self._valkey, self._postgres) if server is not None]

    @property
    def redis(self) -> Place:
        if self._valkey is None:
            return Place(self._given_redis or "", self._given_redis or "")
        return Place(self._valkey.url, self._valkey.tcp_url or self._valkey.url)

    @property
    def postgres(self) -> Place:
        if self._postgres is None:
            return Place(self._given_postgres or "", self._given_postgres or "")
        return Place(self._postgres.url, self._postgres.tcp_url or self._postgres.url)

    async def start(self) -> None:
        """Raises EmbeddedServerError."""
        # Shielded, because a thread can not be cancelled: `stop` waits for it.
        self._starting = asyncio.gather(*(asyncio.to_thread(server.start) for server in self.embedded))
        await asyncio.shield(self._starting)
        self._keepers = [asyncio.create_task(self._keep(server)) for server in self.embedded]

    async def stop(self, timeout_s: float = 30) -> None:
        self._stopping.set()
        if self._starting is not None:
            await asyncio.gather(self._starting, return_exceptions=True)
        await asyncio.gather(*(asyncio.to_thread(server.stop, timeout_s) for server in self.embedded))
        for keeper in self._keepers:
            keeper.cancel()
        await asyncio.gather(*self._keepers, return_exceptions=True)

    async def _keep(self, server: EmbeddedServer) -> None:
        wait = BACKOFF_S[0]
        while True:
            if server.process is not None:
                code = await asyncio.to_thread(server.process.wait)
                if self._stopping.is_set():
                    return
                log.warning("%s ended (status %d); starting it again in %.1f s", server.name, code, wait)
            await asyncio.sleep(wait)
            if self._stopping.is_set():
                return
            try:
                await asyncio.to_thread(server.start)
                log.info("%s is back", server.name)
                wait = BACKOFF_S[0]
            except EmbeddedServerError as error:
                log.error("%s did not start: %s", server.name, error)
                wait = min(wait * 2, BACKOFF_S[1])
