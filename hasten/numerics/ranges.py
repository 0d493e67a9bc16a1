"""Which range of a tensor's values should the integers cover?

A ``Histogram`` gathers a stream of arrays of any number and shapes in fixed memory; the functions read a
range off it: all values (``extremes``), all but the outermost (``percentile``), the range with the least
squared error of quantization (``least_squares``), the one whose quantized distribution is nearest to the
original (``entropy``), so many standard deviations about the mean (``mean_sigma``), or the extremes of each
array, averaged (``moving``).

Sources: Krishnamoorthi 2018, "Quantizing deep convolutional networks for efficient inference", section 3.1
(min-max); Wu et al. 2020, "Integer Quantization for Deep Learning Inference: Principles and Empirical
Evaluation", section 3 (percentile); Nagel et al. 2021, "A White Paper on Neural Network Quantization",
section 3.1 (mean squared error); Migacz 2017, "8-bit Inference with TensorRT", GTC (entropy); Jacob et al.
2018, "Quantization and Training of Neural Networks for Efficient Integer-Arithmetic-Only Inference", section
3.1 (moving averages); Banner et al. 2019, "Post training 4-bit quantization of convolutional networks for
rapid-deployment", section 2 (multiples of the standard deviation).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import ArrayLike, NDArray

from hasten.numerics.affine import Affine, Grid, slice_bounds, symmetric

Range: TypeAlias = tuple[float, float]

BINS = 2048
_STEPS = 64
_SMALLEST_SHARE = 0.05
_TRIED = 256
"""Thresholds that the entropy calibration tries."""
_RATE = 0.01
"""The weight of the newest array in moving averages."""
_SMOOTHED = 1e-4
"""The share of a bin that quantization leaves empty and clipping does not."""


class Histogram:
    """Counts of a stream of values in ``BINS`` bins of equal width, and the exact extremes.

    The span begins as that of the first array and doubles, pairs of bins merging, until later values fit,
    so no value is ever dropped and no second pass over the data is needed.

    low, high: the extremes of all finite values so far (0 before the first). count: the number of values
    counted. finite: False once a NaN or an infinity was seen. moving: the extremes of each array, averaged
    exponentially in the order of the stream: m ← m + 0.01 · (extreme - m), the first array setting both.
    """

    def __init__(self, bins: int = BINS) -> None:
        if bins < 2 or bins % 2:
            raise ValueError(f"a histogram needs an even number of bins, not {bins}")
        self.counts: NDArray[np.int64] = np.zeros(bins, dtype=np.int64)
        self.low = self.high = 0.0
        self.moving: Range = (0.0, 0.0)
        self.finite = True
        self._start = 0.0
        self._width = 0.0

    @classmethod
    def restore(cls, counts: NDArray[np.int64], state: NDArray[np.float64]) -> Histogram:
        """The histogram whose ``counts`` and ``state`` these were."""
        made = cls(len(counts))
        made.counts = counts.copy()
        made.low, made.high, made._start, made._width = (float(number) for number in state[:4])
        made.finite = bool(state[4])
        made.moving = float(state[5]), float(state[6])
        return made

    @property
    def state(self) -> NDArray[np.float64]:
        """Everything but the counts, as seven numbers."""
        told = self.low, self.high, self._start, self._width, self.finite, *self.moving
        return np.array(told, dtype=np.float64)

    @property
    def count(self) -> int:
        """How many values were counted."""
        return int(self.counts.sum())

    @property
    def edges(self) -> NDArray[np.float64]:
        """The bins' borders, ascending, one more than there are bins."""
        return self._start + self._width * np.arange(len(self.counts) + 1, dtype=np.float64)

    @property
    def centres(self) -> NDArray[np.float64]:
        """The bins' middles."""
        return self.edges[:-1] + 0.5 * self._width

    def update(self, values: NDArray[Any], *, at_most: int | None = None) -> None:
        """Count an array's values; the extremes are exact even where ``at_most`` limits how many are counted.

        With a limit, values are taken at even distances through the flattened array.
        """
        flat = np.ravel(values)
        if not flat.size:
            return
        low, high = float(flat.min()), float(flat.max())
        if not (np.isfinite(low) and np.isfinite(high)):
            self.finite = False
            flat = flat[np.isfinite(flat)]
            if not flat.size:
                return
            low, high = float(flat.min()), float(flat.max())
        if at_most is not None and flat.size > at_most:
            flat = flat[:: _stride(flat.size, at_most)]
        rate = _RATE if self._width else 1.0
        before = self.moving
        self.moving = before[0] + rate * (low - before[0]), before[1] + rate * (high - before[1])
        self._include(low, high)
        scaled = (flat - np.float64(self._start)) * (1.0 / self._width)
        index = np.clip(scaled, 0, len(self.counts) - 1).astype(np.intp)
        self.counts += np.bincount(index, minlength=len(self.counts))

    def _include(self, low: float, high: float) -> None:
        bins = len(self.counts)
        if not self._width:
            # A single value gets a span of its own magnitude, so that doubling reaches later ones soon.
            span = (high - low) or abs(low) or float(np.finfo(np.float32).tiny)
            self.low, self.high, self._start = low, high, low
            self._width = span / bins
        self.low, self.high = min(self.low, low), max(self.high, high)
        while self.low < self._start:
            self._start -= bins * self._width
            self._merge(upper=True)
        # The end of the span is known to rounding only; the last bin also takes what lies on it.
        while self.high > self._start + bins * self._width * (1.0 + 1e-9):
            self._merge(upper=False)

    def _merge(self, *, upper: bool) -> None:
        half = len(self.counts) // 2
        merged = self.counts.reshape(half, 2).sum(axis=1)
        self.counts = np.zeros_like(self.counts)
        self.counts[half:] = merged if upper else 0
        if not upper:
            self.counts[:half] = merged
        self._width *= 2.0


