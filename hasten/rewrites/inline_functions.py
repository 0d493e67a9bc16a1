"""Replace calls of model-local functions by the functions' bodies.

Algebra: f(x) where f(a) = g(h(a)) is g(h(x)).

Exporters keep modules as functions; the runtimes inline them on loading, but a rewrite or a quantizer that
looks for patterns has to see through them first.
"""

from __future__ import annotations

import onnx_ir.passes.common as passes

from hasten.core.record import Site
from hasten.graph import Graph
from hasten.graph.editor import Findings


def apply(graph: Graph) -> Findings:
    """Inline every call, in place; raises ValueError where a function disagrees with the model's opset."""
    findings = Findings()
    if not graph.ir_model.functions:
        return findings
    result = passes.InlinePass()(graph.ir_model)
    # what is left is called from nowhere
    graph.ir_model.functions.clear()
    counts = getattr(result, "id_count", {})
    for (_, name, _), count in counts.items():
        findings.sites.append(Site(name=name, op_type="function", what=f"inlined {count} calls"))
    return findings
