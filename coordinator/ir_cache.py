"""Compiled IRs by content digest, so that 2,000 runs of one workflow compile once."""

from __future__ import annotations

from collections import OrderedDict

from lua.run_store import RunStore
from schemas.ir import IR


class IRCache:
    """IRs by digest, and which one each run had last: a guess that saves a round trip, never trusted."""

    def __init__(self, store: RunStore, capacity: int = 500, runs: int = 100_000) -> None:
        self._store = store
        self._capacity = capacity
        self._runs = runs
        self._by_digest: OrderedDict[str, IR] = OrderedDict()
        self._digest_of: OrderedDict[str, str] = OrderedDict()

    def of_run(self, run_id: str) -> IR | None:
        """The IR that the run had when it was last seen here."""
        return self._by_digest.get(self._digest_of.get(run_id, ""))

    def known(self, digest: str) -> IR | None:
        return self._by_digest.get(digest)

    async def get(self, digest: str, run_id: str) -> IR | None:
        """The IR with this digest, or the newer one if the run was patched meanwhile; None if the run is gone."""
        ir = self._by_digest.get(digest)
        if ir is None:
            text = await self._store.ir_text(run_id)
            if text is None:
                return None
            ir = self._keep(IR.from_json(text))
        else:
            self._by_digest.move_to_end(digest)
        if self._digest_of.get(run_id) != ir.digest:
            self._digest_of[run_id] = ir.digest
            if len(self._digest_of) > self._runs:
                self._digest_of.popitem(last=False)
        return ir

    def _keep(self, ir: IR) -> IR:
        self._by_digest[ir.digest] = ir
        if len(self._by_digest) > self._capacity:
            self._by_digest.popitem(last=False)
        return ir
