"""Weights whose channels are shifted to have mean zero, and cut at so many standard deviations.

A channel whose weights do not lie around zero wastes half of a symmetric grid. Taken out before quantization
and given back after it, the mean costs one number a channel:

    w ≈ mean_c + scale_c · q,    scale_c = k · sigma_c / high,    q = clip(round((w - mean_c) / scale_c))

with k standard deviations to each side, what lies beyond being clipped. For normally distributed weights the
k with the least squared error depends on the number of bits alone (``normal_sigmas``).

Source: Banner et al. 2019, "Post training 4-bit quantization of convolutional networks for
rapid-deployment", sections 2 (clipping) and 4 (the mean of a channel).
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from hasten.numerics.affine import Affine, Grid, symmetric
from hasten.numerics.blocks import spread


@dataclass(frozen=True)
class Shifted:
    """A symmetric quantizer of what is left when each slice's mean is taken out.

    mean: float32, of shape (n,) for the slices along the quantizer's axis, or () without an axis.
    """

    mean: NDArray[np.float32]
    quantizer: Affine

    def quantize(self, x: ArrayLike) -> NDArray[Any]:
        """The integers of x - mean; same shape as ``x``."""
        real = np.asarray(x, dtype=np.float32)
        return self.quantizer.quantize(real - self._mean(real.shape))

    def dequantize(self, q: ArrayLike) -> NDArray[np.float32]:
        """The real numbers that integers stand for; same shape as ``q``."""
        real = self.quantizer.dequantize(q)
        return np.asarray(real + self._mean(real.shape), dtype=np.float32)

    def round_trip(self, x: ArrayLike) -> NDArray[np.float32]:
        """Quantize and dequantize."""
        return self.dequantize(self.quantize(x))

    def _mean(self, shape: tuple[int, ...]) -> NDArray[np.float32]:
        return spread(self.mean, shape, self.quantizer.axis)


def mean_variance(x: ArrayLike, grid: Grid, axis: int | None = None, sigmas: float | None = None) -> Shifted:
    """The quantizer of each slice's mean ± ``sigmas`` standard deviations, no further than its values reach.

    sigmas: None takes the best for a normal distribution. Raises ValueError for an unsigned grid.
    """
    values = np.asarray(x, dtype=np.float32)
    others = tuple(i for i in range(values.ndim) if axis is None or i != axis % values.ndim)
    mean = np.asarray(values.mean(axis=others, dtype=np.float64), dtype=np.float32)
    centred = values - spread(mean, values.shape, axis)
    sigma = np.sqrt(np.square(centred, dtype=np.float64).mean(axis=others))
    reach = sigma * (normal_sigmas(grid.bits) if sigmas is None else sigmas)
    bound = np.minimum(reach, np.abs(centred).max(axis=others, initial=0.0))
    return Shifted(mean, symmetric(bound, grid, axis))


@cache
def normal_sigmas(bits: int) -> float:
    """Standard deviations at which a symmetric grid of ``bits`` bits clips a normal distribution best.

    The k in 0.05, 0.10, …, 8 with the least ∫ φ(x) (x - Q_k(x))² dx, integrated over 20,001 points up to 8.
    """
    x = np.linspace(0.0, 8.0, 20_001)
    density = np.exp(-0.5 * x * x)
    tried = np.arange(1, 161) * 0.05
    high = (1 << (bits - 1)) - 1

    def error(k: float) -> float:
        scale = k / high
        return float(density @ np.square(np.minimum(np.rint(x / scale), high) * scale - x))

    return float(min(tried, key=error))
