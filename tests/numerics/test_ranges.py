"""Range estimators: against the same done on all values at once, and the laws they promise."""

from __future__ import annotations

from functools import partial

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from hasten.numerics.affine import Grid, asymmetric, slice_bounds, symmetric
from hasten.numerics.ranges import (
    Histogram,
    entropy,
    extremes,
    least_squares,
    least_squares_bounds,
    mean_sigma,
    moving,
    percentile,
    squared_error,
)

UINT8 = partial(asymmetric, grid=Grid(8, signed=False))

streams = st.lists(
    arrays(np.float32, st.integers(1, 40), elements=st.floats(-1e6, 1e6, width=32)), min_size=1, max_size=6
)


def histogram_of(*arrays_, **options):
    made = Histogram()
    for array in arrays_:
        made.update(np.asarray(array, np.float32), **options)
    return made


def heavy_tailed(count=20_000):
    return np.random.default_rng(3).standard_t(3, count).astype(np.float32)


@given(streams)
def test_nothing_of_a_stream_is_lost(stream):
    histogram = histogram_of(*stream)
    everything = np.concatenate(stream)
    assert extremes(histogram) == (everything.min(), everything.max())
    assert histogram.count == everything.size
    assert histogram.edges[0] <= everything.min()
    # the end is known to rounding only
    assert everything.max() <= histogram.edges[-1] + 1e-8 * (histogram.edges[-1] - histogram.edges[0])


@settings(max_examples=40)
@given(streams)
def test_bins_hold_what_lies_between_their_edges(stream):
    histogram = histogram_of(*stream)
    everything = np.concatenate(stream).astype(np.float64)
    width = histogram.edges[1] - histogram.edges[0]
    # a value within rounding of an edge may fall on either side of it
    for edge, below in zip(histogram.edges, np.cumsum([0, *histogram.counts]), strict=True):
        assert np.sum(everything < edge - 1e-6 * width) <= below <= np.sum(everything <= edge + 1e-6 * width)


def test_growing_costs_at_most_half_of_the_bins():
    histogram = histogram_of([0.0, 1e-3], np.linspace(-7, 1000, 50))
    width = histogram.edges[1] - histogram.edges[0]
    assert 1007 / width > len(histogram.counts) / 4
    assert histogram.count == 52


def test_a_limit_counts_fewer_but_keeps_the_extremes():
    x = heavy_tailed()
    histogram = histogram_of(x, at_most=1000)
    assert 500 < histogram.count <= 1000
    assert extremes(histogram) == (x.min(), x.max())


def test_what_is_not_finite_is_noticed_and_left_out():
    histogram = histogram_of([1.0, np.nan, 2.0], [np.inf])
    assert not histogram.finite
    assert extremes(histogram) == (1.0, 2.0)
    assert histogram.count == 2


def test_an_empty_stream_has_an_empty_range():
    histogram = histogram_of([])
    assert histogram.count == 0
    assert extremes(histogram) == percentile(histogram, 99.0) == (0.0, 0.0)


def test_restored_it_goes_on_as_before():
    x = heavy_tailed(500)
    first = histogram_of(x)
    again = Histogram.restore(first.counts, first.state)
    for histogram in (first, again):
        histogram.update(x * 3)
    np.testing.assert_array_equal(first.counts, again.counts)
    np.testing.assert_array_equal(first.state, again.state)


@pytest.mark.parametrize("share", [80.0, 99.0, 99.9, 100.0])
def test_percentile_leaves_out_the_share_it_says(share):
    x = heavy_tailed()
    histogram = histogram_of(*np.split(x, 8))
    low, high = percentile(histogram, share)
    # a crossing is known to its bin: as many values as share it, on average, may fall on the wrong side
    edges = [np.searchsorted(histogram.edges, end) for end in (low, high)]
    doubt = max(histogram.counts[max(e - 2, 0) : e + 2].max() for e in edges) + 1
    wanted = (100 - share) / 200 * x.size
    assert abs(np.sum(x < low) - wanted) <= doubt
    assert abs(np.sum(x > high) - wanted) <= doubt


