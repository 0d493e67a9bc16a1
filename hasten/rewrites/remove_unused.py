"""Remove what no output depends on: nodes, optional outputs, initializers, operator-set imports.

Algebra: none. The signature stays, unused inputs included.
"""

from __future__ import annotations

import onnx_ir as ir
import onnx_ir.passes.common as passes

from hasten.core.record import Site
from hasten.graph import Graph
from hasten.graph.editor import Findings
from hasten.graph.names import layer_name


def apply(graph: Graph) -> Findings:
    """Remove everything unused, in place."""
    findings, model = Findings(), graph.ir_model
    nodes = [node for owner in model.graphs() for node in owner]
    outputs = {node: _named_outputs(node) for node in nodes}
    passes.RemoveUnusedNodesPass()(model)
    passes.RemoveUnusedOpsetsPass()(model)
    for node in nodes:
        if node.graph is None:
            findings.sites.append(Site(name=layer_name(node), op_type=node.op_type, what="removed: unused"))
        elif _named_outputs(node) < outputs[node]:
            what = "outputs removed that nothing used"
            findings.sites.append(Site(name=layer_name(node), op_type=node.op_type, what=what))
    for owner in model.graphs():
        kept = set(owner.outputs) | set(owner.inputs)
        for name, value in list(owner.initializers.items()):
            if not value.uses() and value not in kept:
                del owner.initializers[name]
                findings.sites.append(Site(name=name, op_type="initializer", what="removed: unused"))
    return findings


def _named_outputs(node: ir.Node) -> int:
    return sum(bool(value.name) for value in node.outputs)
