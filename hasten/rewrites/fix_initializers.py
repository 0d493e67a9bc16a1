"""Make weights constants: initializers leave the inputs, Constant nodes become initializers.

Algebra: none. Up to IR version 3 every initializer had to be listed among the inputs, which lets a caller
override it; while one could, no runtime may fold it. hasten feeds only the true inputs, so nothing is lost.
A Constant node and an initializer of the same value mean the same; one form is enough to look for.
"""

from __future__ import annotations

import onnx_ir.passes.common as passes

from hasten.core.record import Site
from hasten.graph import Graph
from hasten.rewrites.editor import Findings


def apply(graph: Graph) -> Findings:
    """Fix all weights, in place."""
    findings, model = Findings(), graph.ir_model
    listed = [v for v in model.graph.inputs if v.name in model.graph.initializers]
    if listed:
        passes.RemoveInitializersFromInputsPass()(model)
        what = f"{len(listed)} initializers no longer listed as inputs"
        findings.sites.append(Site(name=listed[0].name or "", op_type="initializer", what=what))
    constants = [node for owner in model.graphs() for node in owner if node.op_type == "Constant"]
    passes.LiftConstantsToInitializersPass(lift_all_constants=True, size_limit=0)(model)
    lifted = [node for node in constants if node.graph is None]
    if lifted:
        what = f"{len(lifted)} Constant nodes made initializers"
        findings.sites.append(Site(name=lifted[0].name or "", op_type="Constant", what=what))
    return findings
