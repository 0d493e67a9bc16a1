"""Compute equal things once and store equal tensors once.

Algebra: f(x) and f(x) are one value. Nodes are merged whose operator, attributes and inputs are the same;
tensors whose type, shape and bytes are the same.

Check: no random operators, no control flow. A float vector that is filled with one number (zeros, ones) is
not shared: two untrained biases are equal by accident, and training one must not change the other.
"""

from __future__ import annotations

import hashlib

import onnx_ir as ir
import onnx_ir.passes.common as passes

from hasten.core.record import Site
from hasten.graph import Graph
from hasten.rewrites.editor import Editor, Findings, pinned


def apply(graph: Graph) -> Findings:
    """Merge all duplicates, in place."""
    editor = Editor(graph)
    _share_tensors(editor)
    nodes = list(graph.ir_model.graph)
    passes.CommonSubexpressionEliminationPass()(graph.ir_model)
    for node in nodes:
        if node.graph is None:
            editor.changed(node, "removed: another node computes the same")
    return editor.findings


def _share_tensors(editor: Editor) -> None:
    kept: dict[tuple[ir.DataType, tuple[int, ...], bytes], ir.Value] = {}
    for value in list(editor.main.initializers.values()):
        tensor = value.const_value
        if tensor is None or pinned(value) or tensor.dtype.is_string():
            continue
        data = tensor.tobytes()
        if tensor.dtype.is_floating_point() and tensor.size > 1 and _is_filled(data, tensor.size):
            continue
        key = (tensor.dtype, tuple(tensor.shape.numpy()), hashlib.sha256(data).digest())
        first = kept.setdefault(key, value)
        if first is value:
            continue
        value.replace_all_uses_with(first)
        if value.name:
            editor.main.initializers.pop(value.name)
            site = Site(name=value.name, op_type="initializer", what="removed: another one is equal")
            editor.findings.sites.append(site)


def _is_filled(data: bytes, count: int) -> bool:
    width = len(data) // count
    return width > 0 and data == data[:width] * count
