"""Zeros in a layer's weights, and the weights that stay solved for so that its outputs change least.

A layer computes y = W x. With H = E[x xᵀ] a row ŵ in place of w changes its output by E = (w - ŵ)ᵀ H (w - ŵ)
on average. For given places of zeros the best ŵ follows from normal equations over the other places; they are
solved by conjugate gradients, for all rows at once. Where ŵ is best, setting ŵ_j to zero as well adds

    ŵ_j² H_jj

until the others make up for it, so that the cheapest of them go next. That is done in a few stages of ever
fewer weights, each stage solving anew, instead of weight by weight as in Optimal Brain Surgeon: with nearly
its result, in products of whole matrices. H is damped (``numerics.rounding.damped``); from few positions its
off-diagonal elements are mostly chance, which ``shrunk`` takes out: with none left weights stay as they are.

Sources: LeCun et al. 1990, "Optimal Brain Damage", section 2; Hassibi and Stork 1993, "Second order
derivatives for network pruning: Optimal Brain Surgeon", section 3; Frantar and Alistarh 2023, "SparseGPT:
Massive Language Models Can Be Accurately Pruned in One-Shot", section 3.1 (mask, then regression); Zhu and
Gupta 2017, "To prune, or not to prune", section 3 (the stages); Hestenes and Stiefel 1952, "Methods of
Conjugate Gradients for Solving Linear Systems", section 3; Chen, Wiesel, Eldar and Hero 2010, "Shrinkage
Algorithms for MMSE Covariance Estimation", equation 23 (oracle approximating shrinkage).
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from hasten.numerics.rounding import damped
from hasten.numerics.sparsity import Mask, all_but_smallest, largest_of_group

_STAGES, _STEPS_OF_STAGE = 8, 3
_STEPS = 50
_CONVERGED = 1e-3
"""Steps end when two of them lower the error by less than this part of it."""
_LARGE = 1024
"""Inputs beyond which single precision is used, which takes half the time."""


def shrunk(hessian: NDArray[np.float64], count: int) -> NDArray[np.float64]:
    """H with its elements off the diagonal made smaller, the more so the fewer positions it is the mean of.

    (1 - ρ) H + ρ diag(H), with ρ the oracle approximating shrinkage of the correlations C towards I,

        ρ = ((1 - 2/p) tr C² + p²) / ((n + 1 - 2/p) (tr C² - p)),    at most 1,

    for p inputs and n = ``count`` positions. hessian: (groups, p, p).
    """
    size = hessian.shape[1]
    diagonal = np.maximum(np.diagonal(hessian, axis1=1, axis2=2), 0.0)  # a variance may be rounded below 0
    spread = np.sqrt(diagonal[:, :, None] * diagonal[:, None, :])
    squares = np.square(_over(hessian, spread)).sum(axis=(1, 2))
    above = (1 - 2 / size) * squares + size**2
    part = np.minimum(_over(above, (count + 1 - 2 / size) * (squares - size)), 1.0)[:, None, None]
    return np.asarray((1 - part) * hessian + part * hessian * np.eye(size))


def error(difference: NDArray[Any], hessian: NDArray[np.float64]) -> float:
    """Σ (w - ŵ)ᵀ H (w - ŵ) over all rows of W - Ŵ, (groups, outputs, size); H (groups, size, size)."""
    change = difference.astype(np.float64)
    return float(np.sum((change @ hessian) * change))


def prune(
    weight: NDArray[Any],
    hessian: NDArray[np.float64],
    zeros: int,
    group: tuple[int, int] | None = None,
) -> NDArray[np.float64]:
    """The weight with zeros where they cost least, all other weights making up for them.

    weight: (groups, outputs, size). hessian: (groups, size, size). zeros: how many of all; what is zero
    already goes first. group: (kept, of): so many stay of each ``of`` consecutive weights of a row, which
    ``of`` divides; ``zeros`` then does not count.
    """
    curvature, wanted = _typed(damped(hessian), weight)
    found, loudness = wanted, np.diagonal(curvature, axis1=1, axis2=2)[:, None, :]
    if group is not None:
        zeros = weight.size // group[1] * (group[1] - group[0])
    for stage in range(1, _STAGES + 1):
        last = stage == _STAGES
        now = zeros if last else round(zeros * (1 - (1 - stage / _STAGES) ** 3))
        cost = np.where(found == 0.0, -1.0, np.square(found) * loudness)
        if group is not None:
            cost[largest_of_group(cost, *group)] = np.inf
        kept = all_but_smallest(cost, now) & (found != 0.0)
        start = np.where(kept, found, 0)
        found = _descend(wanted, kept, curvature, start, _STEPS if last else _STEPS_OF_STAGE)
    return np.asarray(found, dtype=np.float64)


def solve_kept(
    weight: NDArray[Any], kept: Mask, hessian: NDArray[np.float64], steps: int = _STEPS
) -> NDArray[np.float64]:
    """The weights with zeros outside ``kept`` that change outputs least: with H damped no more than before.

    weight, kept: (groups, outputs, size); hessian: (groups, size, size). steps: of conjugate gradients, at
    most.
    """
    curvature, wanted = _typed(damped(hessian), weight)
    return np.asarray(_descend(wanted, kept, curvature, np.where(kept, wanted, 0), steps), dtype=np.float64)


def _typed(curvature: NDArray[Any], weight: NDArray[Any]) -> tuple[NDArray[Any], NDArray[Any]]:
    """Both in the precision that they are computed in."""
    dtype = np.float32 if weight.shape[2] > _LARGE else np.float64
    return curvature.astype(dtype, copy=False), weight.astype(dtype)


def _descend(
    wanted: NDArray[Any], kept: Mask, curvature: NDArray[Any], start: NDArray[Any], steps: int
) -> NDArray[Any]:
    """Conjugate gradients from ``start``, which is zero outside ``kept``; the diagonal preconditions them."""
    found = start.copy()
    scale = np.diagonal(curvature, axis1=1, axis2=2)[:, None, :]
    change = (wanted - found) @ curvature
    left = float(np.sum(change * (wanted - found)))
    rest = np.where(kept, change, 0)
    step = rest / scale
    size = np.sum(rest * step, axis=2, keepdims=True)
    before = np.inf
    for _ in range(steps):
        ahead = np.where(kept, step @ curvature, 0)
        length = _over(size, np.sum(step * ahead, axis=2, keepdims=True))
        found += length * step
        rest -= length * ahead
        gained = float(np.sum(length * size))
        left -= gained
        if gained + before <= _CONVERGED * max(left, 0.0):
            break
        before = gained
        scaled = rest / scale
        new = np.sum(rest * scaled, axis=2, keepdims=True)
        step = scaled + _over(new, size) * step
        size = new
    return found


def _over(above: NDArray[Any], below: NDArray[Any]) -> NDArray[Any]:
    """The quotient; 0 where nothing is left to divide by."""
    tiny = np.finfo(below.dtype).tiny
    return np.asarray(np.divide(above, below, out=np.zeros_like(above), where=below > tiny))
