"""Merge operators that only reshape.

Algebra: Reshape, Flatten, Squeeze and Unsqueeze keep the elements and their order, so of several in a row
only the last shape counts; where that is the first one again, none is needed.

Check: nothing else uses the value in between; the last shape can be written as a constant target of the
first input (see ``simplify_shapes``).
"""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from hasten.graph import Graph
from hasten.graph.editor import Editor, Findings
from hasten.graph.reading import rank, sole_user
from hasten.rewrites.dimensions import Dimensions
from hasten.rewrites.simplify_shapes import written

RESHAPING = ("Reshape", "Flatten", "Squeeze", "Unsqueeze")


def apply(graph: Graph) -> Findings:
    """Merge every pair, in place."""
    editor = Editor(graph, shapes=True)
    dims = Dimensions(editor.main)
    for node in editor.nodes(*RESHAPING):
        y = node.inputs[0]
        before = y.producer() if y is not None else None
        if before is None or y is None or before.domain or before.op_type not in RESHAPING:
            continue
        x = before.inputs[0]
        if x is None or sole_user(y) is not node:
            continue
        target = _target(node, x, dims)
        if target is None:
            continue
        if target == [0] * (rank(x) or -1) and editor.bypass(node, x):
            editor.changed(node, f"cancelled with the {before.op_type} before it")
            editor.remove(before)
            continue
        shape = editor.constant(np.asarray(target, dtype=np.int64), f"{node.outputs[0].name}.shape")
        made = editor.replace(node, "Reshape", [x, shape])
        editor.changed(made, f"merged with the {before.op_type} before it")
        editor.remove(before)
    return editor.findings


def _target(node: ir.Node, x: ir.Value, dims: Dimensions) -> list[int] | None:
    """The result's shape as a constant target for x, or None."""
    sizes, have = dims.shape(node.outputs[0]), dims.shape(x)
    if sizes is None or have is None or None in sizes or 0 in have:
        return None
    target = [written(size, i, have, prefer_copy=True) for i, size in enumerate(sizes)]
    if target.count(-1) > 1:
        return None
    copied = [size for size, entry in zip(sizes, target, strict=True) if entry == 0]
    if -1 in target and not all(isinstance(size, int) or dims.is_fed(size) for size in copied):
        return None
    return target
