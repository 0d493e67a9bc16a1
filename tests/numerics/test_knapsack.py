"""The exact choice of what to take out, against all choices tried."""

from __future__ import annotations

from itertools import chain, combinations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hasten.numerics.knapsack import cheapest_cover

ITEMS = st.lists(st.tuples(st.integers(0, 50), st.integers(-20, 100)), min_size=1, max_size=8)


@given(ITEMS, st.integers(0, 200))
def test_no_other_choice_is_cheaper(items: list[tuple[int, int]], allowed: int) -> None:
    weights = {f"i{n}": float(w) for n, (w, _) in enumerate(items)}
    costs = {f"i{n}": float(c) for n, (_, c) in enumerate(items)}
    found = cheapest_cover(weights, costs, float(allowed))

    def left(taken: frozenset[str]) -> float:
        return sum(w for name, w in weights.items() if name not in taken)

    every = chain.from_iterable(combinations(weights, k) for k in range(len(weights) + 1))
    least = min(sum(costs[n] for n in taken) for taken in map(frozenset, every) if left(taken) <= allowed)
    assert left(found) <= allowed + 1e-6
    assert sum(costs[n] for n in found) == pytest.approx(least, abs=1e-6)


def test_what_is_not_finite_is_taken_out() -> None:
    assert cheapest_cover({"a": float("inf"), "b": 1.0}, {"a": 9.0, "b": 1.0}, 5.0) == {"a"}


def test_greed_by_harm_alone_would_pay_more() -> None:
    weights = {"worst": 10.0, "bad": 6.0, "worse": 5.0}
    costs = {"worst": 100.0, "bad": 10.0, "worse": 10.0}
    assert cheapest_cover(weights, costs, 10.0) == {"bad", "worse"}
