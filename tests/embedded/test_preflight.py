"""Servers that are fit for Pavane, and those that are refused with a reason."""

from unittest.mock import AsyncMock

import pytest
from redis.asyncio import Redis

from pavane.preflight import PreflightError, check_postgres, check_redis
from tests.servers import PrivateServers


async def test_the_embedded_servers_are_fit(redis: Redis, database) -> None:
    assert (await check_redis(redis)).startswith("Valkey ")
    assert (await check_postgres(database)).startswith("Postgres ")


async def test_a_server_that_may_evict_keys_is_refused(private_servers: PrivateServers) -> None:
    async with Redis.from_url(private_servers.valkey().url) as client:
        await client.config_set("maxmemory-policy", "allkeys-lru")
        with pytest.raises(PreflightError, match=r"allkeys-lru.*noeviction"):
            await check_redis(client)


async def test_an_old_server_is_refused() -> None:
    client = AsyncMock()
    client.info.return_value = {"redis_version": "6.2.14", "maxmemory_policy": "noeviction"}
    with pytest.raises(PreflightError, match=r"6\.2\.14.*7\.0"):
        await check_redis(client)
    connection = AsyncMock()
    connection.info.server_version = 130012
    with pytest.raises(PreflightError, match="version 13"):
        await check_postgres(connection)


async def test_a_server_that_is_away_is_said_to_be_away(private_servers: PrivateServers) -> None:
    server = private_servers.valkey()
    server.stop()
    async with Redis.from_url(server.url) as client:
        with pytest.raises(PreflightError, match="not reachable"):
            await check_redis(client)
