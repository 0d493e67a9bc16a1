"""Make weights constants: initializers leave the inputs, Constant nodes become initializers.

Algebra: none. Up to IR version 3 every initializer had to be listed among the inputs, which lets a caller
override it; while one could, no runtime may fold it. hasten feeds only the true inputs, so nothing is lost.
A Constant node and an initializer of the same value mean the same; one form is enough to look for.
"""

from __future__ import annotations

import onnx_ir.passes.common as passes

from hasten.core.record import Site
from hasten.graph import Graph
from hasten.graph.editor import Findings
from hasten.graph.names import layer_name


def apply(graph: Graph) -> Findings:
    """Fix all weights, in place."""
    findings, model = Findings(), graph.ir_model
    for owner in model.graphs():
        for value in owner.inputs:
            if value.name and value.name in owner.initializers:
                what = "no longer listed as an input"
                findings.sites.append(Site(name=value.name, op_type="initializer", what=what))
    passes.RemoveInitializersFromInputsPass()(model)
    constants = [node for owner in model.graphs() for node in owner if node.op_type == "Constant"]
    passes.LiftConstantsToInitializersPass(lift_all_constants=True, size_limit=0)(model)
    for node in constants:
        if node.graph is None:
            site = Site(name=layer_name(node), op_type=node.op_type, what="became an initializer")
            findings.sites.append(site)
    return findings
