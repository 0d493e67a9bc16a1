"""Look rows up instead of multiplying by one-hot vectors.

Algebra: onehot(i)·W = Wᵢ, the i-th row; the zero vector where i is none of 0 … K-1, for which a row of zeros
is appended: row K stands for every index outside. K·N multiply-accumulates a vector become none.

Check: the one-hot tensor is OneHot(i, K, [0, 1]) on the last axis, or Cast(Equal(i, [0 … K-1])), with i an
integer tensor; W is a constant, finite matrix (zero times infinity is not zero).

JAX and TensorFlow write embeddings of small vocabularies this way.
"""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from hasten.graph import Graph
from hasten.graph.editor import Editor, Findings
from hasten.graph.reading import constant, given, integers, rank

_INTEGERS = frozenset({ir.DataType.INT32, ir.DataType.INT64})


def apply(graph: Graph) -> Findings:
    """Replace every such product, in place."""
    editor = Editor(graph, shapes=True)
    for node in editor.nodes("MatMul"):
        weight = constant(given(node, 1))
        hot = node.inputs[0].producer() if node.inputs[0] is not None else None
        if weight is None or weight.ndim != 2 or hot is None or hot.domain or not np.isfinite(weight).all():
            continue
        index = _compared(editor, hot, len(weight)) or _one_hot(editor, hot, len(weight))
        if index is None or index.dtype not in _INTEGERS:
            continue
        _look_up(editor, node, index, weight)
    return editor.findings


def _look_up(editor: Editor, node: ir.Node, index: ir.Value, weight: np.ndarray) -> None:
    count, kind = len(weight), index.dtype.numpy() if index.dtype is not None else np.dtype(np.int64)
    stem = node.outputs[0].name
    low, high, outside = (
        editor.constant(np.asarray(n, dtype=kind), f"{stem}.{what}")
        for n, what in ((0, "first"), (count - 1, "last"), (count, "outside"))
    )
    nearest = editor.insert(node, "Clip", [index, low, high])
    inside = editor.insert(node, "Equal", [nearest, index])
    row = editor.insert(node, "Where", [inside, index, outside])
    padded = np.concatenate([weight, np.zeros_like(weight[:1])])
    name = node.inputs[1].name if node.inputs[1] is not None else stem
    table = editor.constant(padded, f"{name}.rows")
    made = editor.replace(node, "Gather", [table, row], {"axis": 0})
    editor.changed(made, f"looks rows up instead of multiplying by one-hot vectors of length {count}")


def _compared(editor: Editor, node: ir.Node, count: int) -> ir.Value | None:
    """The index, without its last axis of length 1, of Cast(Equal(index, [0 … count-1]))."""
    equal = node.inputs[0].producer() if node.op_type == "Cast" and node.inputs[0] is not None else None
    if equal is None or equal.op_type != "Equal" or equal.domain:
        return None
    if node.outputs[0].dtype is None or not node.outputs[0].dtype.is_floating_point():
        return None
    for index, other in ((equal.inputs[0], equal.inputs[1]), (equal.inputs[1], equal.inputs[0])):
        numbers, dims = constant(other), rank(index)
        if index is None or numbers is None or dims is None or index.shape is None or dims < 1:
            continue
        last = index.shape[dims - 1]
        line = numbers.size == count and numbers.shape[-1:] == (count,) and numbers.ndim <= dims
        integer = index.dtype in _INTEGERS and np.array_equal(numbers.reshape(-1), np.arange(count))
        if line and last == 1 and integer:
            axes = editor.constant(np.asarray([-1], dtype=np.int64), f"{index.name}.last_axis")
            squeezed = editor.insert(equal, "Squeeze", [index, axes])
            squeezed.type = index.type
            return squeezed
    return None


def _one_hot(editor: Editor, node: ir.Node, count: int) -> ir.Value | None:
    """The index of OneHot(index, count, [0, 1]), counted from the front: it may be counted from the end."""
    if node.op_type != "OneHot" or node.attributes.get_int("axis", -1) != -1:
        return None
    values = constant(given(node, 2))
    if integers(given(node, 1)) != [count] or values is None or list(values.reshape(-1)) != [0, 1]:
        return None
    index = node.inputs[0]
    if index is None or index.dtype not in _INTEGERS:
        return None
    kind = index.dtype.numpy()
    zero, length = (
        editor.constant(np.asarray(number, dtype=kind), f"{node.outputs[0].name}.{what}")
        for number, what in ((0, "zero"), (count, "length"))
    )
    behind = editor.insert(node, "Less", [index, zero])
    moved = editor.insert(node, "Add", [index, length])
    front = editor.insert(node, "Where", [behind, moved, index])
    front.type, front.shape = index.type, index.shape
    return front
