"""Write the Gaussian error linear unit as one operator.

Algebra: Gelu(x) = x/2·(1 + erf(x/√2)); with approximate="tanh", x/2·(1 + tanh(√(2/π)·(x + 0.044715·x³)))
(Hendrycks & Gimpel 2016). Any order and spelling of the products is recognized.

Check: opset 20, which brought the operator; x is floating-point; every constant is a single number.

Why: ONNX Runtime fuses some of the spellings and not others (not the one PyTorch's exporter writes), and a
quantizer must not put steps between the parts.
"""

from __future__ import annotations

from math import pi, sqrt

import onnx_ir as ir

from hasten.graph import Graph
from hasten.graph.editor import Editor, Findings, is_float
from hasten.graph.reading import given, scalar, sole_user
from hasten.rewrites.polynomials import gated, polynomial, same, variables

SINCE = 20
_INNER = {
    "Erf": {1: 1 / sqrt(2)},
    "Tanh": {1: sqrt(2 / pi), 3: sqrt(2 / pi) * 0.044715},
}


def apply(graph: Graph) -> Findings:
    """Fuse every Gelu, in place."""
    editor = Editor(graph, shapes=True)
    if graph.opset < SINCE:
        return editor.findings
    for node in editor.nodes(*_INNER):
        x, more = _argument(node), _one_more(node)
        last = gated(more, x, {1: 0.5}) if x is not None and more is not None else None
        if last is not None and x is not None and is_float(x):
            attributes = {"approximate": "tanh"} if node.op_type == "Tanh" else None
            made = editor.replace(last, "Gelu", [x], attributes)
            editor.changed(made, f"fused from {node.op_type} and the arithmetic around it")
    return editor.findings


def _argument(node: ir.Node) -> ir.Value | None:
    wanted = _INNER[node.op_type]
    inner = node.inputs[0]
    return next((x for x in variables(inner) if same(polynomial(inner, x), wanted)), None)


def _one_more(node: ir.Node) -> ir.Value | None:
    """The value of 1 + f, where the node computes f."""
    user = sole_user(node.outputs[0])
    if user is None or user.op_type != "Add" or user.domain:
        return None
    other = given(user, 1 if user.inputs[0] is node.outputs[0] else 0)
    return user.outputs[0] if scalar(other) == 1.0 else None
