"""Compiled IRs by content digest, so that 2,000 runs of one workflow compile once."""

from __future__ import annotations

from collections import OrderedDict

from lua.run_store import RunStore
from schemas.ir import IR


class IRCache:
    """The IRs used last, by digest."""

    def __init__(self, store: RunStore, capacity: int = 500) -> None:
        self._store = store
        self._capacity = capacity
        self._irs: OrderedDict[str, IR] = OrderedDict()

    def known(self, digest: str) -> IR | None:
        """The IR with this digest, if it is at hand."""
        ir = self._irs.get(digest)
        if ir is not None:
            self._irs.move_to_end(digest)
        return ir

    async def get(self, digest: str, run_id: str) -> IR | None:
        """The IR with this digest, or the newer one if the run was patched meanwhile; None if the run is gone."""
        if (ir := self.known(digest)) is not None:
            return ir
        text = await self._store.ir_text(run_id)
        if text is None:
            return None
        ir = IR.from_json(text)
        self._irs[ir.digest] = ir
        if len(self._irs) > self._capacity:
            self._irs.popitem(last=False)
        return ir
