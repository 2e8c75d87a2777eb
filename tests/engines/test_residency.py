"""Ollama's scheduling rules, each in a time line worked out by hand."""

from __future__ import annotations

import math

import pytest

from agent_runner.engines.simulated.gpu import Card, Demand, Gpu, LoadOptions, ModelSpec
from agent_runner.engines.simulated.residency import RECOVERY_S, QueueFull, Residency

A = ModelSpec("a", 5.0, 0.0, 4.0)
B = ModelSpec("b", 5.0, 0.0, 2.0)
C = ModelSpec("c", 1.0, 0.0, 1.0)
CARD = Card("test", 7.4, 1.0)  # holds A or B, and C beside either


class Line:
    """A residency, and what ended on it."""

    def __init__(self, slots: int = 2, **about: float) -> None:
        self.residency = Residency(Gpu(CARD, slots), **about)  # type: ignore[arg-type]
        self.ended: list[Demand] = []

    def ask(
        self,
        spec: ModelSpec,
        work_s: float | None = 1.0,
        keep_alive_s: float | None = None,
        num_ctx: int = 4096,
    ) -> Demand:
        demand = Demand(spec, LoadOptions(num_ctx=num_ctx), work_s, keep_alive_s, self.ended.append)
        self.residency.submit(demand)
        return demand

    def to(self, seconds: float) -> None:
        self.residency.advance(seconds)

    @property
    def held(self) -> set[str]:
        return set(self.residency.gpu.tenants)


def test_a_request_loads_its_model_and_load_time_includes_the_queue() -> None:
    line = Line()
    first, second = line.ask(A), line.ask(A)
    behind = line.ask(C)
    line.to(100.0)
    assert first.granted_at == second.granted_at == 4.0
    assert behind.granted_at == pytest.approx(5.0)  # one load at a time
    assert line.residency.gpu.meter.loads == {"a": 1, "c": 1}


def test_the_queue_is_blocked_behind_the_one_that_waits_for_a_drain() -> None:
    line = Line()
    line.ask(A, None, math.inf)
    line.to(10.0)
    line.ask(A, 6.0)
    blocked = line.ask(B)
    would_fit = line.ask(C)  # beside A, at once, if it were not behind B
    line.to(15.9)
    assert line.held == {"a"} and line.residency.pending == 2
    line.to(100.0)
    assert blocked.granted_at == pytest.approx(16.0 + RECOVERY_S + B.load_s)
    assert would_fit.granted_at == pytest.approx(16.0 + RECOVERY_S + B.load_s + C.load_s)


def test_requests_still_join_a_model_that_is_being_drained() -> None:
    line = Line()
    line.ask(A, None, math.inf)
    line.to(10.0)
    line.ask(A, 2.0)
    blocked = line.ask(B)
    line.to(11.0)
    joined = line.ask(A, 5.0)
    line.to(100.0)
    assert joined.granted_at == 11.0
    assert blocked.granted_at == pytest.approx(joined.ended_at + RECOVERY_S + B.load_s)


def test_the_victim_is_the_idle_model_with_the_shortest_keep_alive() -> None:
    line = Line()
    line.ask(C, None, 1000.0)
    line.to(10.0)
    line.ask(A, None, 100.0)  # used last, and yet the victim
    line.to(20.0)
    line.ask(B)
    line.to(30.0)
    assert line.held == {"b", "c"}


def test_an_idle_model_goes_before_a_busy_one_with_a_shorter_keep_alive() -> None:
    line = Line(max_loaded=2)
    line.ask(C, None, 1000.0)
    line.to(10.0)
    line.ask(A, 50.0, 1.0)
    line.to(20.0)
    line.ask(B)  # evicts c first, still does not fit, then has to drain a
    line.to(21.0)
    assert line.held == {"a"}
    line.to(100.0)
    assert line.held == {"b"}


def test_max_loaded_models() -> None:
    line = Line(max_loaded=1)
    line.ask(A, None)
    line.to(10.0)
    line.ask(C, None)
    line.to(20.0)
    assert line.held == {"c"}


