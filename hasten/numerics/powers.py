"""Logarithmic quantization: zero, and powers of two with a sign.

A product with such a weight is a shift. An n-bit code c in two's complement stands for

    0 for c = 0,    sign(c) · 2^(top - high + |c|) for |c| = 1 … high,    high = 2^(n-1) - 1

so that the largest code is 2^top, one step of the code is one octave, and the most negative code -2^(n-1)
stays unused. ``top`` is one exponent for the tensor, or one for each slice along an axis.

Where rounding changes from 2^e to 2^(e+1) is a choice:

- ``arithmetic``: at 1.5 · 2^e, halfway between both, and at 2^(bottom-1) between the smallest power and zero.
  The nearest level is chosen, which has the least squared error; so it is the default (Zhou et al. 2017
  have the same borders).
- ``geometric``: at √2 · 2^e, halfway between the logarithms, round(log2|x|); what falls below the smallest
  exponent is zero. The least error in the logarithm (Miyashita et al. 2016).

Sources: Miyashita, Lee and Murmann 2016, "Convolutional Neural Networks using Logarithmic Data
Representation", section 3; Zhou et al. 2017, "Incremental Network Quantization: Towards Lossless CNNs with
Low-Precision Weights", section 2.1.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, TypeAlias

import numpy as np
from numpy.typing import ArrayLike, NDArray

from hasten.numerics.blocks import largest_of, spread

Midpoint: TypeAlias = Literal["arithmetic", "geometric"]

_BORDER = {"arithmetic": 0.75, "geometric": float(np.sqrt(0.5))}
"""For |x| = m · 2^e with m in [0.5, 1): from this m on, x is rounded up to 2^e."""
_LEAST, _MOST = -100, 127
"""The range of ``top``, so that 2^top is a normal number of float32."""


@dataclass(frozen=True)
class Powers:
    """A logarithmic quantizer of a tensor.

    top: the largest exponent, int32, of shape () or (n,) for the slices along ``axis``. bits: 2 to 8, of the
    whole code with its sign.
    """

    top: NDArray[np.int32]
    bits: int
    axis: int | None = None
    midpoint: Midpoint = "arithmetic"

    def __post_init__(self) -> None:
        if not 2 <= self.bits <= 8:
            raise ValueError(f"a logarithmic code has 2 to 8 bits, not {self.bits}")

    @property
    def high(self) -> int:
        """The largest code."""
        return (1 << (self.bits - 1)) - 1

    @property
    def scale(self) -> NDArray[np.float32]:
        """2^top, the largest magnitude, a slice."""
        return np.ldexp(np.float32(1.0), self.top).astype(np.float32)

    @property
    def levels(self) -> NDArray[np.float32]:
        """What codes stand for, divided by ``scale``: at index c, for negative ones at 2^bits + c."""
        positive = np.ldexp(1.0, np.arange(1, self.high + 1) - self.high)
        return np.concatenate([[0.0], positive, [0.0], -positive[::-1]]).astype(np.float32)

    def quantize(self, x: ArrayLike) -> NDArray[np.int8]:
        """The codes; magnitudes beyond 2^top saturate. Same shape as ``x``."""
        real = np.asarray(x, dtype=np.float32)
        mantissa, exponent = np.frexp(np.abs(real))
        above = exponent - spread(self.top, real.shape, self.axis) + self.high  # the code of 2^exponent
        steps = above - (mantissa < _BORDER[self.midpoint])
        if self.midpoint == "arithmetic":
            # The neighbours of the smallest power are zero and its double: the lower border is at its half.
            steps = np.where(above >= 1, np.maximum(steps, 1), 0)
        steps = np.where(real == 0.0, 0, np.clip(steps, 0, self.high))
        return (steps * np.sign(real)).astype(np.int8)

    def dequantize(self, codes: ArrayLike) -> NDArray[np.float32]:
        """The powers of two that codes stand for, and zero; same shape as ``codes``."""
        index = np.asarray(codes).astype(np.intp)
        return np.asarray(self.levels[index] * spread(self.scale, index.shape, self.axis), dtype=np.float32)

    def round_trip(self, x: ArrayLike) -> NDArray[np.float32]:
        """Quantize and dequantize."""
        return self.dequantize(self.quantize(x))


def powers(x: ArrayLike, bits: int, axis: int | None = None, midpoint: Midpoint = "arithmetic") -> Powers:
    """The quantizer whose largest power is what the largest magnitude of the tensor, or slice, rounds to.

    With the arithmetic midpoint top = floor(log2(4 max|x| / 3)) (Zhou et al. 2017). A slice of
    zeros has top 0. bits: 2 to 8, otherwise ValueError.
    """
    largest = largest_of(x, axis)
    mantissa, exponent = np.frexp(largest)
    top = np.where(largest > 0.0, exponent - (mantissa < _BORDER[midpoint]), 0)
    return Powers(np.clip(top, _LEAST, _MOST).astype(np.int32), bits, axis, midpoint)
