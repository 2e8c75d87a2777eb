"""Run tokens: those at one node of a live run, wherever they live; the run and the place of a token by its id."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import orjson

from lua.run_store import RunStore
from schemas.ir import IR
from schemas.keys import path_of, scope_of

AT_ONCE = 200
"""Scopes that are read in one round trip."""
MOST = 100
"""Tokens that one look finds."""
_ITEM = re.compile(r"^(.+)\.\d+-\d+$")


@dataclass(frozen=True, slots=True)
class Found:
    """A token and its record."""

    run_id: str
    token_id: str
    record: Mapping[str, Any]

    @property
    def state(self) -> str:
        return str(self.record["state"])


class RunTokens:
    def __init__(self, store: RunStore) -> None:
        self.store = store

    async def get(self, run_id: str, token_id: str) -> Found | None:
        key = self.store.keys.tokens(run_id, scope_of(run_id, token_id))
        record = await self.store.redis.hget(key, token_id)
        return Found(run_id, token_id, orjson.loads(record)) if record else None

    async def at(self, run_id: str, ir: IR, node_id: str, states: Sequence[str]) -> list[Found]:
        """The tokens at a node that are in one of `states` (all, if there are none), at most MOST."""
        found: list[Found] = []
        async for scopes in self._scopes(run_id, ir, ir.nodes[node_id].analysis.map):
            for token in await self._in_scopes(run_id, scopes, node_id):
                if not states or token.state in states:
                    found.append(token)
            if len(found) >= MOST:
                break
        return found[:MOST]

    async def named(self, token_ids: Sequence[str]) -> list[Found]:
        """Those of the tokens that are there. A run's id may look as if it ended in an item of a map: then several
        runs are asked for."""
        places = [(run_id, token) for token in token_ids for run_id in _runs_of(token)]
        async with self.store.redis.pipeline(transaction=False) as pipe:
            for run_id, token in places:
                pipe.hget(self.store.keys.tokens(run_id, scope_of(run_id, token)), token)
            records = await pipe.execute()
        return [
            Found(run_id, token, orjson.loads(record))
            for (run_id, token), record in zip(places, records, strict=True)
            if record
        ]

    async def _scopes(self, run_id: str, ir: IR, map_id: str | None) -> AsyncIterator[list[str]]:
        """The scopes that the nodes of a map live in now, a slice at a time."""
        if map_id is None:
            yield [""]
            return
        async for outer in self._scopes(run_id, ir, ir.nodes[map_id].analysis.map):
            for token in await self._in_scopes(run_id, outer, map_id):
                path = path_of(run_id, token.token_id)
                indexes = sorted(int(i) for i in await self.store.redis.smembers(self.store.keys.items(run_id, path)))
                for first in range(0, len(indexes), AT_ONCE):
                    yield [f"{path}-{index}" for index in indexes[first : first + AT_ONCE]]

    async def _in_scopes(self, run_id: str, scopes: Sequence[str], node_id: str) -> list[Found]:
        async with self.store.redis.pipeline(transaction=False) as pipe:
            for scope in scopes:
                pipe.hgetall(self.store.keys.tokens(run_id, scope))
            hashes = await pipe.execute()
        tokens = [Found(run_id, token.decode(), orjson.loads(text)) for held in hashes for token, text in held.items()]
        return [token for token in tokens if token.record["node"] == node_id]


def _runs_of(token_id: str) -> list[str]:
    """The runs that a token's id may be of: `run_1.12-3.40` is in an item of `run_1`, or the run is `run_1.12-3`."""
    run_id = token_id.rpartition(".")[0]
    found = [run_id]
    while match := _ITEM.match(run_id):
        run_id = match[1]
        found.append(run_id)
    return [run for run in found if run]
