"""What every process asks its servers before it starts to work, and why it may refuse them."""

from typing import Any

from psycopg import AsyncConnection
from redis.asyncio import Redis
from redis.exceptions import RedisError

OLDEST_REDIS = (7, 0)
OLDEST_POSTGRES = 14


class PreflightError(RuntimeError):
    """A server is not fit for Pavane; the text says why and what to change."""


async def check_redis(client: Redis) -> str:
    """Returns the server's name and version. Raises PreflightError: away, too old, or it may evict keys.

    Asks INFO, not CONFIG GET, which many managed servers refuse.
    """
    try:
        about: dict[str, Any] = await client.info()
    except (RedisError, OSError) as error:
        raise PreflightError(f"Redis is not reachable: {error}") from error
    version = str(about.get("redis_version", "0"))
    if _numbers(version) < OLDEST_REDIS:
        raise PreflightError(f"Redis is version {version}; Pavane needs 7.0 or newer")
    policy = about.get("maxmemory_policy")
    if policy != "noeviction":
        raise PreflightError(
            f"Redis has maxmemory-policy {policy}, so it may drop the state of running work; "
            "set it to noeviction (CONFIG SET maxmemory-policy noeviction)"
        )
    valkey = about.get("valkey_version")
    return f"Valkey {valkey}" if valkey else f"Redis {version}"


async def check_postgres(connection: AsyncConnection[Any]) -> str:
    """Returns the server's name and version. Raises PreflightError where it is too old."""
    version = connection.info.server_version  # 180004 for 18.4
    if version < OLDEST_POSTGRES * 10_000:
        raise PreflightError(f"Postgres is version {version // 10_000}; Pavane needs {OLDEST_POSTGRES} or newer")
    return f"Postgres {version // 10_000}.{version % 10_000}"


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(int(part) if part.isdigit() else 0 for part in version.split(".")[:2])
