"""Biases of matrix products: MatMul and Add of two-dimensional values become Gemm.

ONNX Runtime does so itself, but only while it already looks for integer operators, and then leaves the
product in float where its result is not rounded; a Gemm with an integer bias it takes as it is.
"""

from __future__ import annotations

from collections.abc import Iterator

import onnx_ir as ir

from hasten.core.data import Array
from hasten.graph import Graph
from hasten.graph.editor import Editor
from hasten.graph.layer import stored
from hasten.graph.names import layer_name
from hasten.graph.reading import sole_user
from hasten.graph.shapes import infer


def absorb_biases(graph: Graph, editor: Editor, exclude: frozenset[str]) -> None:
    """Write products with a bias as Gemm, under the product's name."""
    found = list(_with_bias(editor.main, exclude))
    if not found:
        return
    known = {v.name: v.shape for node in infer(graph).ir_model.graph for v in node.outputs}
    known |= {v.name: v.shape for v in editor.main.inputs}
    for product, add, bias in found:
        x, weight = product.inputs
        assert x is not None
        shape = known.get(x.name)
        if shape is None or len(shape) != 2:
            continue
        name = layer_name(product)
        gemm = editor.replace(add, "Gemm", [x, weight, editor.constant(bias.reshape(-1), f"{name}.bias")])
        editor.remove(product)
        gemm.name = name


def _with_bias(main: ir.Graph, exclude: frozenset[str]) -> Iterator[tuple[ir.Node, ir.Node, Array]]:
    for node in main:
        if node.domain != "" or node.op_type != "MatMul" or layer_name(node) in exclude:
            continue
        weight = stored(node.inputs[1])
        add = sole_user(node.outputs[0])
        if weight is None or weight.ndim != 2 or stored(node.inputs[0]) is not None:
            continue
        if add is None or add.domain != "" or add.op_type != "Add":
            continue
        bias = next((array for array in map(stored, add.inputs) if array is not None), None)
        if bias is not None and bias.size == bias.shape[-1] == weight.shape[1] and bias.ndim <= 2:
            yield node, add, bias