def _stride(size: int, at_most: int) -> int:
    """A distance between samples that is odd, since tensors' rows tend to have even lengths."""
    return -(-size // at_most) | 1


def extremes(histogram: Histogram) -> Range:
    """The smallest and the largest value."""
    return histogram.low, histogram.high


def moving(histogram: Histogram) -> Range:
    """The extremes of each array, averaged: rare outliers move the range only a little.

    It follows the order of the data, as the observers of TensorFlow and PyTorch do (Jacob et al. 2018,
    section 3.1).
    """
    return histogram.moving


def percentile(histogram: Histogram, share: float) -> Range:
    """The range without the (100 - ``share``) / 2 per cent of values at either end.

    share: per cent of values kept. Within a bin values count as evenly spread. Raises ValueError for a
    share outside (0, 100].
    """
    if not 0.0 < share <= 100.0:
        raise ValueError(f"the share kept must be in (0, 100] per cent, not {share}")
    total = histogram.count
    if not total:
        return histogram.low, histogram.high
    cut = (100.0 - share) / 200.0 * total
    below = np.concatenate([[0], np.cumsum(histogram.counts)]).astype(np.float64)
    edges = histogram.edges
    low, high = (_crossing(below, edges, wanted) for wanted in (cut, total - cut))
    low, high = np.clip([low, high], histogram.low, histogram.high).tolist()
    return (low, high) if cut > 0 else extremes(histogram)


def _crossing(below: NDArray[np.float64], edges: NDArray[np.float64], wanted: float) -> float:
    bin_ = int(np.searchsorted(below, wanted, side="left"))
    bin_ = min(max(bin_, 1), len(edges) - 1)
    inside = (wanted - below[bin_ - 1]) / max(below[bin_] - below[bin_ - 1], 1.0)
    return float(edges[bin_ - 1] + inside * (edges[bin_] - edges[bin_ - 1]))


def mean_sigma(histogram: Histogram, sigmas: float) -> Range:
    """The mean ± ``sigmas`` standard deviations, no further than the extremes.

    Both moments are those of values spread evenly in their bins: with bins of width w around centres c and
    counts n, mean = Σ n c / Σ n and variance = Σ n (c - mean)² / Σ n + w² / 12. Raises ValueError for
    ``sigmas`` that is not positive.
    """
    if not sigmas > 0.0:
        raise ValueError(f"the standard deviations to each side must be positive, not {sigmas}")
    total = histogram.count
    if not total:
        return extremes(histogram)
    centres, edges = histogram.centres, histogram.edges
    mean = float(histogram.counts @ centres) / total
    variance = float(histogram.counts @ np.square(centres - mean)) / total + (edges[1] - edges[0]) ** 2 / 12.0
    reach = sigmas * float(np.sqrt(variance))
    low, high = np.clip([mean - reach, mean + reach], histogram.low, histogram.high).tolist()
    return low, high


def entropy(histogram: Histogram, bits: int = 8) -> Range:
    """The range [-t, t], within the extremes, whose quantized distribution tells most of the original.

    Magnitudes fall into as many bins as the histogram has. For thresholds t at even distances, P is the
    distribution of the bins below t, with all that is clipped counted in the last one; Q merges the bins
    below t into the levels that the grid has for magnitudes, and spreads each level evenly over those of its
    bins that hold anything. The threshold with the least Σ P log(P / Q) wins. Where Q is empty and P is not,
    Q is given a share of 1e-4: otherwise one outlier over an empty bin would rule every threshold out.
    The bin at zero counts no more than its neighbour.
    Levels: 2^(bits-1), or 2^bits where no value is negative (Migacz 2017, "Entropy calibration").
    """
    levels = 1 << (bits if histogram.low >= 0.0 else bits - 1)
    counts, width = _magnitudes(histogram)
    # Zero, of which ReLUs make many, is exact in any range: its peak would count as spread over its level.
    counts[0] = min(counts[0], counts[1])
    if not counts.any() or len(counts) <= levels:
        return extremes(histogram)
    ends = np.unique(np.linspace(levels, len(counts), _TRIED).astype(np.intp))
    best = min(ends[::-1].tolist(), key=lambda end: _divergence(counts, end, levels))
    threshold = best * width
    low, high = np.clip([-threshold, threshold], histogram.low, histogram.high).tolist()
    return low, high


def _magnitudes(histogram: Histogram) -> tuple[NDArray[np.float64], float]:
    """Counts of absolute values in bins of equal width from zero to the largest, and that width.

    Values count as evenly spread in the histogram's bins, so that the counts are fractions.
    """
    largest = max(-histogram.low, histogram.high, float(np.finfo(np.float32).tiny))
    ends = np.linspace(0.0, largest, len(histogram.counts) + 1)
    below = np.concatenate([[0], np.cumsum(histogram.counts)]).astype(np.float64)
    edges = histogram.edges
    within = np.interp(ends, edges, below) - np.interp(-ends, edges, below)
    counts = np.diff(within)
    # What interpolation leaves of an empty bin is rounding.
    return np.where(counts < 1e-9 * histogram.count, 0.0, counts), float(ends[1])


def _divergence(counts: NDArray[np.float64], end: int, levels: int) -> float:
    """Σ P log(P / Q) for the bins below ``end``; infinite where Q is empty."""
    kept = counts[:end]
    borders = np.arange(levels) * end // levels
    sizes = np.diff(np.append(borders, end))
    held = kept > 0
    share = np.add.reduceat(kept, borders) / np.maximum(
        np.add.reduceat(held.astype(np.float64), borders), 1.0
    )
    q = np.where(held, np.repeat(share, sizes), 0.0)
    p = kept.copy()
    p[-1] += counts[end:].sum()
    present = p > 0
    if not q.any():
        return float("inf")
    p, q = p[present] / p.sum(), q[present] / q.sum()
    q = np.where(q > 0.0, q, _SMOOTHED)
    return float(p @ np.log(p / (q / q.sum())))


def least_squares(histogram: Histogram, quantizer: Callable[[float, float], Affine]) -> Range:
    """The range whose quantizer reproduces the counted values with the least squared error.

    quantizer: makes the quantizer of a range. Both ends are drawn in together over a grid of shares of the
    extremes, then each alone (a grid search of the problem in Nagel et al. 2021, section 3.1).
    """
    low, high = histogram.low, histogram.high
    edges, counts = histogram.edges, histogram.counts

    def error(range_: Range) -> float:
        return _squared_error(edges, counts, quantizer(*range_))

    shares = np.linspace(1.0, _SMALLEST_SHARE, _STEPS)
    best = min(((low * s, high * s) for s in shares), key=error)
    best = min(((best[0], high * s) for s in shares), key=error) if high > 0 else best
    return min(((low * s, best[1]) for s in shares), key=error) if low < 0 else best


def least_squares_bounds(x: ArrayLike, grid: Grid, axis: int | None = None) -> NDArray[np.float32]:
    """The bounds whose symmetric quantizers reproduce a tensor, or each slice, with the least squared error.

    Shares of the largest magnitude are searched over a grid (Nagel et al. 2021, section 3.1). Returns one
    number, or one for each slice along ``axis``.
    """
    values = np.asarray(x, dtype=np.float32)
    widest = slice_bounds(values, axis)
    others = tuple(i for i in range(values.ndim) if axis is None or i != axis % values.ndim)
    best, least = widest, np.full(widest.shape, np.inf)
    for share in np.linspace(1.0, _SMALLEST_SHARE, _STEPS):
        bounds = (widest * np.float32(share)).astype(np.float32)
        error = np.square(symmetric(bounds, grid, axis).round_trip(values) - values).sum(
            axis=others, dtype=float
        )
        best, least = np.where(error < least, bounds, best), np.minimum(error, least)
    return np.asarray(best, dtype=np.float32)


def squared_error(histogram: Histogram, quantizer: Affine) -> float:
    """The summed squared error of rounding the counted values, were they evenly spread in their bins.

    With u = x / scale, the rounding error integrates to ∫ (u - round(u))² du = round(u)/12 + r³/3, where
    r = u - round(u); beyond the ends of the grid the error is the distance from the end.
    """
    return _squared_error(histogram.edges, histogram.counts, quantizer)


def _squared_error(edges: NDArray[np.float64], counts: NDArray[np.int64], quantizer: Affine) -> float:
    scale = float(quantizer.scale)
    u = edges / scale
    inside = np.clip(u, float(quantizer.low) / scale, float(quantizer.high) / scale)
    whole = np.rint(inside)
    rest, beyond = inside - whole, u - inside
    integral = whole / 12.0 + (rest * rest * rest + beyond * beyond * beyond) / 3.0
    return float(counts @ np.diff(integral) / (u[1] - u[0])) * scale * scale
