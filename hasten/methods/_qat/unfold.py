"""Integers become floats that learn: each stored weight behind its own quantize/dequantize pair.

A graph that ``quantize_static`` made holds a weight as integers q and multiplies them by their scale s. To
learn, it needs the float w that was rounded. w is the original's weight where q is its rounding (found by
name and shape, and checked), else s·(q - z), the middle of what rounds to q. An integer bias becomes the
float it stands for; its scale is that of the products it is added to, so it is rounded again at the end.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import ml_dtypes
import numpy as np
import onnx_ir as ir
import onnx_ir.passes.common as passes

from hasten.bridge.fake_quant import LEVELS
from hasten.bridge.roles import LEARNED
from hasten.core.data import Array
from hasten.graph import Graph
from hasten.graph.editor import Editor
from hasten.graph.reading import constant
from hasten.numerics.affine import Affine, Grid
from hasten.numerics.blocks import spread

SUFFIX = ".integers"
_GRIDS = {
    ir.DataType.INT8: Grid(8, signed=True),
    ir.DataType.UINT8: Grid(8, signed=False),
    ir.DataType.INT4: Grid(4, signed=True),
    ir.DataType.UINT4: Grid(4, signed=False),
}
_STORED = {
    ir.DataType.INT8: np.int8,
    ir.DataType.UINT8: np.uint8,
    ir.DataType.INT4: ml_dtypes.int4,
    ir.DataType.UINT4: ml_dtypes.uint4,
}
_SPARED = (-64, 63)
"""The integers of weights that leave a bit unused, since the CPU's integer sums would overflow otherwise."""
_DEEPEST = 8
"""Operators that only move values, between a layer and the pair that rounded what it reads."""
_MOVERS = frozenset(
    {"Flatten", "MaxPool", "Reshape", "Slice", "Squeeze", "Transpose", "Unsqueeze", "Gather", "Identity"}
)


@dataclass(frozen=True)
class Weight:
    """A weight stored as integers: names of its initializers, and of the floats that stand in for them.

    axis, block: along which scales differ, and how many numbers share one there (0: all of a slice). levels:
    the lowest and the highest integer that it may have.
    """

    integers: str
    scale: str
    zero_point: str | None
    axis: int
    block: int
    floats: str
    layers: tuple[str, ...]
    levels: tuple[int, int]

    def rounded(self, floats: Array, graph: Graph) -> Array:
        """The integers that floats become with a graph's scales, in the type that the graph stores."""
        kind = graph.weights[self.integers].dtype
        assert kind is not None
        scale, grid = array(graph, self.scale), _GRIDS[kind]
        zero = np.zeros(scale.shape) if self.zero_point is None else array(graph, self.zero_point)
        many = scale.size > 1
        quantizer = Affine(
            scale,
            zero.astype(grid.dtype),
            grid,
            axis=self.axis if many else None,
            group=self.block or None if many else None,
        )
        integers: Array = np.clip(quantizer.quantize(floats), *self.levels).astype(_STORED[kind])
        return integers

    def spread(self, numbers: Array, shape: tuple[int, ...]) -> Array:
        """Numbers that there are as many of as scales, in a form that broadcasts to the weight."""
        return _spread(numbers, shape, self.axis, self.block)


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

    quantized: Graph
    graph: Graph
    weights: tuple[Weight, ...]
    biases: tuple[Bias, ...]
    scales: tuple[str, ...]


def unfold(quantized: Graph, original: Graph | None, *, learn_scales: bool) -> Unfolded:
    """A graph of floats that computes what the quantized one does, at first exactly."""
    quantized = quantized.copy()
    # What a node holds has no name to put back what was learned by.
    passes.LiftConstantsToInitializersPass(lift_all_constants=True, size_limit=0)(quantized.ir_model)
    _join_scales(quantized)
    graph = quantized.copy()
    editor = Editor(graph)
    nodes = [n for n in editor.nodes("DequantizeLinear") if constant(n.inputs[0]) is not None]
    stored = [n for n in nodes if _stored_type(n) in _GRIDS]
    spares_a_bit = all(_within(constant(n.inputs[0]), 64) for n in stored)
    known: dict[str, str] = {}
    weights = [_weight(editor, n, original, known, spares_a_bit=spares_a_bit) for n in stored]
    found = [_bias(editor, n) for n in nodes if _stored_type(n) == ir.DataType.INT32]
    biases = [bias for bias in found if bias is not None]
    scales = list(_scales(editor)) if learn_scales else []
    if any(bias.activation is None for bias in biases):
        of_weights = {weight.scale for weight in weights}
        scales = [name for name in scales if name in of_weights]
    for name in scales:
        graph.weights[name].meta[LEARNED] = True
    return Unfolded(quantized, graph, tuple(weights), tuple(biases), tuple(scales))


