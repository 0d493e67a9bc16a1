"""ONNX Runtime's own operators (com.microsoft) on quantized tensors."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional

from hasten.bridge.conversion import StraightThrough
from hasten.bridge.delegate import delegate
from hasten.bridge.operator import Call, Function, operator
from hasten.bridge.ops.contrib_fused import DOMAIN
from hasten.bridge.ops.integer_products import by_row, centred
from hasten.bridge.ops.quantization import range_of
from hasten.bridge.quantizer import carried_grid, dequantize, quantize


@operator("DynamicQuantizeMatMul", domain=DOMAIN)
def dynamic_quantize_matmul(call: Call) -> Function:
    """A, quantized by its own range, times a quantized B, plus bias, as floats.

    The rounding of A passes its gradient straight through; nothing is clipped.
    """

    def run(
        a: Tensor, b: Tensor, scale: Tensor, zero: Tensor | None = None, bias: Tensor | None = None
    ) -> Tensor:
        with torch.no_grad():
            step, shift = range_of(a)
            on_grid = ((torch.round(a / step) + shift).clamp(0, 255) - shift) * step
        value = StraightThrough.apply(a, on_grid) if a.requires_grad else on_grid  # type: ignore[no-untyped-call]
        product: Tensor = value @ dequantize(b, scale, zero, a.dtype)
        return product if bias is None else product + bias

    return run


@operator("MatMulIntegerToFloat", domain=DOMAIN)
def matmul_integer_to_float(call: Call) -> Function:
    """Product of two quantized matrices, plus bias, as floats."""

    def run(a: Tensor, b: Tensor, a_scale: Tensor, b_scale: Tensor, *rest: Tensor | None) -> Tensor:
        a_zero, b_zero, bias = (*rest, None, None, None)[:3]
        total = centred(a, by_row(a_zero)) @ centred(b, b_zero)
        found = total.to(a_scale.dtype) * (a_scale * b_scale)
        return found if bias is None else found + bias

    return run


def _pair(function: Callable[[Tensor, Tensor], Tensor]) -> Function:
    """An operator on two quantized tensors: (value, scale, zero point) twice, then the result's."""

    def run(*given: Tensor | None) -> Tensor:
        a, a_scale, a_zero, b, b_scale, b_zero, scale, zero = (*given, None)[:8]
        assert a is not None
        assert b is not None
        assert scale is not None
        found = function(_real(a, a_scale, a_zero), _real(b, b_scale, b_zero))
        return _quantized(found, scale, zero, a.dtype)

    return run


def _real(q: Tensor, scale: Tensor | None, zero: Tensor | None) -> Tensor:
    assert scale is not None
    return dequantize(q, scale.reshape(()), None if zero is None else zero.reshape(()), scale.dtype)


def _quantized(x: Tensor, scale: Tensor, zero: Tensor | None, dtype: torch.dtype) -> Tensor:
    grid = carried_grid(dtype if zero is None else zero.dtype)
    return quantize(x, scale.reshape(()), None if zero is None else zero.reshape(()), grid)


@operator("QLinearAdd", domain=DOMAIN)
def qlinear_add(call: Call) -> Function:
    """Sum of two quantized tensors, quantized."""
    return _pair(torch.add)


@operator("QLinearMul", domain=DOMAIN)
def qlinear_mul(call: Call) -> Function:
    """Product of two quantized tensors, element by element, quantized."""
    return _pair(torch.mul)


@operator("QLinearConcat", domain=DOMAIN)
def qlinear_concat(call: Call) -> Function:
    """Quantized tensors joined along an axis, in one new scale."""
    axis = call.integer("axis")

    def run(scale: Tensor, zero: Tensor, *given: Tensor) -> Tensor:
        parts = [_real(*given[i : i + 3]) for i in range(0, len(given), 3)]
        return _quantized(torch.cat(parts, axis), scale, zero, zero.dtype)

    return run


@operator(
    "QLinearSigmoid",
    "QLinearLeakyRelu",
    "QLinearSoftmax",
    "QLinearAveragePool",
    "QLinearGlobalAveragePool",
    domain=DOMAIN,
)
def through_floats(call: Call) -> Function:
    """A float operator on a quantized tensor (value, scale, zero point), its result quantized."""
    version = call.integer("opset") if call.op_type == "QLinearSoftmax" else 19
    function = delegate(call, call.op_type.removeprefix("QLinear"), version, (0,))
    channels_last = bool(call.integer("channels_last", 0))

    def run(
        x: Tensor, x_scale: Tensor, x_zero: Tensor | None, scale: Tensor, zero: Tensor | None = None
    ) -> Tensor:
        real = _real(x, x_scale, x_zero)
        found = function(real.movedim(-1, 1)).movedim(1, -1) if channels_last else function(real)
        return _quantized(found, scale, zero, x.dtype)

    return run


@operator("QGemm", domain=DOMAIN)
def qgemm(call: Call) -> Function:
    """Alpha · A' · B' + C of quantized matrices; C in steps of the product of all scales."""
    alpha = call.real("alpha", 1.0)
    turn_a, turn_b = bool(call.integer("transA", 0)), bool(call.integer("transB", 0))

    def run(*given: Tensor | None) -> Tensor:
        a, a_scale, a_zero, b, b_scale, b_zero, c, scale, zero = (*given, None, None, None)[:9]
        assert a is not None
        assert b is not None
        assert a_scale is not None
        assert b_scale is not None
        left = centred(a, a_zero)
        # One zero point per column of B', so it is turned first.
        right = centred(b.t() if turn_b else b, b_zero)
        total = (left.t() if turn_a else left) @ right
        total = total if c is None else total + c
        found = total.to(a_scale.dtype) * (alpha * a_scale * b_scale)
        return found if scale is None else _quantized(found, scale, zero, a.dtype)

    return run


@operator("MatMulNBits", domain=DOMAIN)
def matmul_n_bits(call: Call) -> Function:
    """A · Bᵀ + bias, with B (N, K) packed in 2, 4 or 8 bits and a scale per block of each row."""
    bits, block = call.integer("bits", 4), call.integer("block_size")
    rows, columns = call.integer("N"), call.integer("K")
    if bits not in (2, 4, 8) or call.integer("weight_prepacked", 0) or call.has(4):
        raise call.wrong("packs its weight in a way the bridge cannot read (bits, weight_prepacked or g_idx)")
    blocks = -(-columns // block)

    def run(a: Tensor, b: Tensor, scales: Tensor, zero: Tensor | None = None, *rest: Tensor | None) -> Tensor:
        bias = rest[1] if len(rest) > 1 else None
        levels = _unpacked(b, bits).reshape(rows, blocks, block)
        if zero is None:
            shift: Tensor | int = 1 << (bits - 1)
        else:
            known = _unpacked(zero.reshape(rows, -1), bits) if zero.dtype == torch.uint8 else zero
            shift = known.reshape(rows, -1)[:, :blocks].unsqueeze(-1).to(a.dtype)
        weight = (levels.to(a.dtype) - shift) * scales.reshape(rows, blocks, 1).to(a.dtype)
        return functional.linear(a, weight.reshape(rows, -1)[:, :columns], bias)

    return run


def _unpacked(packed: Tensor, bits: int) -> Tensor:
    """The numbers in bytes, lowest bits first, along the last axis."""
    if bits == 8:
        return packed
    places = torch.arange(0, 8, bits, dtype=torch.uint8, device=packed.device)
    return ((packed.unsqueeze(-1) >> places) & ((1 << bits) - 1)).flatten(-2)
