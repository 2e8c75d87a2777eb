"""Prices: how they are read, and what use costs."""

import pytest

from schemas.explanations.said import money
from schemas.prices import InvalidPrices, Prices

PRICES = Prices.parse('{"gpu_hour": 0.4, "models": {"m": {"prompt": 0.15, "completion": 0.6}}}')


@pytest.mark.parametrize(
    ("model", "usage", "cost"),
    [
        ("m", {"prompt_tokens": 2_000_000, "completion_tokens": 1_000_000, "gpu_ms": 9}, 0.9),
        ("other", {"gpu_ms": 3_600_000, "execution_time_ms": 1}, 0.4),
        ("other", {"execution_time_ms": 1_800_000}, 0.2),
        ("other", {"gpu_ms": "many"}, 0.0),
        ("other", {"gpu_ms": float("nan")}, 0.0),
        (None, {"execution_time_ms": 1_800_000}, None),
    ],
)
def test_tokens_where_they_have_a_price_else_the_time_on_the_gpu(model, usage, cost):
    assert PRICES.cost(model, usage) == (None if cost is None else pytest.approx(cost))


def test_without_prices_nothing_is_known():
    assert Prices.parse(" ").cost("m", {"gpu_ms": 1}) is None
    assert Prices.parse('{"models": {"m": {"prompt": 1}}}').cost("other", {"gpu_ms": 1}) is None


@pytest.mark.parametrize(
    ("text", "place"),
    [
        ("{", "not JSON"),
        ("[]", "/ must be"),
        ('{"gpu": 1}', "/gpu is no price"),
        ('{"gpu_hour": "1"}', "/gpu_hour must be"),
        ('{"gpu_hour": true}', "/gpu_hour must be"),
        ('{"models": []}', "/models must be"),
        ('{"models": {"m": 3}}', "/models/m must be"),
        ('{"models": {"m": {"prompt": -1}}}', "/models/m/prompt must be"),
    ],
)
def test_what_is_no_price_list_is_refused_with_its_place(text, place):
    with pytest.raises(InvalidPrices, match=place):
        Prices.parse(text)


@pytest.mark.parametrize(
    ("amount", "shown"), [(0.0000027, "0.0000027"), (0.0214, "0.021"), (12.4, "12.40"), (0, "0.00")]
)
def test_money_has_no_exponent(amount, shown):
    assert money(amount) == shown
