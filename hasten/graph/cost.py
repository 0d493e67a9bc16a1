"""Cost of a graph, layer by layer: multiply-accumulates, parameters, bytes, and the dtype of the arithmetic.

A multiply-accumulate (MAC) is one product added to a sum. Only the operators that are made of them are
counted (convolutions, matrix products, recurrent layers, attention); biases, activations and pooling are
not, as in the publications the figures are compared with.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir
import onnx_ir.passes.common as passes

from hasten.core.data import Array
from hasten.core.errors import MethodError
from hasten.core.layers import LayerCost
from hasten.graph.graph import Graph, dtype_name
from hasten.graph.macs import COUNTERS, Shape, moved
from hasten.graph.names import layer_name
from hasten.graph.shapes import infer, observed_shapes

_INTEGER_OPS = frozenset(
    {
        "QLinearConv",
        "QLinearMatMul",
        "QGemm",
        "QAttention",
        "ConvInteger",
        "MatMulInteger",
        "MatMulIntegerToFloat",
        "DynamicQuantizeMatMul",
        "DynamicQuantizeLSTM",
    }
)
_STORAGE_OPS = frozenset(
    {"DequantizeLinear", "QuantizeLinear", "Cast", "Transpose", "Reshape", "Identity", "Unsqueeze", "Squeeze"}
)
"""What may stand between a stored weight and the layer that uses it."""


@dataclass(frozen=True)
class _Shapes:
    """Shapes by value: as observed in a run where they were, as inferred otherwise."""

    observed: Mapping[str, tuple[int, ...]]

    def of(self, value: ir.Value | None) -> Shape:
        """The shape, with 1 for every dimension that is not known; None when not even the rank is."""
        if value is None:
            return None
        if value.const_value is not None:
            return tuple(value.const_value.shape.numpy())
        seen = self.observed.get(value.name or "")
        if seen is not None:
            return seen
        if value.shape is None:
            return None
        return tuple(d if isinstance(d, int) else 1 for d in value.shape)


def layer_costs(
    graph: Graph, feeds: Mapping[str, Array] | None = None, *, threads: int = 1
) -> tuple[LayerCost, ...]:
    """Cost of every layer that has MACs or floating-point (or dequantized) parameters, in graph order.

    feeds: inputs of one inference, which fixes dynamic dimensions; without them each dynamic dimension
    counts as 1, and a layer whose operands' ranks are unknown as 0 MACs. Layers inside subgraphs count:
    of an If the costlier branch, of a Loop or Scan the body once. Weights shared by layers count at each.
    Raises MethodError when the graph does not run on the feeds, or its functions cannot be inlined.
    """
    flat = infer(_flattened(graph))
    shapes = _Shapes(observed_shapes(flat, feeds, threads=threads) if feeds is not None else {})
    return tuple(_costs(flat.ir_model.graph, shapes))


def _flattened(graph: Graph) -> Graph:
    """A copy with every call put in place of its function and every constant among the weights."""
    flat = graph.copy()
    try:
        passes.InlinePass()(flat.ir_model)
        passes.LiftConstantsToInitializersPass(lift_all_constants=True, size_limit=0)(flat.ir_model)
    except (ValueError, ir.passes.PassError) as error:
        raise MethodError(f"its functions cannot be inlined: {error}; export it without functions") from error
    return flat


def total_macs(graph: Graph, feeds: Mapping[str, Array] | None = None, *, threads: int = 1) -> int:
    """MACs of one inference; see ``layer_costs`` for what ``feeds`` are for."""
    return sum(layer.macs for layer in layer_costs(graph, feeds, threads=threads))


def nonzero_parameters(graph: Graph) -> int:
    """Elements of all stored tensors that are not zero, subgraphs included.

    A quantized weight is zero where it equals its zero point. Strings count as non-zero.
    """
    flat = graph.copy()
    passes.LiftConstantsToInitializersPass(size_limit=0)(flat.ir_model)
    return sum(
        _nonzero(value, value.const_value)
        for owner in flat.ir_model.graphs()
        for value in owner.initializers.values()
        if value.const_value is not None
    )


def _costs(graph: ir.Graph, shapes: _Shapes) -> Iterator[LayerCost]:
    for node in graph:
        bodies = [list(_costs(body, shapes)) for body in _bodies(node)]
        if bodies:
            taken = [max(bodies, key=_macs)] if node.op_type == "If" else bodies
            yield from (layer for body in taken for layer in body)
            continue
        if node.op_type in _STORAGE_OPS or node.op_type == "Constant":
            continue
        counter = COUNTERS.get(node.op_type)
        macs = counter(node, shapes.of) if counter else 0
        weights = _weights(node)
        parameters = sum(tensor.size for tensor in weights)
        if macs or parameters > 1:
            yield LayerCost(
                name=layer_name(node),
                op_type=node.op_type,
                macs=macs,
                moved=moved(node, shapes.of),
                parameters=parameters,
                weight_bytes=sum(tensor.nbytes for tensor in weights),
                dtype=_compute_dtype(node),
                output_shape=_text(shapes.of(node.outputs[0])),
            )


def _macs(layers: list[LayerCost]) -> int:
    return sum(layer.macs for layer in layers)


def _bodies(node: ir.Node) -> Iterator[ir.Graph]:
    for attribute in node.attributes.values():
        if attribute.type == ir.AttributeType.GRAPH:
            yield attribute.as_graph()
        elif attribute.type == ir.AttributeType.GRAPHS:
            yield from attribute.as_graphs()


def _weights(node: ir.Node) -> list[ir.TensorProtocol]:
    """Stored tensors the node computes with: floats, and whatever is dequantized or integer arithmetic.

    Scales and zero points describe a weight and are not parameters.
    """
    found: dict[str, ir.TensorProtocol] = {}
    integer = node.op_type in _INTEGER_OPS or node.op_type == "MatMulNBits"
    for index, value in enumerate(node.inputs):
        if integer and index not in _WEIGHT_INPUTS.get(node.op_type, (1,)):
            continue
        stored, dequantized = _stored(value)
        if stored is None or stored.const_value is None:
            continue
        if integer or dequantized or stored.const_value.dtype.is_floating_point():
            found[str(stored.name)] = stored.const_value
    return list(found.values())


_WEIGHT_INPUTS = {
    "QLinearConv": (3, 8),
    "QLinearMatMul": (3,),
    "QGemm": (3, 6),
    "DynamicQuantizeLSTM": (1, 2, 3),
    "DynamicQuantizeMatMul": (1, 4),
    "MatMulIntegerToFloat": (1, 6),
    "QAttention": (1, 2),
    "MatMulNBits": (1, 5),
}
"""Inputs that hold weights or biases; elsewhere, and for the operators not listed, the second."""


def _stored(value: ir.Value | None) -> tuple[ir.Value | None, bool]:
    """The initializer a value is made from by storage operators alone, and whether it is dequantized."""
    dequantized = False
    while value is not None and value.const_value is None:
        node = value.producer()
        if node is None or node.op_type not in _STORAGE_OPS:
            return None, False
        dequantized = dequantized or node.op_type == "DequantizeLinear"
        value = node.inputs[0] if node.inputs else None
    return value, dequantized


def _compute_dtype(node: ir.Node) -> str:
    if node.op_type in _INTEGER_OPS:
        return "int8"
    operands = [v for v in node.inputs[:2] if v is not None]
    if len(operands) == 2 and node.op_type in COUNTERS:
        dequantized = [_dequantized_from(value) for value in operands]
        if None not in dequantized:
            bits = max(d.bitwidth for d in dequantized if d is not None)
            return f"int{max(bits, 8)}"
    for value in (*node.outputs, *operands):
        dtype = value.dtype
        if dtype is not None and dtype.is_floating_point():
            return dtype_name(dtype)
    return dtype_name(node.outputs[0].dtype or ir.DataType.UNDEFINED)


def _dequantized_from(value: ir.Value) -> ir.DataType | None:
    """The integer type behind a DequantizeLinear, looking through operators that only move data."""
    node = value.producer()
    while node is not None and node.op_type in _STORAGE_OPS - {"DequantizeLinear", "QuantizeLinear", "Cast"}:
        source = node.inputs[0] if node.inputs else None
        node = source.producer() if source is not None else None
    if node is None or node.op_type != "DequantizeLinear" or node.inputs[0] is None:
        return None
    return node.inputs[0].dtype or ir.DataType.INT8


def _text(shape: Shape) -> str:
    return "?" if shape is None else "x".join(map(str, shape))


def _nonzero(value: ir.Value, tensor: ir.TensorProtocol) -> int:
    if tensor.dtype.is_string():
        return tensor.size
    array = tensor.numpy()
    for use in value.uses():
        if use.node.op_type == "DequantizeLinear" and use.idx == 0 and len(use.node.inputs) > 2:
            point = use.node.inputs[2]
            if point is not None and point.const_value is not None:
                zero = point.const_value.numpy()
                if zero.ndim == 1 and zero.size > 1:
                    axis = use.node.attributes.get_int("axis", 1)
                    zero = zero.reshape([-1 if i == axis % array.ndim else 1 for i in range(array.ndim)])
                return int(np.count_nonzero(array != zero))
    return int(np.count_nonzero(array))
