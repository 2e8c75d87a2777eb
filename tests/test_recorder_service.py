"""The recorder as its service starts it."""

import asyncio
import socket
from collections.abc import Callable
from typing import Any

from redis.asyncio import Redis

from coordinator.recorder import Recorder
from pavane.services.connections import connect_again
from pavane.settings import Settings
from schemas.keys import Keys


async def test_a_postgres_that_refuses_is_waited_for(redis: Redis, wait_until: Callable[..., Any]) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))  # and does not listen
        settings = Settings.from_environment({"DATABASE_URL": f"postgresql://u@127.0.0.1:{free.getsockname()[1]}/x"})
        stop = asyncio.Event()
        recorder = Recorder(redis, Keys(), lambda: connect_again(settings))
        recording = asyncio.create_task(recorder.run(stop))
        await wait_until(lambda: recorder.state == "away" or recording.done())
        assert not recording.done(), recording.exception()
        stop.set()
        await recording
