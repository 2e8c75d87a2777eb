"""The laws of the simulated GPU, in closed form and by property."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent_runner.engines.simulated.gpu import CARDS, CATALOGUE, Card, Demand, Gpu, LoadOptions, ModelSpec
from agent_runner.engines.simulated.residency import Residency

G3, G2, Q7, P3, Q14 = (CATALOGUE[n] for n in ("gemma3:4b", "gemma2:2b", "qwen2.5:7b", "phi3", "qwen2.5:14b"))
BIG = Card("big", 1000.0, 1.0)
PLAIN = LoadOptions()


def demand(spec: ModelSpec, work_s: float | None, ended: list[Demand], **about: object) -> Demand:
    fields = {"options": PLAIN, "keep_alive_s": None, **about}
    return Demand(spec=spec, work_s=work_s, ended=ended.append, **fields)  # type: ignore[arg-type]


def loaded(card: Card, slots: int, *specs: ModelSpec) -> Residency:
    """A residency with these models loaded for good, at whatever time that took."""
    residency = Residency(Gpu(card, slots))
    for spec in specs:
        residency.submit(demand(spec, None, [], keep_alive_s=math.inf))
    residency.advance(100.0)
    assert set(residency.gpu.tenants) == {spec.name for spec in specs}
    return residency


@pytest.mark.parametrize("together", [1, 2, 4, 8])
def test_equal_requests_share_by_the_batching_law(together: int) -> None:
    residency, ended = loaded(CARDS["8GB"], 8, Q7), []
    for _ in range(together):
        residency.submit(demand(Q7, 2.0, ended))
    residency.advance(200.0)
    assert [d.ended_at - 100.0 for d in ended] == pytest.approx([2.0 * (1 + 0.2 * (together - 1))] * together)


def test_a_late_request_slows_the_others_only_from_then_on() -> None:
    residency, ended = loaded(CARDS["8GB"], 8, Q7), []
    residency.submit(demand(Q7, 2.0, ended))
    residency.advance(101.0)
    residency.submit(demand(Q7, 2.0, ended))
    residency.advance(200.0)
    # 1 s alone, then both at 1/1.2 until the first has its second, then the other alone
    assert [d.ended_at for d in ended] == pytest.approx([102.2, 103.2])


def test_active_models_share_the_card_equally() -> None:
    residency, ended = loaded(BIG, 8, G3, G2), []
    residency.submit(demand(G3, 3.0, ended))
    residency.submit(demand(G2, 3.0, ended))
    residency.advance(200.0)
    assert [d.ended_at - 100.0 for d in ended] == pytest.approx([6.0, 6.0])


def test_others_run_slower_while_a_model_loads() -> None:
    residency, ended = loaded(BIG, 8, G3), []
    residency.submit(demand(G3, 4.0, ended))
    residency.submit(demand(Q7, None, []))
    residency.advance(200.0)
    assert ended[0].ended_at - 100.0 == pytest.approx(4.0 / 0.92)  # all of it beside the load
    residency.submit(demand(G2, None, []))
    residency.submit(demand(G3, 4.0, ended))
    residency.advance(300.0)
    assert ended[1].ended_at - 200.0 == pytest.approx(4.0 + 0.08 * G2.load_s)


def test_a_faster_card_runs_faster_but_loads_alike() -> None:
    ended: list[Demand] = []
    residency = Residency(Gpu(CARDS["24GB"], 8))
    residency.submit(demand(Q7, 1.8, ended))
    residency.advance(50.0)
    assert ended[0].ended_at == pytest.approx(Q7.load_s + 1.0)


def test_a_model_larger_than_the_card_runs_in_part_on_the_cpu() -> None:
    ended: list[Demand] = []
    residency = Residency(Gpu(CARDS["8GB"], 1))
    residency.submit(demand(Q14, 1.0, ended))
    residency.advance(100.0)
    tenant = residency.gpu.tenants[Q14.name]
    assert tenant.vram_gb == CARDS["8GB"].usable_gb < tenant.size_gb == Q14.vram_gb(1)
    assert ended[0].ended_at - Q14.load_s > 2.0


def test_what_fits_together() -> None:
    def side_by_side(card: str, slots: int, *specs: ModelSpec) -> bool:
        return sum(spec.vram_gb(slots) for spec in specs) <= CARDS[card].usable_gb

    four = (G3, G2, Q7, P3)
    assert not any(side_by_side("8GB", 8, a, b) for a in four for b in four if a is not b)
    assert side_by_side("8GB", 4, G2, G3) and side_by_side("8GB", 4, G2, P3)
    assert side_by_side("24GB", 8, *four)
    assert G3.vram_gb(8, 8192) == pytest.approx(G3.vram_gb(8) + 8 * G3.kv_gb)


arrivals = st.lists(
    st.tuples(
        st.sampled_from([G3, G2, Q7, P3, Q14]),
        st.floats(0.0, 20.0),
        st.floats(0.0, 10.0),
        st.sampled_from([PLAIN, LoadOptions(num_ctx=8192)]),
        st.sampled_from([None, None, None, 0.0, 1.0, 400.0]),
        st.floats(0.1, 5.0) | st.none(),
    ),
    max_size=40,
)


@given(arrivals, st.integers(1, 8), st.sampled_from(list(CARDS.values())), st.integers(1, 3))
def test_whatever_comes_work_is_conserved_and_nothing_is_lost(
    coming: list[tuple[ModelSpec, float, float, LoadOptions, float | None, float | None]],
    slots: int,
    card: Card,
    max_loaded: int,
) -> None:
    residency = Residency(Gpu(card, slots), max_loaded=max_loaded)
    gpu, ended = residency.gpu, []
    demands, leaving = [], []
    for spec, work_s, gap, options, keep_alive_s, patience in coming:
        residency.advance(gpu.now + gap)
        for one in [one for at, one in leaving if at <= gpu.now]:
            residency.cancel(one)
        assert sum(t.vram_gb for t in gpu.tenants.values()) <= card.usable_gb + 1e-9
        assert len(gpu.tenants) <= max_loaded
        for tenant in gpu.tenants.values():
            assert tenant.running <= slots
            assert tenant.holders == tenant.running + len(tenant.requests)
        one = demand(spec, work_s, ended, options=options, keep_alive_s=keep_alive_s)
        residency.submit(one)
        demands.append(one)
        if patience is not None:
            leaving.append((gpu.now + patience, one))
    residency.advance(gpu.now + 50_000.0)
    assert all(one.state in ("ended", "cancelled") for one in demands)
    assert len(ended) == sum(one.state == "ended" for one in demands)
    meter = gpu.meter
    assert meter.active_s + meter.loading_s + meter.idle_s == pytest.approx(gpu.now)
    assert meter.all_loading_s >= meter.loading_s
    done = sum(one.work_s or 0.0 for one in ended)
    assert meter.work_s >= done - 1e-6 * max(1.0, done)
    if not any(one.state == "cancelled" for one in demands):
        assert meter.work_s == pytest.approx(done)
    assert meter.work_s <= meter.active_s * card.pace * slots / (1 + 0.2 * (slots - 1)) + 1e-6
    assert residency.pending == 0 and not gpu.tenants  # every keep-alive has run out
