"""16-bit floating point: half the bytes of weights, or the arithmetic itself.

``weights`` stores weights in 16 bits and widens them when the model is loaded: half the file, the same speed
and memory. ``compute`` lets every operator work in 16 bits that has the type and whose numbers survive it;
it pays only where the hardware calculates in that format.

Sources: IEEE 754-2008 (binary16); Micikevicius et al. 2018, "Mixed Precision Training", section 3 (which
operations need float32); Kalamkar et al. 2019, "A Study of BFLOAT16 for Deep Learning Training".
"""

from __future__ import annotations

from typing import Literal

import onnx_ir.passes.common as passes
from pydantic import ConfigDict
from pydantic.dataclasses import dataclass

from hasten.core.record import Site
from hasten.graph import Graph
from hasten.graph.editor import Editor
from hasten.graph.names import layer_name
from hasten.graph.shapes import infer
from hasten.methods import Change, Context, Facts
from hasten.methods._cast.magnitude import largest_values
from hasten.methods._cast.plan import make_plan
from hasten.methods._cast.precision import PRECISIONS, Precision
from hasten.methods._cast.rewrite import carry_out
from hasten.methods._cast.stored import SMALLEST, cast_weights
from hasten.rewrites import raise_opset

FACTS = Facts(
    summary="float16 or bfloat16: stored weights, or the arithmetic where it has the range",
    exact=False,
    yields=frozenset({"float16", "bfloat16"}),
)


@dataclass(frozen=True, kw_only=True, config=ConfigDict(extra="forbid"))
class Params:
    """Hyper-parameters of ``cast``.

    dtype: ``float16`` has 11 significant bits and ends at 65504; ``bfloat16`` has 8 and float32's range.
    what: ``weights`` changes how weights are stored; ``compute`` changes the arithmetic too.
    exclude: names of layers (for ``weights`` also of stored tensors) to leave in float32.
    """

    dtype: Literal["float16", "bfloat16"] = "float16"
    what: Literal["weights", "compute"] = "weights"
    exclude: tuple[str, ...] = ()


def apply(graph: Graph, params: Params, context: Context) -> Change:
    """Store weights or compute in 16 bits.

    With calibration data, nodes whose values come near the end of the format's range on them stay in
    float32. Raises MethodError when the graph does not run on the calibration data.
    """
    precision = PRECISIONS[params.dtype]
    changed = graph.copy()
    if params.what == "weights":
        passes.LiftConstantsToInitializersPass(size_limit=SMALLEST)(changed.ir_model)
        editor = Editor(changed)
        known = cast_weights(editor, precision, frozenset(params.exclude))
    else:
        editor, known = _compute(changed, precision, frozenset(params.exclude), context)
    notes = tuple(f"exclude names no layer: {name}" for name in sorted(set(params.exclude) - set(known)))
    sites, skipped = tuple(editor.findings.sites), tuple(editor.findings.skipped)
    if not sites:
        return Change(graph, skipped=skipped, notes=notes)
    passes.RemoveUnusedNodesPass()(changed.ir_model)
    return Change(changed, sites, skipped, notes)


def _compute(
    changed: Graph, precision: Precision, exclude: frozenset[str], context: Context
) -> tuple[Editor, list[str]]:
    """Let nodes compute in 16 bits, in place; returns the editor and the names of all nodes."""
    if precision.since > changed.opset:
        raise_opset.apply(changed, precision.since)
    passes.LiftConstantsToInitializersPass(size_limit=0)(changed.ir_model)
    _adopt_types(changed)
    seen = {}
    if context.calibration and precision.largest < 1e30:
        seen = largest_values(changed, context.calibration, context.threads)
    editor = Editor(changed)
    plan = make_plan(changed, precision, exclude, seen)
    names = [layer_name(node) for node in changed.ir_model.graph]
    carry_out(editor, plan, precision)
    editor.findings.skipped += plan.skipped
    editor.findings.sites += [
        Site(name=layer_name(node), op_type=node.op_type, what=f"computes in {precision.name}")
        for node in plan.narrow
    ]
    return editor, names


def _adopt_types(graph: Graph) -> None:
    """Give values the types that inference finds, and leave their shapes as they are."""
    made = (value for node in infer(graph).ir_model.graph for value in node.outputs)
    inferred = {str(value.name): value.type for value in made}
    for node in graph.ir_model.graph:
        for value in node.outputs:
            if value.type is None:
                value.type = inferred.get(value.name or "")
