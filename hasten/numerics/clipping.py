"""How far may weights be clipped so that a layer's outputs change least?

Groups of weights share a scale. A smaller scale rounds all of a group finer and clips its largest weights;
which is better depends on how loud the inputs are that they meet. The share of the largest weight that is
kept is sought on a grid, for each group of each output by itself.

Source: Lin et al. 2023, "AWQ: Activation-aware Weight Quantization for LLM Compression and Acceleration",
whose implementation clips weights by this search (``auto_clip``); here over second moments of the inputs
instead of the inputs themselves, which is the same error. Without inputs it is the search of Nagel et al.
2021, "A White Paper on Neural Network Quantization", section 3.1.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from hasten.numerics.affine import Affine, Grid, asymmetric, symmetric
from hasten.numerics.blocks import extremes_of
from hasten.numerics.rounding import Moments

_SMALLEST_SHARE, _STEPS = 0.3, 36
"""The least share that is tried, and how many are."""
_WIDEST = 256
"""Inputs of a group up to which products of different inputs count; their number grows with its square."""


def clipped(weight: NDArray[Any], grid: Grid, group: int, moments: Moments | None) -> Affine:
    """The quantizer, by groups of ``group`` inputs, whose rounding to nearest changes the outputs least.

    weight: (groups of a convolution, outputs, size); ``group`` divides size. moments: of the inputs; None:
    all are equally loud and independent, so that the error is that of the weights. A signed grid
    gets a symmetric quantizer, another one zero points. Of a group with more than 256 inputs the products
    of different ones are left out (activation-weighted least squares).
    """
    low, high = extremes_of(weight, 2, group)
    if grid.signed:
        high = np.maximum(-low, high)
        low = -high
    importance = None if moments is None else _importance(moments.second, group)
    least = np.full(low.shape, np.inf)
    kept = np.ones(low.shape, dtype=np.float32)
    for share in np.linspace(1.0, _SMALLEST_SHARE, _STEPS, dtype=np.float32):
        tried = _quantizer(low * share, high * share, grid, group)
        error = _error(weight - tried.round_trip(weight), group, importance)
        kept, least = np.where(error < least, share, kept), np.minimum(error, least)
    return _quantizer(low * kept, high * kept, grid, group)


def _quantizer(low: NDArray[Any], high: NDArray[Any], grid: Grid, group: int) -> Affine:
    return symmetric(high, grid, 2, group) if grid.signed else asymmetric(low, high, grid, 2, group)


def _importance(second: NDArray[np.float64], group: int) -> NDArray[np.float64]:
    """The second moments within each group: (groups, blocks, group, group), of wide ones the diagonal."""
    groups, size = second.shape[:2]
    if group > _WIDEST:
        return np.asarray(np.diagonal(second, axis1=1, axis2=2)).reshape(groups, size // group, group)
    split = second.reshape(groups, size // group, group, size // group, group)
    return np.ascontiguousarray(np.einsum("gbibj->gbij", split))


def _error(change: NDArray[Any], group: int, importance: NDArray[np.float64] | None) -> NDArray[np.float64]:
    """E(Δw · x)² of each output's each block."""
    split = change.reshape(*change.shape[:2], -1, group).astype(np.float64)
    if importance is None:
        return np.asarray(np.square(split).sum(axis=3))
    if importance.ndim == 3:
        return np.asarray(np.einsum("gobi,gbi->gob", np.square(split), importance))
    moved = split.swapaxes(1, 2)  # (groups, blocks, outputs, group)
    return np.asarray(((moved @ importance) * moved).sum(axis=3).swapaxes(1, 2))
