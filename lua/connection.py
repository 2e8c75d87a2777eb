"""Clients of Redis that pack commands with hiredis.

redis-py's asyncio connections pack in Python, which costs more than everything else on the way of a hop's three scripts
(its synchronous ones use hiredis when it is there).
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import hiredis
from redis.asyncio import BlockingConnectionPool, Connection, Redis, SSLConnection, UnixDomainSocketConnection


class _Packing:
    def pack_command(self, *args: Any) -> list[bytes]:
        words = args[0].split() + list(args[1:]) if isinstance(args[0], str) and " " in args[0] else args
        return [hiredis.pack_command(tuple(words))]

    def pack_commands(self, commands: Iterable[Iterable[Any]]) -> list[bytes]:
        return [b"".join(self.pack_command(*command)[0] for command in commands)]


class PackingConnection(_Packing, Connection):
    """TCP."""


class PackingSSLConnection(_Packing, SSLConnection):
    """TLS."""


class PackingUnixConnection(_Packing, UnixDomainSocketConnection):
    """A unix socket."""


_CLASSES: dict[type, type] = {
    Connection: PackingConnection,
    SSLConnection: PackingSSLConnection,
    UnixDomainSocketConnection: PackingUnixConnection,
}


def connect_redis(url: str, *, max_connections: int = 64, **options: Any) -> Redis:
    """A client on the server at `url` (redis://, rediss://, unix://); answers are bytes.

    When all connections are in use, callers wait for one.
    """
    pool = BlockingConnectionPool.from_url(url, max_connections=max_connections, timeout=None, **options)
    pool.connection_class = _CLASSES[pool.connection_class]
    return Redis.from_pool(pool)
