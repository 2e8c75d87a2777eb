"""What wrong signals get: the dead letters with a reason, or a counter; the runs beside them see nothing of it."""

from __future__ import annotations

import orjson
import pytest
from redis.asyncio import Redis
from redis.exceptions import ConnectionError as RedisConnectionError

from schemas.limits import LIMITS
from schemas.messages import Failure
from tests.faults.conftest import Floor
from tests.faults.courses import course_ids
from tests.faults.verdict import EXECUTIONS, KEYS
from tests.play import Play

GOOD = {"version": "1.0", "job_id": "course-1.1", "run_id": "course-1", "node_id": "first", "status": "completed"}
LARGE = {**GOOD, "result_data": "x" * LIMITS.signal_bytes}
MALFORMED = {
    b"": "not JSON",
    b"nonsense": "not JSON",
    b"\xff\x00\xfe": "not JSON",
    b"[" * 100_000: "not JSON",
    b'{"version": "1.0", "job_id": "\\ud800"}': "not JSON",
    b"[1, 2]": "not a JSON object",
    b"null": "not a JSON object",
    orjson.dumps({**GOOD, "version": "2.0"}): "version is not",
    orjson.dumps({**GOOD, "version": 1.0}): "version is not",
    orjson.dumps({**GOOD, "job_id": None}): "job_id is missing or no valid id",
    orjson.dumps({**GOOD, "job_id": "x" * 10_000}): "job_id is missing or no valid id",
    orjson.dumps({**GOOD, "job_id": "course-1." + "1" * 120 + " 1"}): "job_id is missing or no valid id",
    orjson.dumps({**GOOD, "run_id": "course-1\n"}): "run_id is missing or no valid id",
    orjson.dumps({**GOOD, "run_id": "../../etc"}): "run_id is missing or no valid id",
    orjson.dumps({**GOOD, "run_id": {"a": 1}}): "run_id is missing or no valid id",
    orjson.dumps({**GOOD, "node_id": "first\n"}): "node_id is missing or no valid id",
    orjson.dumps({**GOOD, "attempt": "1"}): "attempt is not a whole number",
    orjson.dumps({**GOOD, "attempt": -1}): "attempt is not a whole number",
    orjson.dumps({**GOOD, "attempt": True}): "attempt is not a whole number",
    orjson.dumps({**GOOD, "status": "done"}): 'status is neither "completed" nor "failed"',
    orjson.dumps({**GOOD, "metadata": []}): "metadata is not an object",
    orjson.dumps({**GOOD, "result_ref": "file:///etc/passwd"}): "result_ref is no artifact://sha256-... reference",
    orjson.dumps(LARGE): f"the limit signal_bytes is {LIMITS.signal_bytes}",
}
COUNTED = {
    orjson.dumps({**GOOD, "run_id": "nobody-knows-it"}): "unknown",
    orjson.dumps({**GOOD, "job_id": "course-1.9999"}): "duplicate",
    orjson.dumps({**GOOD, "attempt": 99}): "duplicate",
    orjson.dumps({**GOOD, "attempt": 2**63}): "duplicate",
    orjson.dumps({**GOOD, "run_id": "course-0", "attempt": 99}): "duplicate",  # another run's token
}
WRONG_NODE = orjson.dumps({**GOOD, "node_id": "last"})


async def test_strange_signals_disturb_nobody(floor: Floor) -> None:
    await floor.begin()  # no runner yet: each run's first token is alive, and waits on its stream
    (coordinator,) = await floor.start("coordinator")
    await floor.redis.rpush(KEYS.signals, *MALFORMED, *COUNTED, WRONG_NODE)
    await floor.wait_until(lambda: _is(floor, "letters", len(MALFORMED) + 1))
    await floor.start("runner", pace_s=0.005)
    await floor.wait_until(lambda: floor.reached(60))
    await floor.redis.rpush(KEYS.signals, *MALFORMED, *COUNTED)
    await floor.ended()
    await floor.redis.rpush(KEYS.signals, orjson.dumps({**GOOD, "attempt": 1}))
    await floor.wait_until(lambda: _is(floor, "over", 1))
    letters = await floor.verdict.letters()
    details = [letter[b"detail"].decode() for letter in letters if letter[b"reason"] == b"malformed"]
    assert len(details) == 2 * len(MALFORMED)
    for reason in MALFORMED.values():
        assert any(reason in detail for detail in details), reason
    assert [letter[b"run"] for letter in letters if letter[b"reason"] == b"wrong_node"] == [b"course-1"]
    counters = await floor.verdict.counters()
    assert counters["unknown"] == 2 and sum(counters.values()) >= 2 * len(COUNTED) + 1
    assert await floor.verdict.statuses() == {"COMPLETED": 20}
    assert await floor.verdict.differences() == []
    assert coordinator.alive


async def test_every_signal_comes_three_times(floor: Floor) -> None:
    """Once from its runner and twice from us, early and late, while two coordinators route them."""
    await floor.start("coordinator", "coordinator", "runner", pace_s=0.002)
    await floor.begin(course_ids(20))
    pushed = 0
    while not await floor.verdict.ended():
        signals = [orjson.loads(one)["signal"] for one in await floor.redis.lrange(EXECUTIONS, pushed, -1)]
        pushed += len(signals)
        for signal in signals:
            if "result_ref" not in signal:  # its artifact comes with the runner's own
                await floor.redis.rpush(KEYS.signals, signal, signal)
    await floor.is_right()
    counters = await floor.verdict.counters()
    assert sum(counters.values()) > pushed and set(counters) <= {"duplicate", "fenced", "over"}


@pytest.fixture
def play(redis: Redis) -> Play:
    """A run of one task, which fails the first time."""
    node = {
        "id": "a",
        "type": "function",
        "config": {"handler": "h"},
        "retry": {"max_attempts": 2, "backoff_ms": 1_000},
    }
    return Play(
        redis, {"id": "flaky", "nodes": [node]}, lambda task, started: Failure("connection", "", retryable=True)
    )


async def test_a_failure_that_is_said_again_after_its_backoff_counts_once(play: Play) -> None:
    await play.start()
    (task,) = await play.tasks()
    await play.execute(task)
    raws = await play.signals()
    await play.route(raws)
    await play.store.queue_task("run_1", task.token_id, 1)
    await play.route(raws)
    token = await play.token("run_1", task.token_id)
    assert token and (token.state, token.failures) == ("queued", 1)
    assert (await play.status(), await play.counter("duplicate")) == ("RUNNING", 1)


async def test_a_connection_that_is_cut_is_no_fault_of_the_signal(play: Play, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is not given up as one that can not be worked on, but signalled again."""

    async def cut(*_: object) -> None:
        raise RedisConnectionError("cut")

    await play.start()
    (task,) = await play.tasks()
    await play.execute(task)
    with monkeypatch.context() as during, pytest.raises(RedisConnectionError):
        during.setattr(play.store, "retry_task", cut)
        await play.settle()
    assert await play.redis.xlen(KEYS.dead_letters) == 0
    assert await play.store.resignal("run_1", task.token_id) == ["signalled"]
    await play.settle()
    assert await play.states() == [("a", "delayed")]


async def _is(floor: Floor, what: str, count: int) -> bool:
    if what == "letters":
        return len(await floor.verdict.letters()) == count
    return (await floor.verdict.counters()).get(what, 0) >= count
