"""Layers: nodes that multiply what they read by a constant weight, whichever operator does it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from hasten.core.data import Array
from hasten.graph.names import layer_name
from hasten.graph.reading import constant, given

OPERATORS = ("Conv", "ConvTranspose", "Gemm", "MatMul")
ARITHMETIC = frozenset({*OPERATORS, "LSTM", "GRU", "RNN", "Attention", "Einsum"})
"""Operators whose arithmetic outweighs the moving of what they read, with constant weights or without."""

_INTEGERS = frozenset({"QuantizeLinear", "DequantizeLinear", "DynamicQuantizeLinear"})
_LOOKED_THROUGH = frozenset({"Identity", "Transpose"})


@dataclass(frozen=True, eq=False)
class Layer:
    """A node that multiplies what it reads first by a weight, its second input.

    array: the weight as the operator reads it; axis: the axis of its output channels.
    """

    node: ir.Node
    array: Array
    axis: int

    @property
    def name(self) -> str:
        """What reports and ``exclude`` call the layer."""
        return layer_name(self.node)

    @property
    def activation(self) -> ir.Value:
        """What the layer multiplies by its weight."""
        value = self.node.inputs[0]
        assert value is not None
        return value

    @property
    def matrix(self) -> Array:
        """The weight as (outputs, inputs of an output)."""
        return np.moveaxis(self.array, self.axis, 0).reshape(self.array.shape[self.axis], -1)

    def as_weight(self, matrix: Array) -> Array:
        """The inverse of ``matrix``, for any number of outputs."""
        rest = np.delete(np.array(self.array.shape), self.axis)
        return np.moveaxis(matrix.reshape(-1, *rest), 0, self.axis).astype(self.array.dtype)


def output_axis(node: ir.Node) -> int:
    """The axis of a layer's weight along which its outputs lie."""
    if node.op_type == "Gemm":
        return 0 if node.attributes.get_int("transB", 0) else 1
    return 0 if node.op_type == "Conv" else 1


def stored(value: ir.Value | None) -> Array | None:
    """The array behind a value that is the same in every run: a constant, as it is or transposed."""
    array = constant(value)
    node = None if value is None else value.producer()
    if array is not None or node is None or node.domain or node.op_type not in _LOOKED_THROUGH:
        return array
    source = stored(given(node, 0))
    if source is None or node.op_type == "Identity":
        return source
    return np.transpose(source, node.attributes.get_ints("perm", None))


def is_quantized(node: ir.Node) -> bool:
    """Whether something that the node reads is rounded to integers, or comes from them."""
    producers = (None if value is None else value.producer() for value in node.inputs)
    return any(producer is not None and producer.op_type in _INTEGERS for producer in producers)
