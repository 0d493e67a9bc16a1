"""The latency model finds the numbers that times were made of, and none below zero."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hasten.numerics.latency import LatencyModel, Time, Work, beside, taken

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


def halved(work: Work) -> Work:
    return Work(work.macs / 4, work.moved / 2)


@given(stays=st.lists(st.floats(0.0, 50.0), min_size=4, max_size=4), per_mac=st.floats(1e-7, 1e-5))
def test_a_layer_measured_narrower_is_met_at_both_widths(stays: list[float], per_mac: float) -> None:
    works = {str(number): Work(1e6 * (1 + number), 1e4) for number in range(4)}
    times = {name: stays[int(name)] + per_mac * work.macs for name, work in works.items()}
    less = {name: halved(work) for name, work in works.items()}
    narrower = {name: (work, stays[int(name)] + per_mac * work.macs) for name, work in less.items()}
    found = beside(works, times, narrower)
    model = LatencyModel.fit(list(works.values()), list(found.values()))
    for name, work in works.items():
        own = model.through(work, found[name])
        assert taken(found[name]) == times[name] == pytest.approx(own.of(work))
        if own.overhead:
            assert own.of(less[name]) == pytest.approx(narrower[name][1])
        else:  # it falls faster than the model of all layers says, and nothing takes less than no time
            assert narrower[name][1] * (1 - 1e-9) <= own.of(less[name]) < own.of(work)


def test_layers_that_are_alike_need_no_belief_where_they_were_measured_narrower() -> None:
    alike = [Work(2.4e6, 3e4)] * 10
    for stays in (0.0, 3.0, 12.0):
        times: list[Time] = [(12.0, stays + (12.0 - stays) / 4, 0.25, 0.5)] * 10
        model = LatencyModel.fit(alike, times).through(alike[0], times[0])
        assert model.of(alike[0]) == pytest.approx(12.0)
        assert model.of(halved(alike[0])) == pytest.approx(stays + (12.0 - stays) / 4, rel=0.01)


def test_what_stays_is_never_below_nothing_nor_more_than_all() -> None:
    # Of a quarter of the work one takes next to nothing, the other longer than before.
    works, times = [Work(1e6, 1e4)] * 2, [(6.0, 0.1, 0.25, 0.5), (6.0, 9.0, 0.25, 0.5)]
    model = LatencyModel.fit(works, times)
    first, last = (model.through(work, time) for work, time in zip(works, times, strict=True))
    assert (first.overhead, last.overhead) == (0.0, 6.0)
    assert first.of(works[0]) == pytest.approx(6.0)
    assert last.of(halved(works[1])) == 6.0


def test_a_version_that_is_no_narrower_changes_nothing() -> None:
    work = Work(1e6, 1e4)
    assert beside({"a": work}, {"a": 6.0}, {"a": (work, 5.0)}) == {"a": (6.0, 5.0, 1.0, 1.0)}
    model = LatencyModel(2.0, 4e-6, 0.0)
    assert model.through(work, (6.0, 5.0, 1.0, 1.0)) == model.through(work, 6.0)
    assert LatencyModel.fit([work], [(6.0, 5.0, 1.0, 1.0)]) == LatencyModel.fit([work], [6.0])
    # What has no multiply-accumulates is narrower by what it moves.
    assert beside({"a": Work(0.0, 100.0)}, {"a": 6.0}, {"a": (Work(0.0, 50.0), 5.0)}) == {
        "a": (6.0, 5.0, 1.0, 0.5)
    }
    assert beside({"a": work}, {"a": 6.0}, {}) == {"a": 6.0}
    assert beside({"a": work}, {}, {"a": (work, 5.0)}) == {}
