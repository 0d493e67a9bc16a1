"""Integers become floats that learn: each stored weight behind its own quantize/dequantize pair.

A graph that ``quantize_static`` made holds a weight as integers q and multiplies them by their scale s. To
learn, it needs the float w that was rounded. w is the original's weight where q is its rounding (found by
name and shape, and checked), else s·(q - z), the middle of what rounds to q. An integer bias becomes the
float it stands for; its scale is that of the products it is added to, so it is rounded again at the end.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from hasten.bridge.roles import LEARNED
from hasten.core.data import Array
from hasten.graph import Graph
from hasten.graph.editor import Editor
from hasten.graph.reading import constant

SUFFIX = ".integers"
_WEIGHT_TYPES = frozenset({ir.DataType.INT8, ir.DataType.UINT8, ir.DataType.INT4, ir.DataType.UINT4})
_DEEPEST = 8
"""Operators that only move values, between a layer and the pair that rounded what it reads."""
_MOVERS = frozenset(
    {"Flatten", "MaxPool", "Reshape", "Slice", "Squeeze", "Transpose", "Unsqueeze", "Gather", "Identity"}
)


@dataclass(frozen=True)
class Weight:
    """A weight stored as integers: names of its initializers, and of the floats that stand in for them."""

    integers: str
    scale: str
    zero_point: str | None
    axis: int
    floats: str
    layers: tuple[str, ...]


@dataclass(frozen=True)
class Bias:
    """A bias stored as int32. weight, activation: initializers whose product is its scale.

    activation is None where the pair that rounded the layer's input was not found; its scale then keeps its
    ratio to the weight's, and no scale of an activation is learned.
    """

    integers: str
    scale: str
    weight: str
    activation: str | None
    floats: str


@dataclass(frozen=True)
class Unfolded:
    """The graph that learns, and what of it goes back where."""

    graph: Graph
    weights: tuple[Weight, ...]
    biases: tuple[Bias, ...]
    scales: tuple[str, ...]


def unfold(quantized: Graph, original: Graph | None, *, learn_scales: bool) -> Unfolded:
    """A graph of floats that computes what the quantized one does, at first exactly."""
    graph = quantized.copy()
    editor = Editor(graph)
    nodes = [n for n in editor.nodes("DequantizeLinear") if constant(n.inputs[0]) is not None]
    known: dict[str, str] = {}
    weights = [_weight(editor, n, original, known) for n in nodes if _stored_type(n) in _WEIGHT_TYPES]
    found = [_bias(editor, n) for n in nodes if _stored_type(n) == ir.DataType.INT32]
    biases = [bias for bias in found if bias is not None]
    scales = list(_scales(editor)) if learn_scales else []
    if any(bias.activation is None for bias in biases):
        of_weights = {weight.scale for weight in weights}
        scales = [name for name in scales if name in of_weights]
    for name in scales:
        graph.weights[name].meta[LEARNED] = True
    return Unfolded(graph, tuple(weights), tuple(biases), tuple(scales))


def _stored_type(node: ir.Node) -> ir.DataType | None:
    value = node.inputs[0]
    return None if value is None else value.dtype


def _weight(editor: Editor, node: ir.Node, original: Graph | None, known: dict[str, str]) -> Weight:
    stored, scale = node.inputs[0], node.inputs[1]
    zero = node.inputs[2] if len(node.inputs) > 2 else None
    assert stored is not None
    assert scale is not None
    axis = node.attributes.get_int("axis", 1)
    name = str(stored.name)
    if name not in known:
        middle = dequantized(node)
        floats = _before_rounding(original, name.removesuffix(SUFFIX), node, middle)
        value = editor.constant(middle if floats is None else floats, name.removesuffix(SUFFIX))
        value.meta[LEARNED] = True
        known[name] = str(value.name)
    value = editor.main.initializers[known[name]]
    inputs = [value, scale, *([zero] if zero is not None else [])]
    attributes = {
        key: node.attributes.get_int(key) for key in ("axis", "block_size") if key in node.attributes
    }
    rounded = editor.insert(node, "QuantizeLinear", inputs, attributes)
    layers = tuple(str(use.node.name) for use in node.outputs[0].uses())
    node.replace_input_with(0, rounded)
    return Weight(name, str(scale.name), None if zero is None else str(zero.name), axis, known[name], layers)


def _bias(editor: Editor, node: ir.Node) -> Bias | None:
    stored, scale = node.inputs[0], node.inputs[1]
    assert stored is not None
    assert scale is not None
    user = next((use.node for use in node.outputs[0].uses() if use.idx == 2), None)
    producer = user.inputs[1].producer() if user is not None and user.inputs[1] is not None else None
    if user is None or producer is None or producer.op_type != "DequantizeLinear":
        return None
    weight_scale = producer.inputs[1]
    assert weight_scale is not None
    value = editor.constant(dequantized(node), str(stored.name).removesuffix(SUFFIX))
    value.meta[LEARNED] = True
    node.outputs[0].replace_all_uses_with(value)
    return Bias(
        integers=str(stored.name),
        scale=str(scale.name),
        weight=str(weight_scale.name),
        activation=_scale_of_input(user, constant(scale), constant(weight_scale)),
        floats=str(value.name),
    )


def _scale_of_input(layer: ir.Node, bias: Array | None, weight: Array | None) -> str | None:
    """The scale that what the layer reads was rounded with: the one that explains the bias's scale."""
    value = layer.inputs[0]
    for _ in range(_DEEPEST):
        producer = value.producer() if value is not None else None
        if producer is None or bias is None or weight is None:
            return None
        if producer.op_type == "DequantizeLinear":
            scale = producer.inputs[1]
            number = constant(scale)
            if (
                scale is not None
                and number is not None
                and np.allclose(weight * number, bias, rtol=1e-5, atol=0)
            ):
                return str(scale.name)
            return None
        if producer.op_type not in _MOVERS:
            return None
        value = producer.inputs[0]
    return None


