"""Values of runs: stored texts parsed, artifacts loaded."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from lua.run_store import RunStore
from schemas.kept import Kept
from schemas.values import artifact_name, decode_value, unpack, unpacked_size


class MissingValue(LookupError):
    """A stored text refers to an artifact that the run does not have."""

    def __init__(self, run_id: str, name: str) -> None:
        super().__init__(f"artifact {name} of run {run_id} is missing")
        self.name = name


class Values:
    def __init__(self, store: RunStore) -> None:
        self.store = store
        self._kept = Kept()

    async def get(self, run_id: str, text: str) -> Any:
        """The value of a stored text, which nobody may change. Raises MissingValue."""
        name = artifact_name(text)
        if name is None:
            return decode_value(text)
        if name in self._kept:
            return self._kept.get(name)
        packed = await self.store.artifact(run_id, name)
        if packed is None:
            raise MissingValue(run_id, name)
        return self._kept.put(name, unpack(packed), unpacked_size(packed))

    async def get_all(self, run_id: str, texts: Mapping[str, str]) -> dict[str, Any]:
        return {name: await self.get(run_id, text) for name, text in texts.items()}
