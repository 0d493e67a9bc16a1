"""How much is lost when weights are set to zero? One row a kind, for rows that stand or fall together.

A unit (a channel, a filter, a head; a single weight where each stands for itself) is a row w of k weights,
with the gradients g of a loss L for them. What L changes by when the row goes is, by Taylor's expansion,

    ΔL = -gᵀw + ½ wᵀHw + …

``taylor`` is the square of its first term, ``fisher`` its second with H's diagonal taken from the squares of
gradients. Where a trained model teaches itself the first term vanishes and the second is what is left.

Sources: Li et al. 2017, "Pruning Filters for Efficient ConvNets", section 3.1 (l1); Han et al. 2015,
"Learning both Weights and Connections", section 3 (magnitude); Molchanov et al. 2019, "Importance Estimation
for Neural Network Pruning", equations 8 and 9 (taylor); LeCun et al. 1990, "Optimal Brain Damage", section 2
(fisher); Theis et al. 2018, "Faster gaze prediction with dense networks and Fisher pruning", section 2.2
(the diagonal from squared gradients); He et al. 2019, "Filter Pruning via Geometric Median", section 3.2
(median); Lee et al. 2021, "Layer-Adaptive Sparsity for the Magnitude-Based Pruning", equation 1 (lamp).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

Importance: TypeAlias = Literal["l1", "l2", "gradient", "taylor", "fisher", "median", "random"]
Normalization: TypeAlias = Literal["none", "mean", "max", "sum", "lamp"]

NEED_GRADIENTS = frozenset({"gradient", "taylor"})
"""Kinds that are computed from the mean of gradients."""
NEED_SQUARES = frozenset({"fisher"})
"""Kinds that are computed from the mean of squared gradients."""
ADDITIVE = frozenset({"l1", "l2", "gradient", "fisher"})
"""Kinds whose score of joined rows is the sum of the parts' scores."""

_BLOCK_ELEMENTS = 1 << 20
"""Distances that are held at once."""


@dataclass(frozen=True)
class _Given:
    """What scores are computed from, in float64; all of shape (n, k)."""

    weights: NDArray[np.float64]
    gradients: NDArray[np.float64]
    squared_gradients: NDArray[np.float64]
    seed: int


def scores(
    kind: Importance,
    weights: NDArray[Any],
    *,
    gradients: NDArray[Any] | None = None,
    squared_gradients: NDArray[Any] | None = None,
    seed: int = 0,
) -> NDArray[np.float64]:
    """How important each of n units is, of shape (n,), none negative; the least important go first.

    weights: (n, k), a unit's weights in a row; (n, 1) where every weight is a unit. gradients,
    squared_gradients: of a loss for these weights, and their squares, both means over samples, of the same
    shape. seed: of ``random``.

    | kind | score |
    |---|---|
    | l1 | Σ |w| |
    | l2 | Σ w², the squared norm |
    | gradient | Σ |g| |
    | taylor | (Σ g w)² |
    | fisher | ½ Σ E[g²] w² |
    | median | Σ over all rows v of ‖w - v‖: least for the row that the others replace best |
    | random | uniform in [0, 1) |

    The weights of a coupled unit lie in several tensors: first join their rows along axis 1. For the kinds in
    ``ADDITIVE`` that is the sum of the tensors' scores, which is why l2 has no root; ``taylor`` is then the
    group contribution of the paper, and ``median`` a distance in all weights at once. A ``random`` score is
    drawn once a unit. The scale of batch normalization (Liu et al. 2017, "Learning Efficient Convolutional
    Networks through Network Slimming") is l1 of the scale as a column: ``scores("l1", scale[:, None])``.

    Raises ValueError for other shapes and for gradients that are missing.
    """
    if weights.ndim != 2:
        raise ValueError(f"importance takes weights of shape (units, weights of a unit), not {weights.shape}")
    wanted = {"gradients": kind in NEED_GRADIENTS, "squared_gradients": kind in NEED_SQUARES}
    found = {}
    for name, array in (("gradients", gradients), ("squared_gradients", squared_gradients)):
        if wanted[name] and array is None:
            raise ValueError(f"importance by {kind} takes {name}")
        if wanted[name] and array is not None and array.shape != weights.shape:
            raise ValueError(f"{name} of shape {array.shape} do not fit weights of shape {weights.shape}")
        used = array if wanted[name] and array is not None else np.zeros((0, 0))
        found[name] = used.astype(np.float64)
    return _KINDS[kind](_Given(weights.astype(np.float64), seed=seed, **found))


