"""Between floats and quantized integers: QuantizeLinear, DequantizeLinear, DynamicQuantizeLinear.

A quantized tensor carries no gradient. Where a QuantizeLinear stands directly before its DequantizeLinear,
the compiler puts ``fake_quant`` in their place, which has one.
"""

from __future__ import annotations

import torch
from torch import Tensor

from hasten.bridge.dtypes import carrier
from hasten.bridge.operator import Call, Function, operator
from hasten.bridge.quantizer import Granularity, carried_grid, dequantize, grid_of, quantize


@operator("QuantizeLinear")
@operator("QuantizeLinear", domain="com.microsoft")
def quantize_linear(call: Call) -> Function:
    """Saturate(round(x / scale) + zero point)."""
    granularity, known = Granularity.of(call), grid_of(call)
    precision = carrier(call.integer("precision")) if call.integer("precision", 0) else None

    def run(x: Tensor, scale: Tensor, zero_point: Tensor | None = None) -> Tensor:
        grid = known or carried_grid(zero_point.dtype if zero_point is not None else torch.uint8)
        scale = scale.to(precision or scale.dtype)
        spread = None if zero_point is None else granularity.spread(zero_point, x)
        return quantize(x.to(scale.dtype), granularity.spread(scale, x), spread, grid)

    return run


@operator("DequantizeLinear")
@operator("DequantizeLinear", domain="com.microsoft")
def dequantize_linear(call: Call) -> Function:
    """(q - zero point) · scale, in the scale's type or ``output_dtype``."""
    granularity = Granularity.of(call)
    target = carrier(call.integer("output_dtype")) if call.integer("output_dtype", 0) else None

    def run(q: Tensor, scale: Tensor, zero_point: Tensor | None = None) -> Tensor:
        spread = None if zero_point is None else granularity.spread(zero_point, q)
        return dequantize(q, granularity.spread(scale, q), spread, target or scale.dtype)

    return run


def range_of(x: Tensor) -> tuple[Tensor, Tensor]:
    """Scale and zero point (a float) of a tensor's own range in uint8, zero included."""
    low, high = x.amin().clamp(max=0), x.amax().clamp(min=0)
    scale = (high - low) / 255
    # A tensor of zeros needs some scale: one keeps them zero.
    scale = torch.where(scale == 0, 1, scale)
    return scale, torch.round((-low / scale).clamp(0, 255))


@operator("DynamicQuantizeLinear")
def dynamic_quantize_linear(call: Call) -> Function:
    """Quantize to uint8 by the tensor's own range; returns the scale and the zero point too."""

    def run(x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        scale, zero_point = range_of(x)
        q = (torch.round(x / scale) + zero_point).clamp(0, 255).to(torch.uint8)
        return q, scale, zero_point.to(torch.uint8)

    return run
