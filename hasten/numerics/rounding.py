"""Rounding a layer's weights so that its outputs change least, not its weights.

A layer computes y = W x, with rounded weights ŷ = Ŵ x. From the second moments of x over calibration samples
the error E‖y - ŷ‖² is known for every Ŵ. Over integers its minimum is a closest-vector problem, which is
solved greedily, column by column: what rounding one column costs is made up for by those not rounded yet.

Sources: Hassibi and Stork 1993, "Second order derivatives for network pruning: Optimal Brain Surgeon";
Frantar and Alistarh 2022, "Optimal Brain Compression", section 5; Frantar et al. 2023, "GPTQ: Accurate
Post-Training Quantization for Generative Pre-trained Transformers", section 3; Nagel et al. 2020, "Up or
Down? Adaptive Rounding for Post-Training Quantization", section 3 (why the nearest is not the best).
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

_DAMPING = 0.01
"""Part of the mean second moment added to all of them: inputs that never vary would make them singular."""
_ROWS = 512
"""Positions that are multiplied at once."""
_BLOCK = 32
"""Columns whose errors are passed on to the rest of the matrix at once (GPTQ, step 2)."""


class Moments:
    """Means and second moments of a layer's inputs, of each group of a grouped convolution by itself.

    Of ``groups`` groups with ``size`` inputs each, over ``count`` positions so far; sums are in float64.
    Positions may count by weights: E[x] is then Σ w x / Σ w.
    """

    def __init__(self, groups: int, size: int) -> None:
        self.count = 0
        self._sum = np.zeros((groups, size))
        self._squares = np.zeros((groups, size, size))
        self._weight = 0.0
        self._waiting: list[tuple[NDArray[Any], NDArray[np.float64] | None]] = []
        self._rows_waiting = 0

    @classmethod
    def restore(cls, mean: NDArray[Any], second: NDArray[Any], count: int) -> Moments:
        """The moments whose ``mean``, ``second`` and ``count`` these were."""
        made = cls(*mean.shape)
        made.count = count
        made._weight = float(count)
        made._sum += mean.astype(np.float64) * count
        made._squares += second.astype(np.float64) * count
        return made

    @property
    def mean(self) -> NDArray[np.float64]:
        """E[x], of shape (groups, size)."""
        self._add_up()
        return self._sum / (self._weight or 1.0)

    @property
    def second(self) -> NDArray[np.float64]:
        """E[x xᵀ], of shape (groups, size, size)."""
        self._add_up()
        return self._squares / (self._weight or 1.0)

    def update(self, x: NDArray[Any], weights: NDArray[np.float64] | None = None) -> None:
        """Count inputs, of shape (groups, positions, size). weights: of the positions, none negative."""
        self.count += x.shape[1]
        self._waiting.append((x, weights))
        self._rows_waiting += x.shape[1]
        # Products of many rows at once: to add up large matrices takes longer than to multiply a few rows.
        if self._rows_waiting >= _ROWS:
            self._add_up()

    def _add_up(self) -> None:
        if not self._waiting:
            return
        x = np.concatenate([waiting for waiting, _ in self._waiting], axis=1)
        x = x.astype(np.result_type(x.dtype, np.float32), copy=False)  # half precision overflows at 65504
        weighted = any(given is not None for _, given in self._waiting)
        given = [np.ones(part.shape[1]) if w is None else w for part, w in self._waiting]
        self._waiting, self._rows_waiting = [], 0
        if not weighted:
            self._weight += x.shape[1]
            self._sum += x.sum(axis=1, dtype=np.float64)
        else:
            weights = np.concatenate(given)
            self._weight += float(weights.sum())
            self._sum += weights @ x
            x = x * np.sqrt(weights).astype(x.dtype)[:, None]
        with np.errstate(over="ignore", invalid="ignore"):  # of what is not finite nothing is known
            self._squares += x.swapaxes(1, 2) @ x  # of one array with itself, BLAS computes half


def output_error(difference: NDArray[Any], moments: Moments) -> float:
    """E‖(W - Ŵ) x‖² summed over all outputs, for a difference of weights of shape (groups, outputs, size)."""
    change = difference.astype(np.float64)
    return float(np.einsum("goi,gij,goj->", change, moments.second, change, optimize=True))


def bias_shift(difference: NDArray[Any], moments: Moments) -> NDArray[np.float64]:
    """What to add to the biases so that mean outputs stay: (W - Ŵ) E[x], of shape (groups, outputs).

    difference: W - Ŵ, of shape (groups, outputs, size). Source: Nagel et al. 2019, "Data-Free Quantization
    Through Weight Equalization and Bias Correction", section 4.2, with measured means.
    """
    return np.asarray(np.einsum("goi,gi->go", difference.astype(np.float64), moments.mean))


def round_columns(
    weight: NDArray[Any],
    scale: NDArray[Any],
    low: int,
    high: int,
    moments: Moments,
    zero_point: NDArray[Any] | None = None,
) -> NDArray[np.int64]:
    """Integers q in [low, high] whose scale · (q - zero_point) keep the layer's outputs nearest (GPTQ).

    weight: (groups, outputs, size). scale, zero_point: (groups, outputs), or (groups, outputs, size) where
    parts of an output's inputs have their own; scales are positive, no zero point means 0. Columns are
    rounded in the order of their inputs' second moments, largest first, so that the loudest have the most
    columns left to make up for their error; scales are those given for each column, in whatever order.
    """
    hessian = moments.second
    order = np.argsort(-np.diagonal(hessian, axis1=1, axis2=2), axis=1, kind="stable")

    def ordered(array: NDArray[Any]) -> NDArray[np.float64]:
        """Of shape (groups, size, outputs): what is rounded together lies together."""
        whole = np.broadcast_to(array if array.ndim == 3 else array[:, :, None], weight.shape)
        return np.ascontiguousarray(
            np.take_along_axis(whole, order[:, None, :], axis=2).swapaxes(1, 2), dtype=np.float64
        )

    rest, steps = ordered(weight), ordered(scale)
    zero = ordered(np.zeros((1, 1, 1)) if zero_point is None else zero_point)
    factor = inverse_factor(hessian, order)
    integers = np.zeros(rest.shape, dtype=np.int64)
    size = weight.shape[2]
    for start in range(0, size, _BLOCK):
        end = min(start + _BLOCK, size)
        errors = np.zeros((rest.shape[0], end - start, rest.shape[2]))
        for i in range(start, end):
            column, step = rest[:, i], steps[:, i]
            rounded = np.clip(np.rint(column / step) + zero[:, i], low, high)
            integers[:, i] = rounded
            error = (column - (rounded - zero[:, i]) * step) / factor[:, i, i, None]
            rest[:, i:end] -= factor[:, i, i:end, None] * error[:, None, :]
            errors[:, i - start] = error
        rest[:, end:] -= factor[:, start:end, end:].swapaxes(1, 2) @ errors
    found = np.empty(weight.shape, dtype=np.int64)
    places = np.broadcast_to(order[:, None, :], found.shape)
    np.put_along_axis(found, places, integers.swapaxes(1, 2), axis=2)
    return found


def damped(hessian: NDArray[np.float64]) -> NDArray[np.float64]:
    """Second moments with a part of their mean added to each input's own: never singular; shape kept."""
    size = hessian.shape[1]
    mean = np.trace(hessian, axis1=1, axis2=2) / size
    damping = np.maximum(_DAMPING * mean, np.finfo(np.float32).tiny)
    return np.asarray(hessian + damping[:, None, None] * np.eye(size))


def inverse_factor(hessian: NDArray[np.float64], order: NDArray[np.intp]) -> NDArray[np.float64]:
    """The upper Cholesky factor of the damped inverse; row i says how later columns move for column i.

    hessian: (groups, size, size). order: (groups, size), in which the columns are gone through.
    """
    moved = np.take_along_axis(damped(hessian), order[:, :, None], axis=1)
    moved = np.take_along_axis(moved, order[:, None, :], axis=2)
    # With rows and columns in reverse order, the inverse of the Cholesky factor is the factor of the inverse.
    lower = np.asarray(np.linalg.cholesky(moved[:, ::-1, ::-1]), dtype=np.float64)
    return _triangular_inverse(lower)[:, ::-1, ::-1]


def _triangular_inverse(lower: NDArray[np.float64]) -> NDArray[np.float64]:
    """Of lower triangular matrices, of shape (n, size, size)."""
    from scipy.linalg.lapack import dtrtri

    if len(lower) > 1:
        return np.asarray(np.linalg.inv(lower))
    return np.asarray(dtrtri(lower[0], lower=1)[0])[None]