def test_other_load_options_load_the_model_again_after_a_drain() -> None:
    line = Line()
    line.ask(A, 6.0)
    line.to(5.0)
    longer = line.ask(A, 1.0, num_ctx=8192)
    line.to(100.0)
    assert longer.granted_at == pytest.approx(10.0 + RECOVERY_S + A.load_s)
    assert line.residency.gpu.meter.loads == {"a": 2}
    line.ask(A, 1.0, num_ctx=8192)
    line.to(200.0)
    assert line.residency.gpu.meter.loads == {"a": 2}


def test_the_queue_is_bounded_but_a_loaded_models_is_not() -> None:
    line = Line(max_queue=2)
    line.ask(A, None, math.inf)
    line.to(10.0)
    for _ in range(50):
        line.ask(A)
    line.ask(B)  # at the head, waiting for the drain: no longer in the queue
    line.ask(B)
    line.ask(C)
    with pytest.raises(QueueFull):
        line.ask(C)
    line.ask(A)
    line.to(1000.0)
    assert len(line.ended) == 55


def test_slots_are_given_in_the_order_of_arrival() -> None:
    line = Line(slots=1)
    asked = [line.ask(A) for _ in range(5)]
    line.to(100.0)
    assert [d.ended_at for d in asked] == pytest.approx([5.0, 6.0, 7.0, 8.0, 9.0])
    assert {d.granted_at for d in asked} == {4.0}


def test_keep_alive_runs_from_the_last_request_and_unloads() -> None:
    line = Line(keep_alive_s=10.0)
    line.ask(A)
    line.to(14.0)  # ended at 5
    line.ask(A)  # ends at 15
    line.to(24.9)
    assert line.held == {"a"}
    line.to(25.0)
    assert line.held == set()
    line.ask(A, 1.0, 0.0)
    line.to(31.0)
    assert line.held == set()
    line.ask(A, None, math.inf)
    line.to(1e6)
    assert line.held == {"a"}


@pytest.mark.parametrize("work_s", [None, 3.0])
def test_expire_unloads_when_the_last_request_ends(work_s: float | None) -> None:
    line = Line()
    demand = line.ask(A, work_s, math.inf)
    line.to(3.0)
    line.residency.expire("a")  # while it loads
    line.residency.expire("not there")
    line.to(4.0)
    assert line.held == (set() if work_s is None else {"a"})
    line.to(10.0)
    assert line.held == set() and demand.state == "ended"


def test_memory_is_back_a_moment_after_an_unload() -> None:
    line = Line()
    line.ask(A, None)
    line.to(10.0)
    line.residency.expire("a")
    again = line.ask(A, None)
    line.to(20.0)
    assert again.granted_at == pytest.approx(10.0 + RECOVERY_S + A.load_s)


def test_a_client_that_leaves_frees_what_it_held() -> None:
    line = Line(slots=1)
    running, waiting, last = line.ask(A, 10.0), line.ask(A, 10.0), line.ask(A, 1.0)
    queued = line.ask(B, 1.0)
    line.to(5.0)
    for demand in (queued, waiting, running):
        line.residency.cancel(demand)
        line.residency.cancel(demand)  # twice is once
    line.to(100.0)
    assert last.ended_at == pytest.approx(6.0)
    assert line.ended == [last]
    assert line.residency.gpu.meter.work_s == pytest.approx(2.0)
    assert line.residency.pending == 0


def test_a_model_that_nobody_waits_for_any_more_still_loads_and_then_expires() -> None:
    line = Line(keep_alive_s=10.0)
    line.residency.cancel(line.ask(A))
    line.to(13.9)
    assert line.held == {"a"} and line.residency.gpu.tenants["a"].holders == 0
    line.to(14.0)
    assert line.held == set()


def test_work_without_end_holds_its_slot() -> None:
    line = Line(slots=1)
    endless, behind = line.ask(A, math.inf), line.ask(A, 1.0)
    line.to(1e6)
    assert not line.ended
    line.residency.cancel(endless)
    line.to(1e6 + 2)
    assert line.ended == [behind]