def _scales(editor: Editor) -> Iterator[str]:
    """The scales that floats are rounded with; those of 4 bytes, which torch computes in as they are."""
    seen: set[str] = set()
    for node in editor.nodes("QuantizeLinear"):
        scale = node.inputs[1]
        array = constant(scale)
        if scale is not None and array is not None and array.dtype == np.float32 and scale.name not in seen:
            seen.add(str(scale.name))
            yield str(scale.name)


def dequantized(node: ir.Node) -> Array:
    """s·(q - z) of a DequantizeLinear whose inputs are constants (ONNX operator specification)."""
    q, s = constant(node.inputs[0]), constant(node.inputs[1])
    z = constant(node.inputs[2]) if len(node.inputs) > 2 else None
    assert q is not None
    assert s is not None
    axis = node.attributes.get_int("axis", 1)
    shift = 0.0 if z is None else _along(z.astype(np.float32), axis, q.ndim)
    return np.asarray((q.astype(np.float32) - shift) * _along(s, axis, q.ndim), dtype=np.float32)


def _along(numbers: Array, axis: int, ndim: int) -> Array:
    """One number, or one for each index along an axis, in a shape that broadcasts."""
    if numbers.size == 1:
        return numbers.reshape(())
    return numbers.reshape([-1 if i == axis % ndim else 1 for i in range(ndim)])


def _before_rounding(original: Graph | None, name: str, node: ir.Node, middle: Array) -> Array | None:
    """The original's weight of this name, where every one of its numbers rounds to the integer stored."""
    value = None if original is None else original.weights.get(name)
    array = constant(value)
    scale = constant(node.inputs[1])
    if array is None or scale is None or array.dtype != np.float32 or array.shape != middle.shape:
        return None
    axis = node.attributes.get_int("axis", 1)
    half = 0.5 * scale.reshape(
        [-1 if i == axis % middle.ndim else 1 for i in range(middle.ndim)] if scale.size > 1 else ()
    )
    inside = np.abs(array - middle) <= half * (1 + 1e-4)
    q = constant(node.inputs[0])
    assert q is not None
    # What was clipped to an end of the grid is farther off, and the same weight all the same.
    levels = q.astype(np.int32)
    ends = (levels == levels.min()) | (levels == levels.max())
    return array.copy() if bool(np.all(inside | ends)) and bool(inside.mean() > 0.9) else None