@given(streams, st.floats(50.0, 100.0))
def test_percentile_lies_within_the_extremes(stream, share):
    histogram = histogram_of(*stream)
    low, high = percentile(histogram, share)
    assert histogram.low <= low <= high <= histogram.high


def test_percentile_refuses_a_share_that_is_none():
    with pytest.raises(ValueError, match="per cent"):
        percentile(histogram_of([1.0]), 0.0)


def sum_of_squares(x, quantizer):
    return float(np.sum((quantizer.round_trip(x).astype(np.float64) - x) ** 2))


@pytest.mark.parametrize("bounds", [(-3.0, 5.0), (-40.0, 40.0), (0.0, 1.0)])
@pytest.mark.parametrize("bits", [3, 8])
def test_squared_error_is_that_of_all_values(bits, bounds):
    x = heavy_tailed(200_000)
    quantizer = asymmetric(*bounds, Grid(bits, signed=False))
    # evenly spread within a bin is an approximation; of 200,000 values it keeps this much
    assert squared_error(histogram_of(x), quantizer) == pytest.approx(sum_of_squares(x, quantizer), rel=0.03)


@pytest.mark.parametrize("bits", [4, 8])
@pytest.mark.parametrize(
    "make",
    [heavy_tailed, lambda: np.abs(heavy_tailed()), lambda: heavy_tailed() + 2.0],
    ids=["signed", "positive", "shifted"],
)
def test_least_squares_is_as_good_as_trying_everything(make, bits):
    x = make()
    quantizer = partial(asymmetric, grid=Grid(bits, signed=False))
    found = sum_of_squares(x, quantizer(*least_squares(histogram_of(x), quantizer)))
    shares = np.geomspace(0.02, 1.0, 24)
    tried = [(x.min() * a, x.max() * b) for a in (shares if x.min() < 0 else [1.0]) for b in shares]
    best = min(sum_of_squares(x, quantizer(*pair)) for pair in tried)
    # both searches are grids, of steps of some per cent
    assert found <= 1.1 * best
    assert found < sum_of_squares(x, quantizer(x.min(), x.max()))


@pytest.mark.parametrize("axis", [None, 0])
@pytest.mark.parametrize("bits", [3, 4, 8])
def test_least_squares_bounds_are_never_worse_than_the_largest_value(bits, axis):
    x = np.random.default_rng(bits).standard_t(4, size=(6, 500)).astype(np.float32)
    grid = Grid(bits=bits)

    def errors(bounds):
        rounded = symmetric(bounds, grid, axis).round_trip(x)
        return np.square(rounded - x).sum(axis=None if axis is None else 1, dtype=float)

    found = least_squares_bounds(x, grid, axis)
    assert found.shape == (() if axis is None else (6,))
    assert np.all(errors(found) <= errors(slice_bounds(x, axis)))
    if bits < 8:  # heavy tails: the largest value is worth clipping
        assert np.all(errors(found) < 0.8 * errors(slice_bounds(x, axis)))
    tried = [errors(slice_bounds(x, axis) * np.float32(s)) for s in np.linspace(0.05, 1.0, 400)]
    assert np.all(errors(found) <= 1.02 * np.min(tried, axis=0))


def test_least_squares_keeps_all_of_a_uniform_range():
    x = np.linspace(-1, 1, 10_001, dtype=np.float32)
    low, high = least_squares(histogram_of(x), UINT8)
    assert low == pytest.approx(-1, abs=0.03)
    assert high == pytest.approx(1, abs=0.03)


@settings(max_examples=25)
@given(streams)
def test_least_squares_is_never_worse_than_all_values(stream):
    histogram = histogram_of(*stream)
    low, high = least_squares(histogram, UINT8)
    assert min(histogram.low, 0) <= low
    assert high <= max(histogram.high, 0)
    everything = squared_error(histogram, UINT8(*extremes(histogram)))
    assert squared_error(histogram, UINT8(low, high)) <= everything


