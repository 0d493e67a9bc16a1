"""Biases of matrix products, in the form with which ONNX Runtime computes the products in integers.

MatMul and Add of two-dimensional values become Gemm, whose bias can be an integer. Left as they are, the
runtime makes a Gemm of them itself before it looks for integer operators, and that one it computes in float:
it decodes the weights again in every inference. It does so to products of more dimensions, too, in rows,
unless the bias has as many axes as they have.
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


def absorb_biases(graph: Graph, editor: Editor, exclude: frozenset[str], *, whole: bool) -> None:
    """Write products of matrices with a bias as Gemm, under the product's name.

    whole: give the biases of products of more dimensions as many axes.
    """
    found = list(_with_bias(editor.main, exclude))
    if not found:
        return
    known = {v.name: v.shape for node in infer(graph).ir_model.graph for v in node.outputs}
    known |= {v.name: v.shape for v in editor.main.inputs}
    for product, add, bias in found:
        x, weight = product.inputs
        assert x is not None
        shape = known.get(x.name)
        if shape is None or len(shape) < 2:
            continue
        if len(shape) > 2:
            if not whole:
                continue
            place = next(i for i, value in enumerate(add.inputs) if stored(value) is not None)
            editor.set_input(add, place, bias.reshape([1] * (len(shape) - 1) + [-1]))
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
