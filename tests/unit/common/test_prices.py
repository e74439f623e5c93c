"""What tokens cost."""

from __future__ import annotations

from fractions import Fraction
from math import ceil

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from inferbus.contracts.prices import MAX_PRICE, Price, check_price, cost
from inferbus.contracts.step import Usage
from inferbus.errors import InvalidRequest

tokens = st.integers(0, 10_000_000)
figures = st.integers(0, MAX_PRICE)


def test_a_small_answer_costs_at_least_one_micro_unit() -> None:
    assert cost(Price(input=150_000, output=600_000), Usage(1, 0)) == 1
    assert cost(Price(input=150_000, output=600_000), Usage(1_000_000, 1_000_000)) == 750_000
    assert cost(Price(input=150_000, output=600_000, cached=0), Usage(1_000_000, 0, 1_000_000)) == 0
    assert cost(Price(input=150_000, output=600_000), Usage(1_000_000, 0, 1_000_000)) == 150_000
    assert cost(Price(input=0, output=0), Usage(5, 5)) == 0


@settings(deadline=None)
@given(tokens, tokens, tokens, figures, figures, st.none() | figures)
def test_the_cost_is_exact_and_rounded_up(
    prompt: int, completion: int, cached: int, input_: int, output: int, per_cached: int | None
) -> None:
    price = Price(input=input_, output=output, cached=per_cached)
    found = min(cached, prompt)
    expected = (
        Fraction((prompt - found) * input_, 1_000_000)
        + Fraction(found * (input_ if per_cached is None else per_cached), 1_000_000)
        + Fraction(completion * output, 1_000_000)
    )
    assert cost(price, Usage(prompt, completion, cached)) == ceil(expected)


@pytest.mark.parametrize("field", ["input", "output", "cached"])
@pytest.mark.parametrize("value", [-1, MAX_PRICE + 1])
def test_figures_nobody_can_have_meant_are_refused(field: str, value: int) -> None:
    figures = {"input": 1, "output": 1, "cached": 1} | {field: value}
    with pytest.raises(InvalidRequest) as refused:
        check_price(Price(**figures))
    assert refused.value.param == field
