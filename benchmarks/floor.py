"""The floor that hops are compared with: what redis-py and one plain script can do, without any of our code.

Pipelines of 64 through redis-py with hiredis; one script of HINCRBY, HDEL, two XADDs (300 and 150 bytes), XACK, XDEL.
"""

from __future__ import annotations

import time

import redis

PIPELINE = 64
SCRIPT = """
redis.call('HINCRBY', KEYS[1], 'live', 1)
redis.call('HDEL', KEYS[1], ARGV[1])
local id = redis.call('XADD', KEYS[2], '*', 'f', ARGV[2])
redis.call('XADD', KEYS[3], 'MAXLEN', '~', 10000, '*', 'f', ARGV[3])
redis.call('XACK', KEYS[2], 'g', id)
redis.call('XDEL', KEYS[2], id)
return 1
"""


def transitions_per_s(url: str, seconds: float = 2.0) -> float:
    """Transitions per second of the bare script, one client."""
    client = redis.Redis.from_url(url)
    names = ("bench:floor:h", "bench:floor:tasks", "bench:floor:events")
    client.delete(*names)
    client.xgroup_create(names[1], "g", id="0", mkstream=True)
    sha = client.script_load(SCRIPT)
    task, event = "x" * 300, "y" * 150
    done, begin = 0, time.perf_counter()
    while time.perf_counter() - begin < seconds:
        pipe = client.pipeline(transaction=False)
        for i in range(PIPELINE):
            pipe.execute_command("EVALSHA", sha, 3, *names, f"t{i}", task, event)
        pipe.execute()
        done += PIPELINE
    rate = done / (time.perf_counter() - begin)
    client.delete(*names)
    return rate


def round_trips_ms(url: str, count: int = 2_000) -> float:
    """Median of the bare round trips of one hop, one after the other: five commands, as docs/architecture.md counts."""
    client = redis.Redis.from_url(url)
    sha = client.script_load("return redis.call('HINCRBY', KEYS[1], 'n', 1)")
    client.delete("bench:trips")
    times = []
    for _ in range(count):
        begin = time.perf_counter()
        for _ in range(5):
            client.evalsha(sha, 1, "bench:trips")
        times.append(time.perf_counter() - begin)
    client.delete("bench:trips")
    return sorted(times)[count // 2] * 1_000
