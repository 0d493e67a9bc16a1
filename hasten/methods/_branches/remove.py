"""Taking branches out of a graph: what stands in their place, and what nobody reads any more."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import onnx_ir as ir
import onnx_ir.passes.common as passes

from hasten.graph import Graph
from hasten.graph.editor import Editor
from hasten.graph.names import layer_name
from hasten.graph.reading import constant, given
from hasten.methods._branches.find import Branch
from hasten.methods._branches.flow import FUSED
from hasten.methods._branches.repair import Line

_FUSED_EPSILON = 1e-12
"""What ONNX Runtime's fused node takes for an epsilon that is not given."""


def remove(graph: Graph, branches: Mapping[str, Branch], lines: Mapping[str, Line]) -> None:
    """Leave the branches out, in place, with their lines instead."""
    editor = Editor(graph)
    nodes = {layer_name(node): node for node in editor.main}
    for name, branch in branches.items():
        node = nodes[branch.node]
        if node.op_type == FUSED:
            node = nodes[branch.node] = _taken_apart(editor, node)
        _put(editor, node, branch, lines[name])
    for node in {nodes[branch.node]: None for branch in branches.values()}:
        _simplify(editor, node)
    passes.RemoveUnusedNodesPass()(graph.ir_model)


def _put(editor: Editor, node: ir.Node, branch: Branch, line: Line) -> None:
    """Let the line take the branch's place in the sum."""
    dtype = branch.dtype.numpy()
    shift = editor.constant(branch.channels.along(line.shift).astype(dtype), f"{branch.name}.shift")
    if not line.scale.any():
        node.replace_input_with(branch.index, shift)
        return
    other = node.inputs[1 - branch.index]
    skip = _value(editor, branch.skip)
    factor = line.scale + 1 if other is skip else line.scale
    scale = editor.constant(branch.channels.along(factor).astype(dtype), f"{branch.name}.scale")
    scaled = editor.insert(node, "Mul", [skip, scale], name=f"{branch.name}.scaled")
    if other is skip:
        node.replace_input_with(1 - branch.index, scaled)
        node.replace_input_with(branch.index, shift)
    else:
        shifted = editor.insert(node, "Add", [scaled, shift], name=f"{branch.name}.shifted")
        node.replace_input_with(branch.index, shifted)


def _value(editor: Editor, name: str) -> ir.Value:
    found = [value for value in editor.main.inputs if value.name == name]
    found += [value for node in editor.main for value in node.outputs if value.name == name]
    return found[0]


def _simplify(editor: Editor, node: ir.Node) -> None:
    """Remove a sum of constants, or with zeros, where the shape does not hang on it."""
    terms = [constant(value) for value in node.inputs[:2]]
    left, right = terms
    if left is not None and right is not None:
        total = np.asarray(left + right)
        value = editor.constant(total, f"{layer_name(node)}.total")
        node.outputs[0].replace_all_uses_with(value)
        editor.remove(node)
        return
    for zeros, index in ((left, 1), (right, 0)):
        rest = node.inputs[index]
        if zeros is not None and not zeros.any() and rest is not None and not editor.bypass(node, rest):
            editor.replace(node, "Identity", [rest])


def _taken_apart(editor: Editor, node: ir.Node) -> ir.Node:
    """The sum of a fused sum and normalization, as nodes of their own; returns the one of both summands."""
    name = layer_name(node)
    total = editor.insert(node, "Add", list(node.inputs[:2]), name=f"{name}.sum")
    first = total.producer()
    assert first is not None
    source = node.inputs[0]
    total.type = source.type if source is not None else None
    bias = given(node, 4)
    if bias is not None:
        total = editor.insert(node, "Add", [total, bias], name=f"{name}.biased")
        total.type = first.outputs[0].type
    for value in node.outputs[3:]:
        value.replace_all_uses_with(total)
        total.name, value.name = value.name or total.name, None
    attributes = {"axis": -1, "epsilon": node.attributes.get_float("epsilon", _FUSED_EPSILON)}
    editor.replace(node, "LayerNormalization", [total, given(node, 2), given(node, 3)], attributes)
    return first