def _l1(given: _Given) -> NDArray[np.float64]:
    return np.asarray(np.abs(given.weights).sum(axis=1))


def _l2(given: _Given) -> NDArray[np.float64]:
    return np.asarray(np.square(given.weights).sum(axis=1))


def _gradient(given: _Given) -> NDArray[np.float64]:
    return np.asarray(np.abs(given.gradients).sum(axis=1))


def _taylor(given: _Given) -> NDArray[np.float64]:
    return np.asarray(np.square((given.gradients * given.weights).sum(axis=1)))


def _fisher(given: _Given) -> NDArray[np.float64]:
    return np.asarray(0.5 * (given.squared_gradients * np.square(given.weights)).sum(axis=1))


def _random(given: _Given) -> NDArray[np.float64]:
    return np.random.default_rng(given.seed).random(len(given.weights))


def _median(given: _Given) -> NDArray[np.float64]:
    rows = given.weights
    if rows.shape[1] == 1:
        return _distances_on_a_line(rows[:, 0])
    if not rows.size:
        return np.zeros(len(rows))
    centred = rows - rows.mean(axis=0)  # squares of what is left cancel less
    squares = np.square(centred).sum(axis=1)
    total = np.empty(len(rows))
    step = max(1, _BLOCK_ELEMENTS // len(rows))
    for start in range(0, len(rows), step):
        part = slice(start, start + step)
        between = squares[part, None] + squares - 2.0 * (centred[part] @ centred.T)
        here = np.arange(len(between))
        between[here, start + here] = 0.0
        total[part] = np.sqrt(np.maximum(between, 0.0)).sum(axis=1)
    return total


def _distances_on_a_line(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Σ over j of |v_i - v_j|, from sums below and above each value in ascending order."""
    order = np.argsort(values, kind="stable")
    ordered = values[order]
    below = np.arange(len(values))
    sums = np.cumsum(ordered)
    total = np.empty_like(ordered)
    under = sums - ordered
    over = (sums[-1] if len(sums) else 0.0) - sums
    total[order] = (ordered * below - under) + (over - ordered * (len(values) - 1 - below))
    return np.maximum(total, 0.0)


_KINDS: dict[Importance, Callable[[_Given], NDArray[np.float64]]] = {
    "l1": _l1,
    "l2": _l2,
    "gradient": _gradient,
    "taylor": _taylor,
    "fisher": _fisher,
    "median": _median,
    "random": _random,
}


def normalized(scores: NDArray[Any], how: Normalization) -> NDArray[np.float64]:
    """One layer's scores in a form that is compared with other layers'; the order within it stays.

    scores: of shape (n,), none negative. ``mean``, ``max``, ``sum``: divided by that. ``lamp``: each divided
    by the sum of those that are not smaller, of equal ones those that come first counting as smaller; of l2
    scores that is the LAMP score. The largest of a layer becomes 1, so that of all layers together none is
    emptied before every layer is down to one. Scores of nothing but zeros stay zeros.
    """
    found = np.asarray(scores, dtype=np.float64)
    if how == "none" or not found.size:
        return found.copy()
    if how == "lamp":
        order = np.argsort(found, kind="stable")
        rest = np.cumsum(found[order][::-1])[::-1]
        made = np.empty_like(found)
        made[order] = _over(found[order], rest)
        return made
    divisors = {"mean": found.mean(), "max": found.max(), "sum": found.sum()}
    return _over(found, divisors[how])


def _over(found: NDArray[np.float64], divisor: NDArray[np.float64] | float) -> NDArray[np.float64]:
    """The quotient; 0 where the divisor is."""
    wide = np.broadcast_to(np.asarray(divisor, dtype=np.float64), found.shape)
    return np.divide(found, wide, out=np.zeros_like(found), where=wide > 0)
