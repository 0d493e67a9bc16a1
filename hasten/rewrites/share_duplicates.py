"""Compute equal things once.

Algebra: f(x) and f(x) are one value. Nodes are merged whose operator, attributes and inputs are the same;
before that, small constants whose type, shape and bytes are the same.

Check: no random operators, no control flow.
"""

from __future__ import annotations

import onnx_ir as ir
import onnx_ir.passes.common as passes

from hasten.graph import Graph
from hasten.graph.editor import Editor, Findings
from hasten.rewrites.share_weights import share_tensors

SMALL = 16
"""Elements; a larger constant is a weight, and one layer's folding must not hinge on another layer's."""

_RANDOM = frozenset({"Bernoulli", "Dropout"})
_APART = "hasten_apart"


def apply(graph: Graph) -> Findings:
    """Merge all duplicates, in place."""
    editor = Editor(graph)
    share_tensors(editor, lambda tensor: tensor.size <= SMALL and len(tensor.shape) <= 1)
    nodes = list(graph.ir_model.graph)
    random = [node for owner in graph.ir_model.graphs() for node in owner if node.op_type in _RANDOM]
    for i, node in enumerate(random):
        # The pass knows the other random operators, and merges none whose attributes differ.
        node.attributes[_APART] = ir.AttrInt64(_APART, i)
    passes.CommonSubexpressionEliminationPass()(graph.ir_model)
    for node in random:
        node.attributes.pop(_APART)
    for node in nodes:
        if node.graph is None:
            editor.changed(node, "removed: another node computes the same")
    return editor.findings
