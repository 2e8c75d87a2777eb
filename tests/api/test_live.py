"""A real server: events live, cut off and resumed; many who follow; a server that stops."""

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator, Callable
from typing import Any

import httpx
import orjson
import pytest
import uvicorn

from history.history import History
from lua.run_store import RunStore
from tests.api.conftest import Api, application
from tests.api.workflows import HELLO
from tests.play import Play

LIVE = {"Accept": "text/event-stream"}


class Server(uvicorn.Server):
    """uvicorn whose signals are the test's."""

    @contextlib.contextmanager
    def capture_signals(self) -> Any:
        yield


@pytest.fixture
async def served(store: RunStore, history: History, wait_until: Callable[..., Any]) -> AsyncIterator[Api]:
    """The application behind a socket, with quick pings."""
    app = application(store, history, stream_ping_s=0.05)
    listening = socket.create_server(("127.0.0.1", 0))
    server = Server(uvicorn.Config(app, log_config=None, timeout_graceful_shutdown=5))
    serving = asyncio.create_task(server.serve(sockets=[listening]))
    await wait_until(lambda: server.started)
    url = f"http://127.0.0.1:{listening.getsockname()[1]}"
    async with httpx.AsyncClient(base_url=url, timeout=10, trust_env=False) as http:
        yield Api(app, http, store, history)
    app.state.services.tail.close()
    server.should_exit = True
    await asyncio.wait_for(serving, 4)


async def follow(
    api: Api, run_id: str, after: int = 0, upto: int | None = None, seen: list[dict[str, Any]] | None = None
) -> list[dict[str, Any]]:
    """Events of a live stream, until its end or the event `upto`; into `seen` as they come."""
    headers = LIVE | ({"Last-Event-ID": str(after)} if after else {})
    seen = [] if seen is None else seen
    async with api.http.stream("GET", f"/runs/{run_id}/events", headers=headers) as answer:
        assert answer.headers["content-type"].startswith("text/event-stream")
        ids = []
        async for line in answer.aiter_lines():
            if line.startswith("id: "):
                ids.append(int(line[4:]))
            if line.startswith("data: "):
                seen.append(orjson.loads(line[6:]))
                assert seen[-1]["seq"] == ids[-1]
                if seen[-1]["seq"] == upto:
                    break
    return seen


async def test_live_until_the_run_has_ended(served: Api) -> None:
    run_id = await served.start()
    following = [asyncio.create_task(follow(served, run_id)) for _ in range(3)]
    first = await follow(served, run_id, upto=1)
    assert [event["type"] for event in first] == ["run_started"]
    await served.play()
    for seen in await asyncio.gather(*following):
        assert [event["seq"] for event in seen] == [1, 2, 3, 4, 5, 6]
        assert seen[-1]["type"] == "run_completed"


async def test_cut_off_and_resumed_without_gap_or_repetition(served: Api, record: Any) -> None:
    run_id = await served.start()
    play = Play(served.store.redis, HELLO)
    assert [event["seq"] for event in await follow(served, run_id, upto=1)] == [1]
    await play.execute((await play.tasks())[0])
    await play.settle()
    await record()
    resumed = asyncio.create_task(follow(served, run_id, after=1))
    await play.run_to_end()
    await record()
    assert [event["seq"] for event in await resumed] == [2, 3, 4, 5, 6]
    assert [event["seq"] for event in await follow(served, run_id, after=4)] == [5, 6]
    over = await served.http.get(f"/runs/{run_id}/events", headers=LIVE | {"Last-Event-ID": "6"})
    assert over.status_code == 204, "so that a browser stops asking"


async def test_what_the_recorder_was_quicker_with_is_read_from_postgres(
    served: Api, record: Any, wait_until: Callable[..., Any]
) -> None:
    run_id = await served.start()
    tail = served.app.state.services.tail
    seen: list[dict[str, Any]] = []
    following = asyncio.create_task(follow(served, run_id, seen=seen))
    await wait_until(lambda: seen)
    play = Play(served.store.redis, HELLO)
    read = tail.store.redis.xread
    gate = asyncio.Event()

    async def late(*args: Any, **options: Any) -> Any:
        await gate.wait()
        return await read(*args, **options)

    tail.store.redis.xread = late
    try:
        await play.run_to_end()
    finally:
        tail.store.redis.xread = read
    await record()
    gate.set()
    assert [event["seq"] for event in await following] == [1, 2, 3, 4, 5, 6]


async def test_redis_going_away_and_coming_back(served: Api, wait_until: Callable[..., Any]) -> None:
    run_id = await served.start()
    seen: list[dict[str, Any]] = []
    following = asyncio.create_task(follow(served, run_id, seen=seen))
    await wait_until(lambda: seen)
    await served.store.redis.client_kill_filter(_type="normal", skipme=True)
    await served.play()
    assert [event["seq"] for event in await following] == [1, 2, 3, 4, 5, 6]


async def test_nobody_follows_any_more(served: Api, wait_until: Callable[..., Any]) -> None:
    run_id = await served.start()
    tail = served.app.state.services.tail
    assert await follow(served, run_id, upto=1)
    await wait_until(lambda: tail._reader is None and not tail._followers)


async def test_a_server_that_stops_ends_its_streams(served: Api, wait_until: Callable[..., Any]) -> None:
    run_id = await served.start()
    seen: list[dict[str, Any]] = []
    following = asyncio.create_task(follow(served, run_id, seen=seen))
    await wait_until(lambda: seen)
    served.app.state.services.tail.close()
    assert [event["seq"] for event in await asyncio.wait_for(following, 3)] == [1]


async def test_a_web_page_can_not_drive_it(served: Api) -> None:
    port = served.http.base_url.port
    body = {"workflow": HELLO, "input": {"name": "Ada"}}
    rebound = await served.http.post("/runs", json=body, headers={"Host": f"evil.example:{port}"})
    assert rebound.status_code == 403
    elsewhere = await served.http.post("/runs", json=body, headers={"Origin": "http://evil.example"})
    assert elsewhere.status_code == 403
    form = await served.http.post("/runs", content=orjson.dumps(body), headers={"Content-Type": "text/plain"})
    assert form.status_code == 415
    own = await served.http.post("/runs", json=body, headers={"Origin": f"http://127.0.0.1:{port}"})
    assert own.status_code == 201


async def test_no_run_to_follow(served: Api) -> None:
    assert (await served.http.get("/runs/run_nobody/events", headers=LIVE)).status_code == 404
    run_id = await served.start()
    bad = await served.http.get(f"/runs/{run_id}/events", headers=LIVE | {"Last-Event-ID": "x"})
    assert bad.status_code == 422


async def test_head_is_get_without_its_body(served: Api) -> None:
    for path in ("/healthz", "/", "/runs"):
        got, head = await served.http.get(path), await served.http.head(path)
        assert head.status_code == 200 and head.content == b""
        assert head.headers["content-length"] == got.headers["content-length"]
    run_id = await served.start()
    assert (await served.http.head(f"/runs/{run_id}/events", headers=LIVE)).status_code == 405
