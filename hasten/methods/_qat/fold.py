"""Back to integers: what was learned is rounded into the graph it came from."""

from __future__ import annotations

import ml_dtypes
import numpy as np
import onnx_ir as ir

from hasten.core.data import Array
from hasten.graph import Graph
from hasten.methods._qat.unfold import Unfolded
from hasten.numerics.affine import Affine, Grid

_NARROW = {ir.DataType.INT4: ml_dtypes.int4, ir.DataType.UINT4: ml_dtypes.uint4}
_GRIDS = {
    ir.DataType.INT8: Grid(8, signed=True),
    ir.DataType.UINT8: Grid(8, signed=False),
    ir.DataType.INT4: Grid(4, signed=True),
    ir.DataType.UINT4: Grid(4, signed=False),
}
_SMALLEST_SHARE = 1e-3
"""Of what it was, the least a learned scale may become: it must stay positive."""


def fold(quantized: Graph, unfolded: Unfolded, trained: Graph) -> Graph:
    """The quantized graph with the weights, scales and biases that were learned."""
    changed = quantized.copy()
    stand_ins = {w.floats for w in unfolded.weights} | {b.floats for b in unfolded.biases}
    for name, value in trained.weights.items():
        if name in changed.weights and name not in stand_ins and name not in unfolded.scales:
            changed.weights[name].const_value = value.const_value
    for name in unfolded.scales:
        before, learned = _array(quantized, name), _array(trained, name)
        _put(changed, name, np.maximum(learned, _SMALLEST_SHARE * before).astype(np.float32))
    spares_a_bit = all(_within(quantized, weight.integers, 64) for weight in unfolded.weights)
    for weight in unfolded.weights:
        dtype = changed.weights[weight.integers].dtype
        assert dtype is not None
        scale = _array(changed, weight.scale)
        zero = np.zeros(scale.shape, np.int8)
        if weight.zero_point is not None:
            zero = _array(changed, weight.zero_point).astype(_GRIDS[dtype].dtype)
        quantizer = Affine(scale, zero, _GRIDS[dtype], weight.axis if scale.size > 1 else None)
        # Weights that leave a bit unused do so because the CPU's integer sums would overflow otherwise.
        low, high = (-64, 63) if spares_a_bit else (quantizer.grid.low, quantizer.grid.high)
        integers = np.clip(quantizer.quantize(_array(trained, weight.floats)), low, high)
        _put(changed, weight.integers, integers.astype(_NARROW.get(dtype, integers.dtype)))
    for bias in unfolded.biases:
        ratio = (
            _array(quantized, bias.scale) / _array(quantized, bias.weight)
            if bias.activation is None
            else _array(changed, bias.activation)
        )
        scale = (_array(changed, bias.weight) * ratio).astype(np.float32)
        integers = np.rint(_array(trained, bias.floats).astype(np.float64) / scale.astype(np.float64))
        limit = np.iinfo(np.int32)
        _put(changed, bias.scale, scale)
        _put(changed, bias.integers, np.clip(integers, limit.min, limit.max).astype(np.int32))
    return changed


def _array(graph: Graph, name: str) -> Array:
    tensor = graph.weights[name].const_value
    assert tensor is not None
    return tensor.numpy()


def _within(graph: Graph, name: str, bound: int) -> bool:
    return int(np.abs(_array(graph, name).astype(np.int32)).max(initial=0)) <= bound


def _put(graph: Graph, name: str, array: Array) -> None:
    graph.weights[name].const_value = ir.tensor(array, name=name)
