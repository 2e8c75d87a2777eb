"""A handler that is held up."""

import asyncio


class Gate:
    """A handler that waits until the test opens it."""

    def __init__(self) -> None:
        self.opened = asyncio.Event()
        self.entered = 0

        async def held() -> str:
            self.entered += 1
            await self.opened.wait()
            return "through"

        self.handler = held

    async def reached(self, count: int = 1) -> None:
        async with asyncio.timeout(10):
            while self.entered < count:
                await asyncio.sleep(0)
