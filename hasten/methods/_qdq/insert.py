"""Writing the plan into a graph: quantize/dequantize pairs, integer weights and integer biases.

Weights are stored as int8 and biases as int32, each behind a DequantizeLinear, which runtimes fold into
their integer kernels. The scale of a bias is that of the products it is added to (Jacob et al. 2018,
section 2.4), so adding it needs no arithmetic but the addition.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import ml_dtypes
import numpy as np
import onnx_ir as ir

from hasten.core.data import Array
from hasten.graph.editor import Editor
from hasten.graph.layer import stored
from hasten.graph.names import layer_name
from hasten.methods._observe.moments import as_rows, as_weight, moments_of
from hasten.methods._qdq.layers import IntegerLayer
from hasten.methods._qdq.placement import Plan
from hasten.numerics.affine import Affine, Grid, slice_bounds, symmetric
from hasten.numerics.ranges import least_squares_bounds
from hasten.numerics.rounding import Moments, bias_shift, round_columns

_FEW_BITS = 4
_BIASED = frozenset({"Conv", "Gemm"})
"""Operators that take a bias as their third input."""
_LARGEST_BIAS = 2**30
"""Half of what int32 holds, so that the sum with the products cannot overflow either."""


def insert(editor: Editor, plan: Plan, quantizers: Mapping[ir.Value, Affine], weights: WeightWriter) -> None:
    """Write the plan. quantizers: that of each group's representative."""
    of_point = {value: quantizers[plan.group(value)] for value in plan.points}
    for layer in plan.layers:
        weights.write(layer, of_point[layer.activation])
    of_group: dict[ir.Value, tuple[ir.Value, ir.Value]] = {}
    for value, quantizer in of_point.items():
        if value in plan.moved:
            continue
        group = plan.group(value)
        if group not in of_group:
            of_group[group] = _constants(editor, quantizer.scale, quantizer.zero_point, str(value.name))
        _round(editor, plan, value, of_group[group])


def _constants(editor: Editor, scale: Array, zero_point: Array, name: str) -> tuple[ir.Value, ir.Value]:
    return editor.constant(scale, f"{name}.scale"), editor.constant(zero_point, f"{name}.zero_point")


def _round(editor: Editor, plan: Plan, value: ir.Value, constants: tuple[ir.Value, ir.Value]) -> None:
    """Put a quantize/dequantize pair behind a value and let its readers read the result."""
    producer = value.producer()
    everyone = value in plan.everyone
    uses = [use for use in value.uses() if everyone or use.node in plan.integer]
    implied = producer is not None and producer in plan.implied
    source = producer.inputs[0] if producer is not None and implied else value
    quantize = ir.node("QuantizeLinear", [source, *constants], name=editor.unique(f"{value.name}.quantize"))
    integers = quantize.outputs[0]
    integers.name = editor.unique(f"{value.name}.integers")
    dequantize = ir.node(
        "DequantizeLinear", [integers, *constants], name=editor.unique(f"{value.name}.dequantize")
    )
    rounded = dequantize.outputs[0]
    rounded.name = editor.unique(f"{value.name}.rounded")
    rounded.type, rounded.shape = value.type, value.shape
    if producer is None:
        editor.main.insert_before(next(iter(editor.main)), [quantize, dequantize])
    else:
        editor.main.insert_after(producer, [quantize, dequantize])
    for use in uses:
        use.node.replace_input_with(use.idx, rounded)
    if everyone and value.is_graph_output():
        name, value.name = value.name, editor.unique(f"{value.name}.float")
        rounded.name = name
        outputs = editor.main.outputs
        outputs[list(outputs).index(value)] = rounded
    if producer is not None and implied:
        editor.remove(producer)


def erased_channels(layer: IntegerLayer, grid: Grid) -> int:
    """How many output channels one scale for all of them would round to zero."""
    bounds = slice_bounds(layer.array, layer.axis)
    return int(np.sum((bounds > 0) & (bounds < 0.5 * bounds.max() / grid.high)))


