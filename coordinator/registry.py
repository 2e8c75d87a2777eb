"""Registry: the registered workflows that child runs name."""

from __future__ import annotations

from collections import OrderedDict
from typing import Any

from psycopg import OperationalError
from psycopg_pool import AsyncConnectionPool

from history.workflows import Workflows
from lua.run_store import RunStore
from schemas.ir import IR

KEPT = 100


class Registry:
    """Calls are `coordinator.children.Workflows`. Without Postgres, those that were used lately are known."""

    def __init__(self, store: RunStore, pool: AsyncConnectionPool[Any] | None) -> None:
        self.store = store
        self.workflows = Workflows(pool) if pool else None
        self._kept: OrderedDict[tuple[str, int], IR] = OrderedDict()

    async def __call__(self, workflow_id: str, version: int | None) -> tuple[IR, int] | None:
        """The IR and version of a workflow, by default its latest. Raises OperationalError."""
        if version is not None and (known := self._kept.get((workflow_id, version))):
            return known, version
        if self.workflows is None:
            return await self._used_lately(workflow_id, version)
        try:
            found = await self.workflows.get(workflow_id, version)
        except OperationalError:
            if lately := await self._used_lately(workflow_id, version):
                return lately
            raise
        if found is None:
            return None
        if (workflow_id, found.version) not in self._kept:
            text = await self.workflows.ir(found.digest)
            assert text is not None, "workflow_versions.digest references irs"
            self._keep(workflow_id, found.version, IR.from_json(text))
        return self._kept[workflow_id, found.version], found.version

    async def _used_lately(self, workflow_id: str, version: int | None) -> tuple[IR, int] | None:
        key = self.store.keys.workflow(workflow_id)
        versions = [version] if version is not None else [int(name) for name in await self.store.redis.hkeys(key)]
        if not versions:
            return None
        text = await self.store.redis.hget(key, str(max(versions)))
        return (IR.from_json(text.decode()), max(versions)) if text else None

    def _keep(self, workflow_id: str, version: int, ir: IR) -> None:
        self._kept[workflow_id, version] = ir
        if len(self._kept) > KEPT:
            self._kept.popitem(last=False)
