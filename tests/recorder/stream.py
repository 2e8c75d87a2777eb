"""The `events` stream as the scripts write it."""

from typing import Any

import orjson
from redis.asyncio import Redis

from schemas.keys import Keys
from schemas.values import encode_value

NOW = 1_760_000_000_000
KEYS = Keys()
DIGEST = "sha256-unknown"


class Stream:
    """Appends events of runs: `begin`, `step` once a node, `end`."""

    def __init__(self, redis: Redis) -> None:
        self.redis = redis
        self.seqs: dict[str, int] = {}

    async def add(
        self, run_id: str, kind: str, node: str = "", token: str = "", *, body: Any = None, applied: Any = None
    ) -> bytes:
        seq = self.seqs[run_id] = self.seqs.get(run_id, 0) + 1
        fields: dict[Any, Any] = {
            "run": run_id, "seq": seq, "type": kind, "at": NOW + seq, "node": node, "token": token, "scope": "",
            "body": orjson.dumps(body) if body is not None else "",
            "applied": orjson.dumps(applied) if applied is not None else "",
        }  # fmt: skip
        return await self.redis.xadd(KEYS.events, fields)  # type: ignore[no-any-return]

    async def begin(self, run_id: str, **more: Any) -> None:
        started = {"workflow_id": "demo", "version": 1, "revision": 1, "digest": DIGEST, "input": run_id}
        applied = {"tokens": {"t1": _token(1)}, "live": 1}
        await self.add(run_id, "run_started", body={**started, **more}, applied=applied)

    async def step(self, run_id: str, number: int, output: Any, *, last: bool = False) -> None:
        """Node `n<number>` is done; a large output goes to the run's artifacts."""
        text, artifact = encode_value(output)
        node, token = f"n{number}", f"t{number}"
        body: dict[str, Any] = {"attempt": 1, "outputs": {} if artifact else {node: output}}
        if artifact:
            body["stored"] = {node: text}
            await self.redis.hset(KEYS.artifacts(run_id), artifact.name, artifact.packed)
        if last:
            body["ends"] = [node]
        tokens = {} if last else {f"t{number + 1}": _token(number + 1, node)}
        applied = {"tokens": tokens, "live": 0 if last else 1, "gone": [token]}
        await self.add(run_id, "node_completed", node, token, body=body, applied=applied)

    async def end(self, run_id: str, kind: str = "run_completed", **body: Any) -> None:
        await self.add(run_id, kind, body=body or None)

    async def whole(self, run_id: str, steps: int = 3, output: Any = None, **more: Any) -> None:
        await self.begin(run_id, **more)
        for number in range(1, steps + 1):
            await self.step(run_id, number, output or {"step": number}, last=number == steps)
        await self.end(run_id)


def _token(number: int, source: str | None = None) -> dict[str, Any]:
    record = {"node": f"n{number}", "state": "queued", "attempt": 0, "depth": number - 1, "lane": "", "since": NOW}
    return record | ({"from": [[source, number - 2, ""]]} if source else {})
