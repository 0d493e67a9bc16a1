"""Loud inputs of a layer get more of the grid before its weights are rounded.

W x = (W diag(s)) (diag(1/s) x), but rounding tells the two apart. Weights that share a scale are rounded with
one step Δ, so input k adds about Δ² E[x_k²] / 12 to the error of an output, and Δ² E[x_k²] / (12 s_k²) once
its weights were multiplied by s_k > 1: less, as long as Δ, which the largest weight of the group sets, grows
by less than s_k. The factors are sought on the line

    s_k = l_k^a,    l_k = √E[x_k²]

with the exponent a that makes the measured error of rounding least, a = 0 being no factors.

Source: Lin et al. 2023, "AWQ: Activation-aware Weight Quantization for LLM Compression and Acceleration",
equations 2 to 5; there l is the mean of |x|. Here the error is had from second moments of the inputs instead
of the inputs themselves, which is the same error.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hasten.numerics.affine import Grid, covering
from hasten.numerics.equalization import balance, bounded, settled
from hasten.numerics.rounding import Moments, output_error

EXPONENTS = tuple(i / 20 for i in range(1, 21))
"""Exponents that are compared with no factors where none is given."""
_WORTH = 0.01
"""Factors that lower the error by less than this part are not worth moving."""


@dataclass(frozen=True, eq=False)
class Product:
    """What a layer multiplies.

    rows: its weight, (groups, outputs, size). read: the numbers of the channels that it reads, of shape
    (groups, 1, size); 0 is no channel. moments: of its inputs.
    """

    rows: NDArray[Any]
    read: NDArray[np.intp]
    moments: Moments

    @cached_property
    def power(self) -> float:
        """E‖W x‖²."""
        return output_error(self.rows, self.moments)


@dataclass(frozen=True)
class Rounding:
    """How weights will be rounded: to the nearest on ``grid``, with a scale for each ``group`` of inputs.

    For all inputs of an output where ``group`` is None or does not divide their number.
    """

    grid: Grid
    group: int | None = None

    def error(self, product: Product, scales: NDArray[np.float64]) -> float:
        """E‖W x - Q(W diag(s)) diag(1/s) x‖² as a part of E‖W x‖²; 0 where that is 0.

        scales: the factor of each channel, of shape (count,), that of channel 0 being 1.
        """
        if product.power <= 0:
            return 0.0
        factors = scales[product.read]
        real = product.rows * factors
        inputs = real.shape[2]
        group = inputs if self.group is None or inputs % self.group else self.group
        rounded = covering(real, self.grid, 2, group).round_trip(real) / factors
        return output_error(product.rows - rounded, product.moments) / product.power


def loudness(products: Sequence[Product], count: int) -> NDArray[np.float64]:
    """√E[x_k²] of each channel over all that read it, of shape (count,); 0 for what none reads.

    Squares count as parts of the mean over all inputs of a layer, as errors count as parts of its output: of
    layers along a residual sum none drowns the others.
    """
    squares, readers = np.zeros(count), np.zeros(count)
    for product in products:
        each = np.diagonal(product.moments.second, axis1=1, axis2=2)
        np.add.at(squares, product.read[:, 0], each / (each.mean() or 1.0))
        np.add.at(readers, product.read[:, 0], 1)
    return np.asarray(np.sqrt(squares / np.maximum(readers, 1)))


def favour_loud(
    channels: NDArray[np.intp],
    products: Sequence[Product],
    scales: NDArray[np.float64],
    rounding: Rounding,
    strength: float | None = None,
) -> NDArray[np.float64]:
    """The scales of all channels, with new ones for those of a set: s_k = l_k^a over the set's median.

    channels: the numbers of the set. products: all layers that read some of them; their errors are added as
    parts of their outputs' sizes, which differ from layer to layer. scales: found so far, of shape (count,).
    strength: the exponent a; None: that of ``EXPONENTS`` with the least error, or the scales as they are
    where none lowers it by a hundredth. A factor that all channels share changes no error, so it is left out.
    """

    def error(tried: NDArray[np.float64]) -> float:
        return sum(rounding.error(product, tried) for product in products)

    loud = loudness(products, len(scales))[channels]
    best = scales
    least = (1 - _WORTH) * error(scales) if strength is None else np.inf
    for a in EXPONENTS if strength is None else (strength,):
        tried = scales.copy()
        tried[channels] = settled(bounded(balance(loud, np.ones(len(loud)), a)))
        found = error(tried)
        if found < least:
            best, least = tried, found
    return best
