"""The exact choice of a form for each item, against all choices tried."""

from __future__ import annotations

from itertools import product

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hasten.numerics.knapsack import Option, cheapest_choice

OPTION = st.builds(Option, st.integers(0, 50).map(float), st.integers(-20, 100).map(float))
ITEMS = st.dictionaries(
    st.sampled_from("abcde"), st.dictionaries(st.sampled_from("xyz"), OPTION, min_size=1), min_size=1
)
INFINITE = float("inf")


def weight(items, chosen):
    return sum(items[item][option].weight for item, option in chosen.items())


def cost(items, chosen):
    return sum(items[item][option].cost for item, option in chosen.items())


@given(ITEMS, st.integers(0, 200))
def test_no_other_choice_is_cheaper(items, allowed):
    found = cheapest_choice(items, float(allowed))
    every = [dict(zip(items, options, strict=True)) for options in product(*items.values())]
    fitting = [chosen for chosen in every if weight(items, chosen) <= allowed]
    assert set(found) == set(items)
    if fitting:
        assert weight(items, found) <= allowed + 1e-6
        assert cost(items, found) == pytest.approx(min(cost(items, c) for c in fitting), abs=1e-6)
    else:
        assert weight(items, found) == min(weight(items, c) for c in every)


def test_what_is_not_finite_is_not_chosen():
    items = {
        "a": {"changed": Option(INFINITE, 0.0), "left": Option(0.0, 9.0)},
        "b": {"changed": Option(1.0, 0.0), "left": Option(0.0, 1.0)},
    }
    assert cheapest_choice(items, 5.0) == {"a": "left", "b": "changed"}


def test_greed_by_harm_alone_would_pay_more():
    harms = {"worst": (10.0, 100.0), "bad": (6.0, 10.0), "worse": (5.0, 10.0)}
    items = {n: {"changed": Option(w, 0.0), "left": Option(0.0, c)} for n, (w, c) in harms.items()}
    assert cheapest_choice(items, 10.0) == {"worst": "changed", "bad": "left", "worse": "left"}


def test_of_equally_cheap_options_the_first():
    items = {"a": {"left": Option(1.0, 2.0), "right": Option(0.0, 2.0)}}
    assert cheapest_choice(items, 5.0) == {"a": "left"}
