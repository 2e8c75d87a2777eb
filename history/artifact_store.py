"""Artifact store: artifacts in an S3-compatible bucket. Postgres keeps their names, sizes and where they lie.

An object is never changed: its name is the hash of its content, so that writing it again harms nothing.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Iterable, Mapping
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import psycopg

from history.store_options import StoreOptions

if TYPE_CHECKING:
    from obstore.store import S3Store

AT_ONCE = 16
"""Requests to the store at the same time."""
REQUEST_S, CONNECT_S, RETRY_S = 30, 5, 10


class StoreAway(psycopg.OperationalError):
    """The store does not answer, or does not let us in: whoever waits for Postgres waits for it in the same way."""


class ArtifactStore:
    """Raises StoreAway from every method, and ImportError where the extra `pavane[s3]` is not installed."""

    def __init__(self, options: StoreOptions) -> None:
        import obstore  # whoever has no store needs no library for it

        self._obstore: Any = obstore
        self._options = options
        self._buckets: dict[str, S3Store] = {}
        self.url = options.url.rstrip("/")

    async def put(self, packed: Mapping[str, bytes]) -> dict[str, str]:
        """Write objects; where each lies."""
        locations = {name: f"{self.url}/{name}" for name in packed}
        await self._each([self._put(locations[name], part) for name, part in packed.items()])
        return locations

    async def get(self, locations: Mapping[str, str]) -> dict[str, bytes]:
        """The objects that are there, by name."""
        found = await self._each([self._get(location) for location in locations.values()])
        return {name: part for name, part in zip(locations, found, strict=True) if part is not None}

    async def delete(self, locations: Iterable[str]) -> None:
        """Delete objects; those that are gone already are no fault."""
        await self._each([self._delete(location) for location in locations])

    async def _put(self, location: str, packed: bytes) -> None:
        bucket, key = self._place(location)
        await self._obstore.put_async(bucket, key, packed)

    async def _get(self, location: str) -> bytes | None:
        bucket, key = self._place(location)
        try:
            answer = await self._obstore.get_async(bucket, key)
            return bytes(await answer.bytes_async())
        except FileNotFoundError as error:
            if "NoSuchBucket" in str(error):
                raise
            return None

    async def _delete(self, location: str) -> None:
        bucket, key = self._place(location)
        try:
            await self._obstore.delete_async(bucket, key)
        except FileNotFoundError:
            pass

    def _place(self, location: str) -> tuple[S3Store, str]:
        name, _, key = location.removeprefix("s3://").partition("/")
        if name not in self._buckets:
            self._buckets[name] = _bucket(name, self._options)
        return self._buckets[name], key

    async def _each(self, requests: list[Any]) -> list[Any]:
        gate = asyncio.Semaphore(AT_ONCE)

        async def one(request: Any) -> Any:
            async with gate:
                return await request

        try:
            answers = await asyncio.gather(*(one(request) for request in requests), return_exceptions=True)
        except BaseException:
            for request in requests:
                request.close()
            raise
        for answer in answers:
            if isinstance(answer, self._obstore.exceptions.BaseError | OSError):
                raise StoreAway(f"the artifact store {self.url} does not serve us: {_reason(answer)}") from answer
            if isinstance(answer, BaseException):
                raise answer
        return answers


def _bucket(name: str, options: StoreOptions) -> S3Store:
    from obstore.store import S3Store

    given = {
        "endpoint": options.endpoint,
        "region": options.region or "us-east-1",
        "access_key_id": options.access_key_id,
        "secret_access_key": options.secret_access_key,
        "session_token": options.session_token,
    }
    config: Any = {key: value for key, value in given.items() if value}
    plain = (options.endpoint or "").startswith("http://")
    return S3Store(
        name,
        config=config,
        client_options={
            "timeout": timedelta(seconds=REQUEST_S),
            "connect_timeout": timedelta(seconds=CONNECT_S),
            "allow_http": plain,
        },
        retry_config={"max_retries": 2, "retry_timeout": timedelta(seconds=RETRY_S)},
    )


def _reason(error: BaseException) -> str:
    """The first line, short: what the library adds below it, and between it, is its own inside."""
    line = (str(error).strip().splitlines() or [type(error).__name__])[0]
    return re.sub(r" in [\d.]+.?s\b.*? - ", ": ", line)[:300].rstrip()
