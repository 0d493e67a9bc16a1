"""Weight sharing: each weight is an index into a short codebook of real numbers.

The codebook is the one-dimensional k-means of the weights, Σ (w - codebook[code(w)])² → min. In one dimension
clusters are intervals, so that an optimal division of m sorted points into k runs follows from

    D_k(j) = min over i ≤ j of D_{k-1}(i) + cost(i, j),    cost(i, j) = Σ (w - mean)² over the points i … j-1,

by dynamic programming in O(k · m²) (Wang and Song 2011). Up to 512 distinct values are divided so, and the
result is optimal. More are first gathered in about 512 bins, half of them of equal width and half of equal
count, so that neither the tails nor the middle are lost; the optimal division of the bins' means then starts
Lloyd's iteration over all values, which only ever lowers the error and ends in a local minimum.

Sources: Han, Mao and Dally 2016, "Deep Compression", section 3 (shared weights by k-means); Lloyd 1982,
"Least Squares Quantization in PCM"; Wang and Song 2011, "Ckmeans.1d.dp: Optimal k-means Clustering in One
Dimension by Dynamic Programming".
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

POINTS = 512
"""Distinct values up to which the division is optimal."""
_ITERATIONS = 100


@dataclass(frozen=True)
class Codebook:
    """The values that codes stand for, ascending, float32."""

    values: NDArray[np.float32]

    def quantize(self, x: ArrayLike) -> NDArray[np.uint8]:
        """The indices of the nearest values, the lower one of two; same shape as ``x``."""
        real = np.asarray(x, dtype=np.float64)
        return np.searchsorted(_borders(self.values.astype(np.float64)), real).astype(np.uint8)

    def dequantize(self, codes: ArrayLike) -> NDArray[np.float32]:
        """The values of indices; same shape as ``codes``."""
        return np.asarray(self.values[np.asarray(codes).astype(np.intp)])

    def round_trip(self, x: ArrayLike) -> NDArray[np.float32]:
        """Quantize and dequantize."""
        return self.dequantize(self.quantize(x))


def codebook(x: ArrayLike, bits: int) -> Codebook:
    """The codebook of at most 2^bits values for a tensor. Raises ValueError for bits outside 1 to 8."""
    if not 1 <= bits <= 8:
        raise ValueError(f"a codebook's indices have 1 to 8 bits, not {bits}")
    values = np.sort(np.ravel(np.asarray(x, dtype=np.float64)))
    if not values.size:
        return Codebook(np.zeros(1, dtype=np.float32))
    points, counts = np.unique(values, return_counts=True)
    exact = len(points) <= POINTS
    if not exact:
        points, counts = _binned(values)
    centres = _divide(points, counts.astype(np.float64), 1 << bits)
    if not exact:
        centres = _lloyd(values, centres)
    return Codebook(np.unique(centres.astype(np.float32)))


def _binned(ordered: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """Means and counts of bins, half of equal width and half of equal count."""
    half = POINTS // 2
    ranks = np.linspace(0, len(ordered), half, endpoint=False).astype(np.intp)
    even = np.searchsorted(ordered, np.linspace(ordered[0], ordered[-1], half, endpoint=False))
    starts = np.unique(np.concatenate([ranks, even]))
    counts = np.diff(np.append(starts, len(ordered)))
    return np.add.reduceat(ordered, starts) / counts, counts


def _divide(points: NDArray[np.float64], counts: NDArray[np.float64], most: int) -> NDArray[np.float64]:
    """The means of the optimal division of ascending, weighted points into at most ``most`` runs."""
    if len(points) <= most:
        return points
    middle = float(counts @ points / counts.sum())  # about zero, sums of squares cancel less
    shifted = points - middle
    n, s, q = (_sums(counts * power) for power in (np.ones_like(shifted), shifted, shifted * shifted))
    # cost[i, j]: of points i … j-1 in one run; a run of none is free, one of negative length impossible.
    number, total, squares = (sums[None, :] - sums[:, None] for sums in (n, s, q))
    cost = np.where(number > 0, squares - total * total / np.where(number > 0, number, 1.0), np.inf)
    cost = np.maximum(cost, 0.0)
    np.fill_diagonal(cost, 0.0)
    best, taken = cost[0], []
    for _ in range(most - 1):
        reached = best[:, None] + cost
        first = reached.argmin(axis=0)
        taken.append(first)
        best = reached[first, np.arange(len(first))]
    ends = [len(points)]
    for first in reversed(taken):
        ends.append(int(first[ends[-1]]))
    borders = np.unique([0, *ends])
    runs = np.diff(s[borders]) / np.diff(n[borders])
    return np.asarray(runs + middle)


def _sums(terms: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.concatenate([[0.0], np.cumsum(terms)])


def _lloyd(ordered: NDArray[np.float64], centres: NDArray[np.float64]) -> NDArray[np.float64]:
    """Assign to the nearest centre and move centres to the means of theirs, until nothing moves."""
    sums = _sums(ordered)
    last = None
    for _ in range(_ITERATIONS):
        # A value halfway belongs to the lower centre, as ``Codebook.quantize`` has it.
        ends = np.searchsorted(ordered, _borders(centres), side="right")
        borders = np.unique(np.concatenate([[0], ends, [len(ordered)]]))
        if last is not None and np.array_equal(borders, last):
            break
        last = borders
        centres = np.diff(sums[borders]) / np.diff(borders)
    return centres


def _borders(centres: NDArray[np.float64]) -> NDArray[np.float64]:
    return 0.5 * (centres[1:] + centres[:-1])
