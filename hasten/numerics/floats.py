"""Floating point of 8, 6 and 4 bits, with a scale for what the format cannot reach.

A stored element p and its scale s stand for s · p. The scale is either a float32 for the tensor, a slice or
a block (``scaled``), or a power of two shared by a block of 32 elements (``microscaled``), held by one byte.

| format | bits | largest | exponent of the largest | smallest above zero |
|---|---|---|---|---|
| e4m3 | 8 | 448 | 8 | 2⁻⁹ |
| e5m2 | 8 | 57344 | 15 | 2⁻¹⁶ |
| e3m2 | 6 | 28 | 4 | 2⁻⁴ |
| e2m3 | 6 | 7.5 | 2 | 2⁻³ |
| e2m1 | 4 | 6 | 2 | 2⁻¹ |

Elements are rounded to the nearest, halves to the even mantissa, and saturate: neither infinity nor NaN is
ever stored.

Sources: Micikevicius et al. 2022, "FP8 Formats for Deep Learning"; Open Compute Project, "8-bit Floating
Point Specification (OFP8)", revision 1.0; Open Compute Project, "Microscaling Formats (MX) Specification",
version 1.0, sections 5 and 6; the ONNX specification's types FLOAT8E4M3FN, FLOAT8E5M2 (operator set 19),
FLOAT4E2M1 (23), FLOAT8E8M0 (24), FLOAT6E2M3 and FLOAT6E3M2 (28).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import ml_dtypes
import numpy as np
from numpy.typing import ArrayLike, NDArray

from hasten.numerics.affine import usable
from hasten.numerics.blocks import largest_of, spread

MX_BLOCK = 32
"""Elements that share a scale in the MX formats (MX specification, table 1)."""
_BIAS = 127
"""An E8M0 byte e is 2^(e - 127); 255 is NaN."""


@dataclass(frozen=True)
class Format:
    """An element's format: its numpy dtype, bits, largest finite value and that value's exponent."""

    name: str
    dtype: np.dtype[Any]
    bits: int
    largest: float
    exponent: int

    def encode(self, x: ArrayLike) -> NDArray[Any]:
        """The nearest elements, saturated, in the format's own dtype."""
        real = np.asarray(x, dtype=np.float32)
        return np.asarray(np.clip(real, -self.largest, self.largest).astype(self.dtype))

    @property
    def table(self) -> NDArray[np.float32]:
        """What each bit pattern, as an unsigned index, stands for; NaN and infinities as they are."""
        patterns = np.arange(1 << self.bits, dtype=np.uint8)
        return np.asarray(patterns.view(self.dtype).astype(np.float32))


FORMATS = {
    made.name: made
    for made in (
        Format("e4m3", np.dtype(ml_dtypes.float8_e4m3fn), 8, 448.0, 8),
        Format("e5m2", np.dtype(ml_dtypes.float8_e5m2), 8, 57344.0, 15),
        Format("e3m2", np.dtype(ml_dtypes.float6_e3m2fn), 6, 28.0, 4),
        Format("e2m3", np.dtype(ml_dtypes.float6_e2m3fn), 6, 7.5, 2),
        Format("e2m1", np.dtype(ml_dtypes.float4_e2m1fn), 4, 6.0, 2),
    )
}


@dataclass(frozen=True)
class Scaled:
    """A quantizer to scaled floating point.

    scale: float32, positive, of a shape that ``hasten.numerics.blocks`` knows.
    """

    format: Format
    scale: NDArray[np.float32]
    axis: int | None = None
    group: int | None = None

    def quantize(self, x: ArrayLike) -> NDArray[Any]:
        """The elements nearest to x / scale, in the format's dtype; same shape as ``x``."""
        real = np.asarray(x, dtype=np.float32)
        with np.errstate(over="ignore"):  # infinitely large saturates like too large
            return self.format.encode(real / spread(self.scale, real.shape, self.axis, self.group))

    def dequantize(self, elements: ArrayLike) -> NDArray[np.float32]:
        """Elements times their scales; same shape as ``elements``."""
        real = np.asarray(elements).astype(np.float32)
        return np.asarray(real * spread(self.scale, real.shape, self.axis, self.group), dtype=np.float32)

    def round_trip(self, x: ArrayLike) -> NDArray[np.float32]:
        """Quantize and dequantize."""
        return self.dequantize(self.quantize(x))

    @property
    def shared_exponents(self) -> NDArray[np.uint8]:
        """The scales as E8M0 bytes; raises ValueError when one is not a power of two."""
        mantissa, exponent = np.frexp(self.scale)
        if np.any(mantissa != 0.5):
            raise ValueError("only powers of two have an E8M0 byte")
        return np.asarray(exponent - 1 + _BIAS, dtype=np.uint8)


def scaled(x: ArrayLike, format_: str, axis: int | None = None, group: int | None = None) -> Scaled:
    """The quantizer with scale = max|x| / largest for the tensor, each slice or each block.

    format_: a key of ``FORMATS``.
    """
    chosen = FORMATS[format_]
    scale = np.asarray(largest_of(x, axis, group) / np.float32(chosen.largest), dtype=np.float32)
    return Scaled(chosen, usable(scale), axis, group)


def microscaled(x: ArrayLike, format_: str, axis: int, block: int = MX_BLOCK) -> Scaled:
    """The MX quantizer: a power of two for each block of ``block`` values along ``axis``.

    The shared exponent is floor(log2(max|x|)) less the exponent of the format's largest value (MX
    specification, section 6.3), at least -126. A block's largest values may exceed what the format reaches,
    by less than a third for E2M1; they saturate, as the specification says.
    """
    chosen = FORMATS[format_]
    largest = largest_of(x, axis, block)
    exponent = np.frexp(largest)[1] - 1 - chosen.exponent
    exponent = np.where(largest > 0.0, np.maximum(exponent, 1 - _BIAS), 0)
    return Scaled(chosen, np.ldexp(np.float32(1.0), exponent).astype(np.float32), axis, block)


def e8m0_table() -> NDArray[np.float32]:
    """What each E8M0 byte stands for: 2^(e - 127), and NaN for 255."""
    powers = np.ldexp(1.0, np.arange(255) - _BIAS)
    return np.append(powers, np.nan).astype(np.float32)
