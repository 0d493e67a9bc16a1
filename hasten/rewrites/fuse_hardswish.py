"""Write HardSigmoid and HardSwish as one operator each.

Algebra: clip(x + 3, 0, 6)/6 = HardSigmoid(x) with α = 1/6, β = 1/2, and x times that is HardSwish(x) (Howard
et al. 2019, MobileNetV3, section 5.2). Any order and spelling of the products is recognized.

Check: opset 14, which brought HardSwish; x is floating-point; the bounds and factors are single numbers.

Why: ONNX Runtime runs the parts one by one and fuses the whole into the convolution before it.
"""

from __future__ import annotations

import onnx_ir as ir

from hasten.graph import Graph
from hasten.graph.editor import Editor, Findings, is_float
from hasten.graph.reading import given, scalar
from hasten.rewrites.polynomials import gated, polynomial, same, variables

SINCE = 14
_ALPHA, _BETA = 1 / 6, 0.5


def apply(graph: Graph) -> Findings:
    """Fuse every HardSigmoid and HardSwish, in place."""
    editor = Editor(graph, shapes=True)
    if graph.opset < SINCE:
        return editor.findings
    for node in editor.nodes("Clip"):
        x = _clipped(node)
        if x is None or not is_float(x):
            continue
        whole, part = gated(node.outputs[0], x, {1: _ALPHA}), gated(node.outputs[0], x, {0: _ALPHA})
        if whole is not None:
            editor.changed(editor.replace(whole, "HardSwish", [x]), "fused from Clip and arithmetic")
        elif part is not None:
            made = editor.replace(part, "HardSigmoid", [x], {"alpha": _ALPHA, "beta": _BETA})
            editor.changed(made, "fused from Clip and arithmetic")
    for node in editor.nodes("HardSigmoid"):
        x = node.inputs[0]
        alpha, beta = node.attributes.get_float("alpha", 0.2), node.attributes.get_float("beta", 0.5)
        if x is None or not same({0: beta, 1: alpha}, {0: _BETA, 1: _ALPHA}) or not is_float(x):
            continue
        whole = gated(node.outputs[0], x, {1: 1.0})
        if whole is not None:
            editor.changed(editor.replace(whole, "HardSwish", [x]), "fused from HardSigmoid and Mul")
    return editor.findings


def _clipped(node: ir.Node) -> ir.Value | None:
    """The x of clip(x + 3, 0, 6), or None."""
    if scalar(given(node, 1)) != 0.0 or scalar(given(node, 2)) != 6.0:
        return None
    inner = node.inputs[0]
    return next((x for x in variables(inner) if same(polynomial(inner, x), {0: 3.0, 1: 1.0})), None)
