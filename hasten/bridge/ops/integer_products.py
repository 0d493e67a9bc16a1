"""Products of quantized tensors: MatMulInteger, ConvInteger, QLinearMatMul, QLinearConv.

Sums of products of bytes are computed in float64, which holds them exactly (up to 2⁵³) and for which torch
has kernels on every device.
"""

from __future__ import annotations

import torch
from torch import Tensor

from hasten.bridge.delegate import delegate
from hasten.bridge.operator import Call, Function, operator
from hasten.bridge.quantizer import carried_grid, quantize

_EXACT = torch.float64


def centred(q: Tensor, zero_point: Tensor | None) -> Tensor:
    """The integers less their zero point (which broadcasts), as floats that hold them exactly."""
    wide = q.to(_EXACT)
    return wide if zero_point is None else wide - zero_point.to(_EXACT)


def by_row(zero_point: Tensor | None) -> Tensor | None:
    """A list of one number per row of a matrix, as a column."""
    return zero_point.unsqueeze(-1) if zero_point is not None and zero_point.dim() == 1 else zero_point


def by_output(numbers: Tensor | None, rank: int) -> Tensor | None:
    """A list of one number per output channel, to broadcast to the weight (channels first) of a rank."""
    if numbers is None or numbers.dim() == 0:
        return numbers
    return numbers.reshape(-1, *(1,) * (rank - 1))


@operator("MatMulInteger")
def matmul_integer(call: Call) -> Function:
    """(A - zero point) · (B - zero point) in int32."""

    def run(a: Tensor, b: Tensor, a_zero: Tensor | None = None, b_zero: Tensor | None = None) -> Tensor:
        return (centred(a, by_row(a_zero)) @ centred(b, b_zero)).to(torch.int32)

    return run


@operator("ConvInteger")
def conv_integer(call: Call) -> Function:
    """Convolution of x - zero point with w - zero point in int32."""
    conv = delegate(call, "Conv", 11, (0, 1))

    def run(x: Tensor, w: Tensor, x_zero: Tensor | None = None, w_zero: Tensor | None = None) -> Tensor:
        found: Tensor = conv(centred(x, x_zero), centred(w, by_output(w_zero, w.dim())))
        return found.to(torch.int32)

    return run


def requantized(total: Tensor, factor: Tensor, scale: Tensor, zero_point: Tensor) -> Tensor:
    """Sums of products in steps of ``factor``, quantized to the zero point's type."""
    return quantize(total.to(factor.dtype) * factor, scale, zero_point, carried_grid(zero_point.dtype))


@operator("QLinearMatMul")
def qlinear_matmul(call: Call) -> Function:
    """Product of two quantized matrices, quantized."""

    def run(*given: Tensor) -> Tensor:
        a, a_scale, a_zero, b, b_scale, b_zero, y_scale, y_zero = given
        total = centred(a, by_row(a_zero)) @ centred(b, b_zero)
        column = by_row(a_scale)
        assert column is not None
        y_column, y_zero_column = by_row(y_scale), by_row(y_zero)
        assert y_column is not None
        assert y_zero_column is not None
        factor = column.to(torch.float32) * b_scale.to(torch.float32)
        return requantized(total, factor, y_column, y_zero_column)

    return run


@operator("QLinearConv")
def qlinear_conv(call: Call) -> Function:
    """Convolution of quantized tensors, quantized; the bias is in steps of the product of both scales."""
    conv = delegate(call, "Conv", 11, (0, 3, 8))

    def run(*given: Tensor) -> Tensor:
        x, x_scale, x_zero, w, w_scale, w_zero, y_scale, y_zero, *rest = given
        bias = rest[0].to(_EXACT) if rest and rest[0] is not None else None
        total: Tensor = conv(centred(x, x_zero), centred(w, by_output(w_zero, w.dim())), bias)
        factor = x_scale * w_scale
        # One scale per output channel lies on axis 1 of the result.
        factor = factor.reshape(-1, *(1,) * (x.dim() - 2)) if factor.dim() else factor
        return requantized(total, factor, y_scale, y_zero)

    return run
