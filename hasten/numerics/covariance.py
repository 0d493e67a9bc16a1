"""Covariances of inputs of a layer, as far as so many positions tell."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

_LEAST_SHRINKAGE = 1e-3
"""Inputs that never vary make C singular, however many positions were seen."""
_LEAST_VARIANCE = 1e-6
"""Of an input's mean square: of less nothing is known, since products are added up in single precision."""


def constants(second: NDArray[Any], mean: NDArray[Any]) -> NDArray[np.bool_]:
    """Which inputs vary by no more than rounding would: (..., n), of E[x xᵀ], (..., n, n), and E[x]."""
    squares = np.diagonal(second, axis1=-2, axis2=-1)
    return np.asarray(squares - np.square(mean) <= _LEAST_VARIANCE * squares)


def about_mean(second: NDArray[Any], mean: NDArray[Any]) -> NDArray[np.float64]:
    """The covariance, (..., n, n), of inputs whose E[x xᵀ] and E[x] are known.

    Of ``constants`` the difference is noise, which need not even be a covariance: they vary by the least that
    can be told, each by itself.
    """
    made = second - mean[..., :, None] * mean[..., None, :]
    flat = constants(second, mean)
    made = np.where(flat[..., :, None] | flat[..., None, :], 0.0, made)
    least = _LEAST_VARIANCE * np.diagonal(second, axis1=-2, axis2=-1) * flat
    return np.asarray(made + least[..., None] * np.eye(made.shape[-1]))


def shrunk(covariance: NDArray[Any], count: int) -> NDArray[np.float64]:
    """The covariance of ``count`` positions drawn towards a multiple of the identity.

    Of few positions each input seems to follow from the others.
    """
    size, part = len(covariance), shrinkage(covariance, count)
    mean = max(float(np.trace(covariance)) / size, float(np.finfo(np.float32).tiny))
    return np.asarray((1 - part) * covariance + part * mean * np.eye(size))


def shrinkage(covariance: NDArray[Any], count: int) -> float:
    """How far ``shrunk`` draws it, from 0 to 1.

    Source: Chen et al. 2010, "Shrinkage Algorithms for MMSE Covariance Estimation", equation 23 (the oracle
    approximating estimator).
    """
    size = len(covariance)
    trace, squares = float(np.trace(covariance)), float(np.square(covariance).sum())
    spread = squares - trace**2 / size
    wanted = (1 - 2 / size) * squares + trace**2
    known = (count + 1 - 2 / size) * spread
    return min(1.0, max(wanted / known if known > 0 else 1.0, _LEAST_SHRINKAGE))
