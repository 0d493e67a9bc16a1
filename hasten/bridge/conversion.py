"""Conversion between element types, by the rules of ONNX's Cast.

Rounding is to the nearest value, ties to even; what a type cannot hold becomes its largest value where
``saturate`` is set, else infinity or NaN. Integers that are too large lose their high bits.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal

import onnx_ir as ir
import torch
from torch import Tensor

from hasten.bridge.dtypes import carrier

_T = ir.DataType
RoundMode = Literal["up", "down", "nearest"]

NARROW_BITS = {_T.INT4: 4, _T.UINT4: 4, _T.INT2: 2, _T.UINT2: 2}
"""Integers carried by a wider torch dtype, with their width."""

_OVERFLOW = {
    _T.FLOAT8E4M3FN: (464.0, False, float("nan")),
    _T.FLOAT8E4M3FNUZ: (248.0, True, float("nan")),
    _T.FLOAT8E5M2: (61440.0, True, float("inf")),
    _T.FLOAT8E5M2FNUZ: (61440.0, True, float("nan")),
}
"""The midpoint above the largest value, whether the midpoint itself rounds out of range, what comes then."""

FLOAT4_MAX = 6.0


def conversion(
    dtype: ir.DataType, saturate: bool = True, round_mode: RoundMode = "up"
) -> Callable[[Tensor], Tensor]:
    """The function that converts any tensor to the carrier of ``dtype``; see the module's docstring.

    round_mode: how float8e8m0, which has powers of two only, rounds. Raises ModelError for strings.
    """
    target = carrier(dtype)
    if dtype in NARROW_BITS:
        return _to_narrow(dtype)
    if dtype in _OVERFLOW:
        return _to_float8(dtype, saturate)
    if dtype == _T.FLOAT8E8M0:
        return lambda x: to_power_of_two(x, saturate, round_mode)
    if dtype == _T.FLOAT4E2M1:
        return to_float4
    return lambda x: x.to(target)


def _to_narrow(dtype: ir.DataType) -> Callable[[Tensor], Tensor]:
    target, bits = carrier(dtype), NARROW_BITS[dtype]
    if target == torch.uint8:
        return lambda x: x.to(target) & ((1 << bits) - 1)
    return lambda x: (x.to(target) << (8 - bits)) >> (8 - bits)


def _to_float8(dtype: ir.DataType, saturate: bool) -> Callable[[Tensor], Tensor]:
    target = carrier(dtype)
    largest = torch.finfo(target).max
    midpoint, midpoint_overflows, overflow = _OVERFLOW[dtype]

    def saturating(x: Tensor) -> Tensor:
        # torch's own conversion differs between processors for values out of range: none reach it.
        return _at_least_float16(x).clamp(-largest, largest).to(target)

    def overflowing(x: Tensor) -> Tensor:
        wide = x.to(torch.float32)
        size = wide.abs()
        outside = size >= midpoint if midpoint_overflows else size > midpoint
        special = torch.copysign(torch.full_like(wide, overflow), wide)
        return torch.where(outside, special, wide.clamp(-largest, largest)).to(target)

    return saturating if saturate else overflowing


def _at_least_float16(x: Tensor) -> Tensor:
    """Floats of 16 bits and more as they are, all else as float32."""
    return x if x.dtype.is_floating_point and x.element_size() > 1 else x.to(torch.float32)


class StraightThrough(torch.autograd.Function):
    """The second tensor, with the gradient of the first (Bengio et al. 2013)."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, value: Tensor) -> Tensor:
        """Return the value."""
        return value

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        """Hand the gradient to x."""
        return gradients[0], None


def to_float4(x: Tensor) -> Tensor:
    """The nearest of 0, ±0.5, ±1, ±1.5, ±2, ±3, ±4, ±6 as float32; gradients pass within the range.

    NaN, which the type lacks, becomes zero.
    """
    cut = x.to(torch.float32).clamp(-FLOAT4_MAX, FLOAT4_MAX)
    size = cut.detach().abs()
    step = torch.where(size < 2, 0.5, torch.where(size < 4, 1.0, 2.0))
    rounded = (torch.round(cut.detach() / step) * step).nan_to_num(0.0)
    return StraightThrough.apply(cut, rounded) if cut.requires_grad else rounded  # type: ignore[no-untyped-call]


def to_power_of_two(x: Tensor, saturate: bool, round_mode: RoundMode) -> Tensor:
    """Float8e8m0: the exponent of a float32, rounded as asked; infinity becomes NaN."""
    bits = x.to(torch.float32).contiguous().view(torch.int32)
    exponent, fraction = (bits >> 23) & 0xFF, bits & 0x7FFFFF
    if round_mode == "up":
        up = fraction > 0
    elif round_mode == "nearest":
        # The middle between two powers of two is half of the fraction; subnormals round up beyond it only.
        up = torch.where(exponent > 0, fraction >= 0x400000, fraction > 0x400000)
    else:
        up = torch.zeros_like(fraction, dtype=torch.bool)
    raised = exponent + (up & (exponent < 0xFF)).to(torch.int32)
    if saturate:
        raised = torch.where(exponent < 0xFF, raised.clamp(max=0xFE), raised)
    return raised.to(torch.uint8).view(torch.float8_e8m0fnu)
