"""A Redis that went empty, as somebody meets it at a terminal."""

from __future__ import annotations

import asyncio
import json
import shutil
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import httpx
import pytest
from typer.testing import Result

from pavane.cli import up as command
from tests.cli.conftest import UpProcess

Wait = Callable[..., Awaitable[Any]]
ASKING = {"id": "asking", "nodes": [{"id": "sign", "type": "human", "config": {"choices": ["yes", "no"]}}], "edges": []}


async def test_what_redis_has_lost_goes_on(
    up: Callable[..., UpProcess], up_folder: Path, pavane: Callable[..., Result], wait_until: Wait
) -> None:
    """Without a terminal nobody is asked: `up` says what is lost, and `recover` lets it go on."""
    here = ("--data", up_folder)
    first = up("--engine", "simulated")
    httpx.post(
        f"{first.urls['api']}/runs", json={"workflow": ASKING, "input": {}, "run_id": "run_1"}
    ).raise_for_status()
    await wait_until(lambda: "run_1" in pavane("approvals", *here).stdout)
    assert first.interrupt() == 0
    shutil.rmtree(up_folder / "valkey")

    again = up("--engine", "simulated")
    assert any("Redis has lost 1 of 1 unfinished runs" in line["message"] for line in again.lines())
    looked = await asyncio.to_thread(pavane, "recover", "--dry-run", "--json", *here)
    assert json.loads(looked.stdout) == {"unfinished": 1, "in_redis": 0}
    done = await asyncio.to_thread(pavane, "recover", *here)
    assert done.exit_code == 0
    assert done.stdout.startswith("1 runs go on from their last recorded event")
    assert "run_1" in pavane("approvals", *here).stdout
    answer = pavane("complete", "run_1", "sign", "--choice", "yes", *here)
    assert answer.exit_code == 0, answer.output
    api = again.urls["api"]
    await wait_until(lambda: httpx.get(f"{api}/runs/run_1").json()["status"] == "COMPLETED")
    told = [event["type"] for event in httpx.get(f"{api}/runs/run_1/events").json()["events"]]
    assert (told.count("node_opened"), told.count("run_recovered")) == (1, 1), "nobody was asked twice"


@pytest.mark.parametrize(("wanted", "expected"), [(True, True), (False, False), (None, False)])
def test_what_the_options_say(wanted: bool | None, expected: bool) -> None:
    """Without a terminal and an option nothing is rebuilt."""
    assert command._recovers(wanted, 3) is expected
