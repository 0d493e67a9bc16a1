"""How each kind of layer is written with integers: products, recurrent layers, embeddings."""

from __future__ import annotations

from typing import TypeAlias

import numpy as np
import onnx_ir as ir

from hasten.core.data import Array
from hasten.graph.editor import Editor
from hasten.graph.names import layer_name
from hasten.graph.reading import constant, given
from hasten.methods._dynamic.product import Product, Unfit
from hasten.methods._dynamic.weights import WeightStore

Quantized: TypeAlias = tuple[ir.Value, ir.Value, ir.Value]

RUNTIME_DOMAIN = "com.microsoft"
_FLOAT = int(ir.DataType.FLOAT)


class Activations:
    """Activations quantized at run time, each once however many layers read it."""

    def __init__(self, editor: Editor) -> None:
        self._editor = editor
        self._made: dict[tuple[int, ir.Value], Quantized] = {}

    def quantize(self, before: ir.Node, value: ir.Value) -> Quantized:
        """The uint8 values, their scale and their zero point, for ``before`` and later nodes of its graph."""
        key = (id(before.graph), value)
        if key not in self._made:
            label = self._editor.unique(f"{value.name}.DynamicQuantizeLinear")
            node = ir.node("DynamicQuantizeLinear", [value], num_outputs=3, name=label)
            for output, what in zip(node.outputs, ("uint8", "scale", "zero_point"), strict=True):
                output.name = self._editor.unique(f"{value.name}.{what}")
            assert before.graph is not None
            before.graph.insert_before(before, node)
            self._made[key] = (node.outputs[0], node.outputs[1], node.outputs[2])
        return self._made[key]


def write_product(
    editor: Editor, node: ir.Node, product: Product, store: WeightStore, activations: Activations | None
) -> None:
    """Replace a MatMul or Gemm.

    With ``activations`` by what ONNX Runtime fuses into one integer kernel with the bias:
    MatMulInteger(x_q, W_q, x_z) → Cast → · (s_x · s_W) → + bias. Without, by a float product with
    DequantizeLinear(W_q), which OpenVINO quantizes by itself.
    """
    name = layer_name(node)
    x = product.x
    if product.before is not None:
        x = editor.insert(node, "Transpose", [x], {"perm": product.before})
    if activations is None:
        weight = store.dequantized(node, product.weight, 1, product.name, product.variant)
        y = editor.insert(node, "MatMul", [x, weight])
        core = y.producer()
    else:
        weight, weight_scale = store.quantized(product.weight, 1, product.name, product.variant)
        x_q, x_scale, x_zero = activations.quantize(node, x)
        total = editor.insert(node, "MatMulInteger", [x_q, weight, x_zero])
        core = total.producer()
        real = editor.insert(node, "Cast", [total], {"to": _FLOAT})
        scale = editor.insert(node, "Mul", [x_scale, weight_scale], name=f"{name}.scale")
        y = editor.insert(node, "Mul", [real, scale])
    y = _add_bias(editor, node, product, y)
    if product.after is not None:
        y = editor.insert(node, "Transpose", [y], {"perm": product.after}, name=f"{name}.back")
    _take_place(editor, node, y)
    assert core is not None
    core.name = name


def _add_bias(editor: Editor, node: ir.Node, product: Product, y: ir.Value) -> ir.Value:
    bias = product.bias
    if bias is None:
        return y
    if not isinstance(bias, ir.Value):
        bias = editor.constant(np.ascontiguousarray(bias), f"{layer_name(node)}.bias")
    elif product.bias_factor != 1.0:
        factor = editor.constant(np.asarray(product.bias_factor, dtype=np.float32), "beta")
        bias = editor.insert(node, "Mul", [bias, factor], name=f"{layer_name(node)}.beta")
    return editor.insert(node, "Add", [y, bias])


def read_recurrent(node: ir.Node) -> tuple[Array, Array]:
    """The weights W [directions, gates·H, I] and R [directions, gates·H, H]; raises Unfit."""
    made = []
    for index, what in ((1, "input"), (2, "recurrence")):
        array = constant(given(node, index))
        if array is None:
            raise Unfit(f"its {what} weight is computed at run time")
        if array.dtype != np.float32:
            raise Unfit(f"its {what} weight is {array.dtype.name}, not float32")
        if not np.isfinite(array).all():
            raise Unfit(f"its {what} weight holds values that are not finite")
        made.append(array)
    return made[0], made[1]


