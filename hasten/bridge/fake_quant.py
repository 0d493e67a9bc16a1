"""Quantization that learns: a QuantizeLinear and its DequantizeLinear as one differentiable step.

Integers carry no gradient, so a graph with a QuantizeLinear would not learn in front of it. Where only
DequantizeLinear nodes with the same scale and zero point read its result, the pair computes a float from a
float: the compiler then puts ``fake_quantize`` in the place of the first and nothing in that of the second
(``substitutes``).

Gradients, with v = x / scale, the levels low..high less the zero point, and r(v) the level taken:

    dy/dx     = 1 where low ≤ v ≤ high, else 0              (straight-through; Bengio et al. 2013)
    dy/dscale = r(v) - v where low ≤ v ≤ high, else r(v)    (LSQ; Esser et al. 2020, eq. 3)

that of the scale times 1 / sqrt(n · qmax), n elements to a scale and qmax the type's largest value (ibid.,
section 2.2).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import onnx_ir as ir
import torch
from torch import Tensor

from hasten.bridge.operator import Call, Factory, Function
from hasten.bridge.quantizer import Granularity, Grid, carried_grid, grid_of
from hasten.bridge.roles import constant_of

LEVELS = "hasten.bridge.levels"
"""The mark, in the ``meta`` of a QuantizeLinear, of the lowest and the highest integer it may give."""

_PER_TENSOR = Granularity()


def fake_quantize(
    x: Tensor,
    scale: Tensor,
    zero_point: Tensor | None,
    grid: Grid,
    granularity: Granularity = _PER_TENSOR,
) -> Tensor:
    """Quantize and dequantize: x on the grid, in the scale's dtype, with the gradients of the module's text.

    scale, zero_point: one number, one per index of the axis, or one per block, as ``granularity`` says.
    """
    shift = None if zero_point is None else granularity.spread(zero_point, x)
    low, high = (
        (grid.low, grid.high) if shift is None else (grid.low - shift.float(), grid.high - shift.float())
    )
    convert = None if grid.integral else grid.convert
    damping = 1 / math.sqrt(max(x.numel() / scale.numel(), 1) * grid.high)
    spread = granularity.spread(scale, x)
    found: Tensor = _FakeQuantize.apply(x.to(scale.dtype), spread, low, high, convert, damping)  # type: ignore[no-untyped-call]
    return found


class _FakeQuantize(torch.autograd.Function):
    """See ``fake_quantize``; the scale and the bounds broadcast to x."""

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        scale: Tensor,
        low: Tensor | float,
        high: Tensor | float,
        convert: Callable[[Tensor], Tensor] | None,
        damping: float,
    ) -> Tensor:
        """Return the value on the grid."""
        ctx.save_for_backward(x, scale, *(b for b in (low, high) if isinstance(b, Tensor)))
        ctx.bounds, ctx.convert, ctx.damping = (low, high), convert, damping
        return _level(x / scale, low, high, convert).to(scale.dtype) * scale

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        """Hand the gradients to x and the scale."""
        x, scale, *bounds = ctx.saved_tensors
        low, high = bounds or ctx.bounds
        gradient, v = gradients[0], x / scale
        inside = (v >= low) & (v <= high)
        to_scale = None
        if ctx.needs_input_grad[1]:
            step = _level(v, low, high, ctx.convert).to(v.dtype) - v * inside
            to_scale = (gradient * step).sum_to_size(scale.shape) * ctx.damping
        return gradient * inside, to_scale, None, None, None, None


def _level(
    v: Tensor, low: Tensor | float, high: Tensor | float, convert: Callable[[Tensor], Tensor] | None
) -> Tensor:
    """The level that v is rounded to, less the zero point."""
    if convert is not None:
        return convert(v).to(v.dtype)
    # Half precision does not hold every 16-bit level.
    wide = v if v.element_size() >= 4 else v.to(torch.float32)
    return torch.clamp(torch.round(wide), low, high)  # type: ignore[arg-type]  # both are of one kind


def substitutes(graph: ir.Graph) -> dict[ir.Node, Factory]:
    """For the nodes of every pair in a graph (not in its subgraphs), the factories that take their place."""
    found: dict[ir.Node, Factory] = {}
    for node in graph:
        if node.op_type != "QuantizeLinear" or _number(node, "precision"):
            continue
        quantized = node.outputs[0]
        uses = quantized.uses()
        if not uses or quantized.is_graph_output():
            continue
        if all(use.idx == 0 and _undoes(use.node, node, graph) for use in uses):
            found[node] = partial(_fake_quantize_linear, levels=node.meta.get(LEVELS))
            found.update({use.node: _pass for use in uses})
    return found


def _undoes(reader: ir.Node, node: ir.Node, graph: ir.Graph) -> bool:
    """Whether a node of this graph is the DequantizeLinear of a QuantizeLinear."""
    if reader.op_type != "DequantizeLinear" or reader.graph is not graph:
        return False
    target = _number(reader, "output_dtype")
    if target and (node.inputs[1] is None or node.inputs[1].dtype != target):
        return False
    same_layout = all(
        _number(reader, name, default) == _number(node, name, default)
        for name, default in (("axis", 1), ("block_size", 0))
    )
    return same_layout and all(_same(_input(reader, i), _input(node, i)) for i in (1, 2))


def _number(node: ir.Node, name: str, default: int = 0) -> int:
    attribute = node.attributes.get(name)
    return default if attribute is None else attribute.as_int()


def _input(node: ir.Node, index: int) -> ir.Value | None:
    return node.inputs[index] if index < len(node.inputs) else None


def _same(one: ir.Value | None, other: ir.Value | None) -> bool:
    """Whether two inputs are one value, or constants of the same numbers."""
    if one is other:
        return True
    values = [None if v is None else constant_of(v) for v in (one, other)]
    a, b = values
    return a is not None and b is not None and a.dtype == b.dtype and np.array_equal(a, b)


def _fake_quantize_linear(call: Call, levels: tuple[int, int] | None) -> Function:
    """QuantizeLinear, its result dequantized. levels: the lowest and the highest integer, or the type's."""
    granularity, known = Granularity.of(call), grid_of(call)

    def run(x: Tensor, scale: Tensor, zero_point: Tensor | None = None) -> Tensor:
        grid = known or carried_grid(zero_point.dtype if zero_point is not None else torch.uint8)
        if levels is not None:
            grid = replace(grid, low=levels[0], high=levels[1])
        # The small floats have no zero point other than zero.
        return fake_quantize(x, scale, zero_point if grid.integral else None, grid, granularity)

    return run


def _pass(call: Call) -> Function:
    """DequantizeLinear of what is no longer quantized."""
    return lambda x, *_: x