def array(graph: Graph, name: str) -> Array:
    """What an initializer holds."""
    tensor = graph.weights[name].const_value
    assert tensor is not None
    return tensor.numpy()


def _join_scales(graph: Graph) -> None:
    """Let each pair of QuantizeLinear and DequantizeLinear read one scale: copies would part in learning."""
    for node in Editor(graph).nodes("QuantizeLinear"):
        for use in node.outputs[0].uses():
            given, wanted = use.node.inputs, node.inputs
            if use.node.op_type != "DequantizeLinear" or len(given) != len(wanted):
                continue
            for i, (ours, theirs) in enumerate(zip(given, wanted, strict=True)):
                a, b = constant(ours), constant(theirs)
                if i and ours is not theirs and a is not None and b is not None and np.array_equal(a, b):
                    use.node.replace_input_with(i, theirs)
    passes.RemoveUnusedNodesPass()(graph.ir_model)


def _within(integers: Array | None, bound: int) -> bool:
    return integers is not None and int(np.abs(integers.astype(np.int32)).max(initial=0)) <= bound


def _stored_type(node: ir.Node) -> ir.DataType | None:
    value = node.inputs[0]
    return None if value is None else value.dtype


def _weight(
    editor: Editor, node: ir.Node, original: Graph | None, known: dict[str, str], *, spares_a_bit: bool
) -> Weight:
    stored, scale = node.inputs[0], node.inputs[1]
    zero = node.inputs[2] if len(node.inputs) > 2 else None
    assert stored is not None
    assert scale is not None
    assert stored.dtype is not None
    grid = _GRIDS[stored.dtype]
    levels = _SPARED if spares_a_bit and grid.bits == 8 else (grid.low, grid.high)
    name = str(stored.name)
    if name not in known:
        middle = dequantized(node)
        floats = _before_rounding(original, name.removesuffix(SUFFIX), node, middle)
        value = editor.constant(middle if floats is None else floats, name.removesuffix(SUFFIX))
        value.meta[LEARNED] = True
        known[name] = str(value.name)
    value = editor.main.initializers[known[name]]
    of_scale = constant(scale)
    assert of_scale is not None
    # A QuantizeLinear without a zero point gives unsigned integers of 8 bits.
    kind = zero or editor.constant(np.zeros(of_scale.shape, _STORED[stored.dtype]), f"{name}.zero")
    axis, block = _layout(node)
    rounded = editor.insert(node, "QuantizeLinear", [value, scale, kind], {"axis": axis, **_blocks(block)})
    producer = rounded.producer()
    assert producer is not None
    producer.meta[LEVELS] = levels
    layers = tuple(str(use.node.name) for use in node.outputs[0].uses())
    node.replace_input_with(0, rounded)
    if zero is None:
        node.resize_inputs(3)
        node.replace_input_with(2, kind)
    return Weight(
        integers=name,
        scale=str(scale.name),
        zero_point=None if zero is None else str(zero.name),
        axis=axis,
        block=block,
        floats=known[name],
        layers=layers,
        levels=levels,
    )


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
    layout = _layout(node)
    shift = 0.0 if z is None else _spread(z.astype(np.float32), q.shape, *layout)
    return np.asarray((q.astype(np.float32) - shift) * _spread(s, q.shape, *layout), dtype=np.float32)


def _layout(node: ir.Node) -> tuple[int, int]:
    """The axis along which scales differ, and how many numbers share one there (0: all of a slice)."""
    return node.attributes.get_int("axis", 1), node.attributes.get_int("block_size", 0)


def _blocks(block: int) -> dict[str, int]:
    return {"block_size": block} if block else {}


def _spread(numbers: Array, shape: tuple[int, ...], axis: int, block: int) -> Array:
    """One number, one for each index along an axis, or for each block of it, in a form that broadcasts."""
    return numbers.reshape(()) if numbers.size == 1 else spread(numbers, shape, axis, block or None)


def _before_rounding(original: Graph | None, name: str, node: ir.Node, middle: Array) -> Array | None:
    """The original's weight of this name, where every one of its numbers rounds to the integer stored."""
    value = None if original is None else original.weights.get(name)
    array = constant(value)
    scale = constant(node.inputs[1])
    if array is None or scale is None or array.dtype != np.float32 or array.shape != middle.shape:
        return None
    half = 0.5 * _spread(scale, middle.shape, *_layout(node))
    inside = np.abs(array - middle) <= half * (1 + 1e-4)
    q = constant(node.inputs[0])
    assert q is not None
    # What was clipped to an end of the grid is farther off, and the same weight all the same.
    levels = q.astype(np.int32)
    ends = (levels == levels.min()) | (levels == levels.max())
    return array.copy() if bool(np.all(inside | ends)) and bool(inside.mean() > 0.9) else None