def write_lstm(editor: Editor, node: ir.Node, weights: tuple[Array, Array], store: WeightStore) -> None:
    """Turn an LSTM into com.microsoft.DynamicQuantizeLSTM, whose weights are transposed and per channel.

    Raises Unfit for the batch-first layout, which that operator does not have.
    """
    if node.attributes.get_int("layout", 0):
        raise Unfit("its batch axis comes first, which the quantized LSTM does not read")
    values = []
    for index, array in zip((1, 2), weights, strict=True):
        source = node.inputs[index]
        assert source is not None
        values.append(_lstm_weight(editor, array, str(source.name), store))
    node.resize_inputs(12)
    for index, (integers, scale, zero) in zip((1, 2), values, strict=True):
        node.replace_input_with(index, integers)
        node.replace_input_with(6 + 2 * index, scale)
        node.replace_input_with(7 + 2 * index, zero)
    node.attributes.pop("layout", None)
    node.domain, node.op_type = RUNTIME_DOMAIN, "DynamicQuantizeLSTM"
    editor.graph.ir_model.opset_imports.setdefault(RUNTIME_DOMAIN, 1)


def _lstm_weight(editor: Editor, array: Array, name: str, store: WeightStore) -> Quantized:
    """Integers [directions, I, 4H], scales and zero points [directions, 4H] or, per tensor, [directions]."""
    directions, gates, width = array.shape
    quantizer = store.quantizer(array.reshape(-1, width), 0)
    integers = quantizer.quantize(array.reshape(-1, width)).reshape(array.shape).transpose(0, 2, 1)
    shape = (directions, gates) if quantizer.axis is not None else (directions,)
    scale = np.broadcast_to(quantizer.scale.reshape(-1), (directions * gates,))
    scale = scale.reshape(shape) if len(shape) == 2 else scale[:directions]
    return (
        editor.constant(np.ascontiguousarray(integers), f"{name}.int8"),
        editor.constant(np.ascontiguousarray(scale), f"{name}.scale"),
        editor.constant(np.zeros(shape, dtype=np.int8), f"{name}.zero_point"),
    )


def write_stored(editor: Editor, node: ir.Node, weights: tuple[Array, Array], store: WeightStore) -> None:
    """Store the weights of a recurrent layer as int8; it computes in float as before."""
    for index, array in zip((1, 2), weights, strict=True):
        source = node.inputs[index]
        assert source is not None
        name = str(source.name)
        node.replace_input_with(index, store.dequantized(node, array, 1, name, "recurrent"))


def is_lookup(node: ir.Node) -> bool:
    """Whether a Gather looks up rows of a stored matrix of real numbers."""
    table = constant(node.inputs[0])
    by_rows = node.attributes.get_int("axis", 0) in {0, -2}
    return table is not None and table.ndim == 2 and table.dtype.kind == "f" and by_rows


def read_embedding(node: ir.Node) -> Array:
    """The table [rows, width]; raises Unfit."""
    table = constant(node.inputs[0])
    if table is None or table.dtype != np.float32:
        raise Unfit("its table is not float32")
    if not np.isfinite(table).all():
        raise Unfit("its table holds values that are not finite")
    if constant(node.inputs[1]) is not None:
        raise Unfit("its indices are constant")
    return table


def write_embedding(
    editor: Editor, node: ir.Node, table: Array, store: WeightStore, *, per_channel: bool
) -> None:
    """Look up int8 rows and their scales, and multiply only the rows that were looked up."""
    source, indices = node.inputs[0], node.inputs[1]
    assert source is not None
    integers, scale = store.quantized(table, 0, str(source.name), "embedding", keepdims=True)
    rows = editor.insert(node, "Gather", [integers, indices])
    real = editor.insert(node, "Cast", [rows], {"to": _FLOAT})
    if per_channel:
        scale = editor.insert(node, "Gather", [scale, indices], name=f"{layer_name(node)}.scale")
    name = layer_name(node)
    gather = rows.producer()
    _take_place(editor, node, editor.insert(node, "Mul", [real, scale]))
    assert gather is not None
    gather.name = name


def _take_place(editor: Editor, node: ir.Node, value: ir.Value) -> None:
    """Let a new value stand for the node's output under its name, and remove the node."""
    old = node.outputs[0]
    value.shape, value.type = old.shape, old.type
    if not editor.bypass(node, value):
        raise AssertionError("a fresh value can always take the place of an old one")
    if not value.is_graph_output():
        value.name = old.name