def plain_divergence(counts, end, levels):
    """Migacz 2017, bin by bin."""
    p = counts[:end].astype(float).copy()
    p[-1] += counts[end:].sum()
    q = np.zeros(end)
    for level in range(levels):
        first, last = level * end // levels, (level + 1) * end // levels
        held = [i for i in range(first, last) if counts[i] > 0]
        for i in held:
            q[i] = counts[first:last].sum() / len(held)
    if not q.any():
        return np.inf
    p, q = p / p.sum(), q / q.sum()
    q[(q == 0) & (p > 0)] = 1e-4
    q /= q.sum()
    return sum(p[i] * np.log(p[i] / q[i]) for i in range(end) if p[i] > 0)


def test_entropy_finds_the_threshold_with_the_least_divergence():
    x = np.abs(heavy_tailed())
    histogram = Histogram(256)
    histogram.update(np.concatenate([[0.0], x]).astype(np.float32))
    low, high = entropy(histogram, bits=4)
    assert low == 0.0
    ends = np.linspace(0, x.max(), 257)
    within = np.interp(ends, histogram.edges, np.concatenate([[0], np.cumsum(histogram.counts)]))
    counts = np.diff(within)
    counts[counts < 1e-9 * histogram.count] = 0
    best = min(range(256, 15, -1), key=lambda end: plain_divergence(counts, end, 16))
    assert high == pytest.approx(ends[best], rel=1e-6)


def test_entropy_cuts_outliers_and_keeps_what_is_even():
    x = np.concatenate([heavy_tailed(), [900.0]]).astype(np.float32)
    low, high = entropy(histogram_of(x))
    assert high < 100
    assert low == pytest.approx(max(-high, x.min()))
    even = np.linspace(-1, 1, 100_001, dtype=np.float32)
    low, high = entropy(histogram_of(even))
    assert (low, high) == pytest.approx((-1, 1), abs=0.02)


@example([np.array([-10654.0, -15592.0], np.float32), np.array([-6534.0], np.float32)], 8, 1.0)
@given(streams, st.sampled_from([4, 8]), st.floats(0.1, 10.0))
def test_entropy_and_sigmas_lie_within_the_extremes(stream, bits, sigmas):
    histogram = histogram_of(*stream)
    for low, high in (entropy(histogram, bits), mean_sigma(histogram, sigmas)):
        assert histogram.low <= low <= high <= histogram.high


def test_sigmas_are_those_of_all_values():
    x = heavy_tailed()
    low, high = mean_sigma(histogram_of(*np.split(x, 8)), 2.0)
    width = float(x.max() - x.min()) / 1024
    assert low == pytest.approx(x.mean() - 2 * x.std(), abs=width)
    assert high == pytest.approx(x.mean() + 2 * x.std(), abs=width)
    with pytest.raises(ValueError, match="positive"):
        mean_sigma(histogram_of(x), 0.0)
    assert mean_sigma(histogram_of([]), 1.0) == entropy(histogram_of([])) == (0.0, 0.0)


@given(streams)
def test_moving_extremes_are_the_recurrence(stream):
    low = high = None
    for part in stream:
        a, b = float(part.min()), float(part.max())
        low = a if low is None else 0.99 * low + 0.01 * a
        high = b if high is None else 0.99 * high + 0.01 * b
    found = histogram_of(*stream)
    assert moving(found) == pytest.approx((low, high), rel=1e-6, abs=1e-6 * max(abs(low), abs(high), 1e-30))
    assert moving(Histogram.restore(found.counts, found.state)) == moving(found)


def test_moving_extremes_leave_out_what_is_not_finite():
    assert moving(histogram_of([np.nan])) == (0.0, 0.0)
    assert moving(histogram_of([np.nan], [1.0, np.inf, 3.0], [1.0, 103.0])) == pytest.approx((1.0, 4.0))
