"""RunRebuild: writes a run into Redis from its recorded state, and takes one out of it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Literal

from lua.run_control import Command
from lua.run_image import Rebuilt, RunImage
from lua.run_store import RunStore

Kind = Literal["run_recovered", "run_forked"]
AT_ONCE = 500
"""Commands in one round trip."""


class RunRebuild:
    """Rebuilds runs of one shard. Any number of processes may do so side by side: each run is rebuilt once."""

    def __init__(self, store: RunStore) -> None:
        self.store = store

    async def restore(self, rebuilt: Rebuilt, kind: Kind, event: Mapping[str, Any], at: int) -> bool:
        """Write a run and wake it, in one step; False if Redis has a run with this id. `at`: the time that its
        state was made for, and that its event has.

        What belongs to the items of maps is written before: nobody looks at it without the run, and it goes by itself.
        """
        image = RunImage(self.store.keys, rebuilt)
        await self._write(image.items())
        commands = [
            *image.run(),
            *image.following(),
            ("PERSIST", self.store.keys.artifacts(image.run_id)),
        ]
        return await self.store.restore_run(image.run_id, commands, kind, event, at)

    async def keep(self, rebuilt: Rebuilt) -> bool:
        """Write a run that has ended, so that it can be read or retried; False if Redis has a run with this id."""
        image = RunImage(self.store.keys, rebuilt)
        await self._write(image.items())
        written = await self.store.write_run(image.run_id, list(image.run()))
        if written:
            await self.store.retire_run([image.run_id])
        return written

    async def drop(self, run_id: str, before: int | None = None) -> bool:
        """Take a run out of Redis, if it has not come to event `before`; False if it has, or there is no such run."""
        return (await self.store.drop_run(run_id, before))[0] == "dropped"

    async def _write(self, commands: Iterable[Command]) -> None:
        some: list[Command] = []
        for command in commands:
            some.append(command)
            if len(some) == AT_ONCE:
                await self._send(some)
                some = []
        await self._send(some)

    async def _send(self, commands: list[Command]) -> None:
        if commands:
            async with self.store.redis.pipeline(transaction=False) as pipe:
                for command in commands:
                    pipe.execute_command(*command)
                await pipe.execute()
