"""Covariances of inputs of a layer, as far as so many positions tell."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

_LEAST_SHRINKAGE = 1e-3
"""Inputs that never vary make C singular, however many positions were seen."""


def shrunk(covariance: NDArray[Any], count: int) -> NDArray[np.float64]:
    """The covariance of ``count`` positions drawn towards a multiple of the identity.

    Of few positions each input seems to follow from the others. Source: Chen et al. 2010, "Shrinkage
    Algorithms for MMSE Covariance Estimation", equation 23 (the oracle approximating estimator).
    """
    size = len(covariance)
    trace, squares = float(np.trace(covariance)), float(np.square(covariance).sum())
    spread = squares - trace**2 / size
    wanted = (1 - 2 / size) * squares + trace**2
    known = (count + 1 - 2 / size) * spread
    part = min(1.0, max(wanted / known if known > 0 else 1.0, _LEAST_SHRINKAGE))
    target = max(trace / size, float(np.finfo(np.float32).tiny)) * np.eye(size)
    return np.asarray((1 - part) * covariance + part * target)
