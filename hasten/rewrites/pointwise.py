"""Products with constant matrices as convolutions with kernels of one place.

Algebra: Σₖ x[…, n, k]·W[k, m] + b[m] is the convolution of x, its last axis moved behind the batch, with the
kernel W of one place; the axes are moved back. A vector a sample is one place.

Check: the weight is the operator's own constant matrix, and the rank of what it multiplies is known, from two
to five. A constant vector that is added to a product is the convolution's bias.

Nothing is saved by this, so it is not among ``ALL``. But a runtime may have better kernels for one than for
the other, as OpenVINO has for integers on x86 CPUs without VNNI.
"""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from hasten.core.data import Array
from hasten.graph import Graph
from hasten.graph.editor import Editor, Findings, rounded
from hasten.graph.names import layer_name
from hasten.graph.reading import constant, given, rank, sole_user
from hasten.rewrites.linear import Linear, linear, per_channel

_RANKS = range(2, 6)


def apply(graph: Graph) -> Findings:
    """Replace every such product, in place; the convolution has its name."""
    editor = Editor(graph, shapes=True)
    for node in editor.nodes("Gemm", "MatMul"):
        if constant(given(node, 1)) is None:
            continue
        product, dims = linear(node), rank(given(node, 0))
        if product is None or dims is None or dims not in _RANKS:
            editor.refused(node, "its matrix is another's too, or the rank of what it multiplies unknown")
        else:
            _convolve(editor, product, dims)
    return editor.findings


def _convolve(editor: Editor, product: Linear, dims: int) -> None:
    node, last, bias = product.node, product.node, product.bias
    user = sole_user(node.outputs[0])
    added = None if user is None or product.takes_bias else _added(user, product, dims)
    if user is not None and added is not None:
        last, bias = user, added
    original = constant(node.inputs[1])
    assert original is not None
    weight = product.weight if node.attributes.get_int("transB", 0) else product.weight.T
    kernel = rounded(weight.reshape(*weight.shape, *[1] * max(dims - 2, 1)), original.dtype)
    vector = None if bias is None else rounded(bias, original.dtype)
    if kernel is None or (bias is not None and vector is None):
        editor.refused(node, "its weights exceed the range of their type")
        return
    label = layer_name(node)
    inputs = [_channels_first(editor, node, dims), editor.constant(kernel, f"{label}.kernel")]
    if vector is not None:
        inputs.append(editor.constant(vector, f"{label}.bias"))
    made = editor.insert(last, "Conv", inputs)
    convolution = made.producer()
    assert convolution is not None
    _channels_last(editor, last, made, dims)
    if last is not node:
        editor.remove(node)
    convolution.name = label
    editor.changed(convolution, "a product, as a convolution with a kernel of one place")


def _channels_first(editor: Editor, node: ir.Node, dims: int) -> ir.Value:
    """What the product reads, its last axis behind the batch, with at least one axis of places."""
    if dims == 2:
        axes = editor.constant(np.asarray([2], dtype=np.int64), f"{layer_name(node)}.places")
        return editor.insert(node, "Unsqueeze", [given(node, 0), axes])
    order = [0, dims - 1, *range(1, dims - 1)]
    return editor.insert(node, "Transpose", [given(node, 0)], {"perm": order})


def _channels_last(editor: Editor, last: ir.Node, made: ir.Value, dims: int) -> None:
    """Put what the convolution makes in the last one's place, as that had it."""
    if dims == 2:
        axes = editor.constant(np.asarray([2], dtype=np.int64), f"{layer_name(last)}.places")
        editor.replace(last, "Squeeze", [made, axes], name=editor.unique(f"{layer_name(last)}.Squeeze"))
        return
    order = [0, *range(2, dims), 1]
    name = editor.unique(f"{layer_name(last)}.back")
    editor.replace(last, "Transpose", [made], {"perm": order}, name=name)


def _added(user: ir.Node, product: Linear, dims: int) -> Array | None:
    """The constant vector that is added to the product; None where that is not all that is done."""
    if user.op_type != "Add" or user.domain:
        return None
    others = [value for value in user.inputs if value is not product.node.outputs[0]]
    array = constant(others[0]) if len(others) == 1 else None
    return None if array is None else per_channel(array, product.outputs, -1, dims)
