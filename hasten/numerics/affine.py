"""Affine quantization: real numbers as integers with a scale and a zero point.

A quantizer maps a real number x to q = clip(round(x / scale) + zero_point, low, high) and back to
scale · (q - zero_point); rounding is half to even, as ONNX's QuantizeLinear does it. Zero is always
represented exactly, so that padding and ReLU cost nothing.

Sources: Jacob et al. 2018, "Quantization and Training of Neural Networks for Efficient
Integer-Arithmetic-Only Inference", eq. 1; Krishnamoorthi 2018, "Quantizing deep convolutional networks for
efficient inference", sections 2.1–2.3; ONNX operator specification, QuantizeLinear-21 and
DequantizeLinear-21 (a scale for the tensor, for each slice along an axis, or for each block along it).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from hasten.numerics.blocks import extremes_of, largest_of, spread


@dataclass(frozen=True)
class Grid:
    """The integers a quantizer may use: all of ``bits`` bits, signed (two's complement) or not.

    Up to 8 bits they are stored in int8 or uint8, up to 16 in int16 or uint16.
    """

    bits: int = 8
    signed: bool = True

    def __post_init__(self) -> None:
        if not 2 <= self.bits <= 16:
            raise ValueError(f"a grid has 2 to 16 bits, not {self.bits}")

    @property
    def low(self) -> int:
        """The smallest integer."""
        return -(1 << (self.bits - 1)) if self.signed else 0

    @property
    def high(self) -> int:
        """The largest integer."""
        return (1 << (self.bits - 1)) - 1 if self.signed else (1 << self.bits) - 1

    @property
    def dtype(self) -> np.dtype[Any]:
        """The smallest numpy dtype that holds these integers."""
        return np.dtype(f"{'int' if self.signed else 'uint'}{8 if self.bits <= 8 else 16}")


@dataclass(frozen=True)
class Affine:
    """A quantizer of a tensor.

    scale, zero_point: of one shape. () is for the whole tensor, (n,) has one entry for each of the n slices
    along ``axis``; with ``group`` they have the tensor's rank and an entry for each block of ``group`` values
    along ``axis`` (see ``hasten.numerics.blocks``). scale: float32, positive. zero_point: within the grid, in
    its dtype.
    """

    scale: NDArray[np.float32]
    zero_point: NDArray[Any]
    grid: Grid
    axis: int | None = None
    group: int | None = None

    @property
    def low(self) -> NDArray[np.float32]:
        """The smallest real number represented, a slice."""
        return self.scale * (self.grid.low - self.zero_point.astype(np.float32))

    @property
    def high(self) -> NDArray[np.float32]:
        """The largest real number represented, a slice."""
        return self.scale * (self.grid.high - self.zero_point.astype(np.float32))

    def quantize(self, x: ArrayLike) -> NDArray[Any]:
        """The integers nearest to ``x``, saturated to the grid; same shape as ``x``."""
        real = np.asarray(x, dtype=np.float32)
        with np.errstate(over="ignore"):  # infinitely many steps saturate like too many
            steps = np.rint(real / self._spread(self.scale, real.shape))
        steps += self._spread(self.zero_point, real.shape).astype(np.float32)
        return np.asarray(np.clip(steps, self.grid.low, self.grid.high).astype(self.grid.dtype))

    def dequantize(self, q: ArrayLike) -> NDArray[np.float32]:
        """The real numbers that integers stand for; same shape as ``q``."""
        whole = np.asarray(q).astype(np.float32)
        shifted = whole - self._spread(self.zero_point, whole.shape).astype(np.float32)
        return np.asarray(shifted * self._spread(self.scale, whole.shape), dtype=np.float32)

    def round_trip(self, x: ArrayLike) -> NDArray[np.float32]:
        """Quantize and dequantize: within [low, high] off by at most half a scale."""
        return self.dequantize(self.quantize(x))

    def _spread(self, parameter: NDArray[Any], shape: tuple[int, ...]) -> NDArray[Any]:
        return spread(parameter, shape, self.axis, self.group)


def asymmetric(
    low: ArrayLike, high: ArrayLike, grid: Grid, axis: int | None = None, group: int | None = None
) -> Affine:
    """The quantizer of values that lie in [low, high], widened to contain zero.

    scale = (high - low) / (grid.high - grid.low); the zero point is the integer nearest to where zero
    falls (Jacob et al. 2018, section 2.1; Krishnamoorthi 2018, section 2.1). With low = 0 it is grid.low.
    low, high: one number, or arrays in a shape that a scale may have.
    """
    lowest = np.minimum(np.asarray(low, dtype=np.float64), 0.0)
    highest = np.maximum(np.asarray(high, dtype=np.float64), 0.0)
    scale = usable(np.asarray((highest - lowest) / (grid.high - grid.low), dtype=np.float32))
    zero_point = np.clip(np.rint(grid.low - lowest / scale.astype(np.float64)), grid.low, grid.high)
    return Affine(scale, np.asarray(zero_point, dtype=grid.dtype), grid, axis, group)


def symmetric(bound: ArrayLike, grid: Grid, axis: int | None = None, group: int | None = None) -> Affine:
    """The quantizer of values in [-bound, bound] with zero point 0, on a signed grid.

    scale = bound / grid.high, so that the grid is used symmetrically (Krishnamoorthi 2018, section 2.2).
    bound: one number, or an array in a shape that a scale may have. Raises ValueError for an unsigned grid.
    """
    if not grid.signed:
        raise ValueError("a symmetric quantizer needs a signed grid")
    scale = usable(np.asarray(np.asarray(bound, dtype=np.float32) / np.float32(grid.high)))
    return Affine(scale, np.zeros(scale.shape, dtype=grid.dtype), grid, axis, group)


def covering(x: ArrayLike, grid: Grid, axis: int | None = None, group: int | None = None) -> Affine:
    """The quantizer that clips nothing of ``x``: symmetric on a signed grid, asymmetric on another.

    axis, group: which parts of ``x`` have a range of their own, see ``hasten.numerics.blocks``.
    """
    if grid.signed:
        return symmetric(largest_of(x, axis, group), grid, axis, group)
    low, high = extremes_of(x, axis, group)
    return asymmetric(low, high, grid, axis, group)


def usable(scale: NDArray[np.float32]) -> NDArray[np.float32]:
    """The scale, or 1 where a range of (almost) nothing but zero would need a denormal one."""
    return np.where(scale < np.finfo(np.float32).tiny, np.float32(1.0), scale)


def slice_bounds(x: ArrayLike, axis: int | None = None) -> NDArray[np.float32]:
    """The largest absolute value of the tensor, or of each slice along ``axis``."""
    return largest_of(x, axis)