class WeightWriter:
    """Writes layers' weights and biases as integers; a weight that layers share is stored once.

    grid: the integers that a layer's weights become. moments: of what layers read, by name; the weights of
    these are rounded for the least error of outputs.
    """

    def __init__(
        self,
        editor: Editor,
        grid: Callable[[IntegerLayer], Grid],
        *,
        per_channel: bool,
        moments: Mapping[str, Moments],
    ) -> None:
        self._editor = editor
        self._grid = grid
        self._per_channel = per_channel
        self._moments = moments
        self._made: dict[tuple[str | None, int | None, bytes], ir.Value] = {}

    def write(self, layer: IntegerLayer, activation: Affine) -> None:
        """Replace the layer's weight and bias by integers, for activations quantized like this."""
        node = layer.node
        axis = layer.axis if self._per_channel else None
        moments = moments_of(self._moments, layer)
        # Few levels are better spent on the many small weights than on the one largest.
        grid = self._grid(layer)
        few = grid.bits <= _FEW_BITS
        bounds = least_squares_bounds(layer.array, grid, axis) if few else slice_bounds(layer.array, axis)
        bias = self._bias(layer, moments)
        if bias is not None:
            # A channel of tiny weights gets a larger scale if its bias would not fit into int32 otherwise.
            needed = np.abs(bias) * (grid.high / (_LARGEST_BIAS * float(activation.scale)))
            bounds = np.maximum(bounds, (needed if axis is not None else needed.max()).astype(np.float32))
        quantizer = symmetric(bounds, grid, axis)
        weight = node.inputs[1]
        assert weight is not None
        key = (weight.name, axis, quantizer.scale.tobytes())
        if key not in self._made:
            integers = self._integers(layer, quantizer, moments)
            if bias is not None and moments is not None:
                lost = as_rows(layer, layer.array - quantizer.dequantize(integers))
                bias = bias + bias_shift(lost, moments).reshape(-1)
            if few:
                integers = integers.astype(ml_dtypes.int4)
            self._made[key] = self._stored(node, integers, quantizer.scale, axis, str(weight.name))
        node.replace_input_with(1, self._made[key])
        if bias is not None:
            self._write_bias(node, bias, quantizer.scale * np.float32(activation.scale))

    def _integers(self, layer: IntegerLayer, quantizer: Affine, moments: Moments | None) -> Array:
        if moments is None:
            return quantizer.quantize(layer.array)
        rows = as_rows(layer, layer.array)
        scale = np.broadcast_to(quantizer.scale.reshape(-1), rows.shape[0] * rows.shape[1])
        found = round_columns(
            rows, scale.reshape(rows.shape[:2]), quantizer.grid.low, quantizer.grid.high, moments
        )
        return as_weight(layer, found).astype(quantizer.grid.dtype)

    def _bias(self, layer: IntegerLayer, moments: Moments | None) -> Array | None:
        """The layer's bias; of zeros where it has none and its mean output is to be put right."""
        if not layer.has_bias and moments is not None and layer.node.op_type in _BIASED:
            return np.zeros(layer.array.shape[layer.axis])
        if not layer.has_bias:
            return None
        array = stored(layer.node.inputs[2])
        assert array is not None
        return np.asarray(array, dtype=np.float64).reshape(-1)

    def _write_bias(self, node: ir.Node, bias: Array, scale: Array) -> None:
        integers = np.rint(bias / scale.astype(np.float64)).astype(np.int32)
        value = node.inputs[2] if len(node.inputs) > 2 else None
        name = str(value.name) if value is not None else f"{layer_name(node)}.bias"
        axis = 0 if np.ndim(scale) else None
        if len(node.inputs) < 3:
            node.resize_inputs(3)
        node.replace_input_with(2, self._stored(node, integers, np.asarray(scale), axis, name))

    def _stored(
        self, before: ir.Node, integers: Array, scale: Array, axis: int | None, name: str
    ) -> ir.Value:
        constants = _constants(self._editor, scale, np.zeros(scale.shape, dtype=integers.dtype), name)
        inputs = [self._editor.constant(integers, f"{name}.integers"), *constants]
        attributes = {} if axis is None else {"axis": axis}
        return self._editor.insert(before, "DequantizeLinear", inputs, attributes, name=f"{name}.dequantize")
