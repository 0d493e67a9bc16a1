"""The latency model finds the numbers that times were made of, and none below zero."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hasten.numerics.latency import LatencyModel, Work

_RNG = np.random.default_rng(0)
WORKS = [Work(float(macs), float(moved)) for macs, moved in _RNG.uniform((1e4, 1e3), (1e8, 1e6), (30, 2))]


@given(
    overhead=st.floats(0.1, 50.0),
    per_mac=st.floats(1e-7, 1e-5),
    per_moved=st.floats(1e-6, 1e-4),
)
def test_what_made_the_times_is_found_again(overhead: float, per_mac: float, per_moved: float) -> None:
    made = LatencyModel(overhead, per_mac, per_moved)
    found = LatencyModel.fit(WORKS, [made.of(work) for work in WORKS])
    # Layers of other sizes than those that were measured; a little is believed beside them.
    for work in WORKS[::5]:
        smaller = Work(work.macs / 3, work.moved / 2)
        assert found.of(work) == pytest.approx(made.of(work), rel=0.05)
        assert found.of(smaller) == pytest.approx(made.of(smaller), rel=0.25)


def test_layers_that_are_alike_are_not_taken_for_overhead_alone() -> None:
    alike = [Work(2.4e6, 3e4)] * 10
    found = LatencyModel.fit(alike, [12.0, 14.0] * 5)
    whole, half = found.of(alike[0]), found.of(Work(0.6e6, 1.5e4))
    assert whole == pytest.approx(13.0, rel=0.05)
    assert 0.4 < half / whole < 0.6


def test_errors_count_by_the_time_they_are_part_of() -> None:
    # Ten short layers and a long one that fits no line: the short ones are met all the same.
    works = [Work(1e6 * i, 0.0) for i in range(1, 11)] + [Work(2e7, 0.0)]
    found = LatencyModel.fit(works, [2.0 * i for i in range(1, 11)] + [400.0])
    assert found.of(Work(5e6, 0.0)) == pytest.approx(10.0, rel=0.3)


def test_nothing_takes_less_than_no_time() -> None:
    # More work in less time: no honest model says so, and none with a number below zero.
    found = LatencyModel.fit([Work(1e6, 0.0), Work(2e6, 0.0)], [9.0, 3.0])
    assert min(found.overhead, found.per_mac, found.per_moved) >= 0.0


def test_times_of_zero_say_nothing() -> None:
    some = LatencyModel.fit([*WORKS, Work(1e6, 1e5)], [*(1e-6 * work.macs for work in WORKS), 0.0])
    assert some.of(WORKS[3]) == pytest.approx(1e-6 * WORKS[3].macs, rel=0.05)
    with pytest.raises(ValueError, match="no layer has a time above 0"):
        LatencyModel.fit(WORKS[:1], [0.0])
