"""Training with the rounding in the loop: a quantized graph learns weights, and scales, that round well.

The graph that ``quantize_static`` made is trained as it is, each quantize/dequantize pair one differentiable
step (``hasten.bridge.fake_quant``): the gradient passes a rounding unchanged where it does not clip, and the
scales are learned with it. The teacher is the original model, so no labels are needed; what was learned is
rounded back into the same integers.

Sources: Jacob et al. 2018, "Quantization and Training of Neural Networks for Efficient
Integer-Arithmetic-Only Inference", section 3; Bengio et al. 2013, "Estimating or Propagating Gradients
Through Stochastic Neurons for Conditional Computation", section 4 (straight-through); Esser et al. 2020,
"Learned Step Size Quantization", eqs. 2 and 3; Hinton et al. 2015, "Distilling the Knowledge in a Neural
Network", section 2.
"""

from __future__ import annotations

from functools import partial
from typing import Annotated

import numpy as np
from pydantic import ConfigDict, Field
from pydantic.dataclasses import dataclass

from hasten import train
from hasten.core.errors import MethodError
from hasten.core.record import Site, Skip
from hasten.graph import Graph
from hasten.methods import Change, Context, Facts
from hasten.methods._qat.fold import fold
from hasten.methods._qat.unfold import Unfolded, unfold
from hasten.train.settings import Hyperparameters

FACTS = Facts(
    summary="a quantized graph trained with its rounding, the original as its teacher",
    exact=False,
    needs=frozenset({"calibration", "gradients"}),
    needs_float=False,
)


@dataclass(frozen=True, kw_only=True, config=ConfigDict(extra="forbid"))
class Params(Hyperparameters):
    """Hyper-parameters of ``quantize_aware``: those of every training, and these.

    learn_scales: also learn the scales. alpha: share of the labels' loss; 0 learns from the original alone,
    without labels, 1 from labels alone. temperature: T that softens the teacher's class scores.
    """

    epochs: Annotated[float, Field(gt=0)] = 4.0
    learning_rate: Annotated[float, Field(gt=0)] = 5e-5
    learn_scales: bool = True
    alpha: Annotated[float, Field(ge=0, le=1)] = 0.0
    temperature: Annotated[float, Field(gt=0)] = 4.0


def apply(graph: Graph, params: Params, context: Context) -> Change:
    """Train the quantized graph.

    Raises MethodError without samples, or without what it is to learn from; Unavailable where PyTorch or
    accelerate is missing.
    """
    if context.calibration is None or not len(context.calibration):
        raise MethodError("quantize_aware has no samples to train on; give --data")
    if context.original is None and params.alpha < 1:
        raise MethodError("quantize_aware has no original to learn from; set alpha to 1 to learn from labels")
    if params.alpha > 0 and not context.calibration.has_labels:
        raise MethodError("quantize_aware has no labels to learn from; set alpha to 0")
    unfolded = unfold(graph, context.original, learn_scales=params.learn_scales)
    if not unfolded.weights:
        reason = "it has no quantized weights; put quantize_static before quantize_aware"
        return Change(graph, skipped=(Skip(name="graph", op_type="graph", reason=reason),))
    fitted = train.learn(
        unfolded.graph,
        context.calibration,
        params,
        teacher=context.original if params.alpha < 1 else None,
        progress=partial(context.progress, "training with the rounding"),
        seed=context.seed,
        threads=context.threads,
    )
    assert fitted.graph is not None
    changed = fold(unfolded, fitted.graph)
    sites, skipped = _compared(unfolded, changed)
    if not sites:
        return Change(graph, skipped=skipped, notes=fitted.notes)
    return Change(changed, sites, skipped, (*fitted.notes, f"quantize_aware: {fitted.why}"))


def _compared(unfolded: Unfolded, after: Graph) -> tuple[tuple[Site, ...], tuple[Skip, ...]]:
    """What was learned, by layer where integers moved and by name where they did not, and what stayed."""
    before = unfolded.quantized
    op_types = {node.name: node.op_type for node in before.ir_model.graph}
    layers = {weight.integers: weight.layers for weight in unfolded.weights}
    sites, skipped = [], []
    for name, value in after.weights.items():
        old, new = (graph.weights[name].const_value for graph in (before, after))
        assert old is not None
        assert new is not None
        moved = np.not_equal(old.numpy(), new.numpy())
        if name in layers:
            for layer in layers[name]:
                op_type = op_types.get(layer, "DequantizeLinear")
                if moved.any():
                    what = f"{moved.mean():.1%} of its integers moved"
                    sites.append(Site(name=layer, op_type=op_type, what=what))
                else:
                    skipped.append(Skip(name=layer, op_type=op_type, reason="none of its integers moved"))
        elif moved.any():
            reader = next((use.node.op_type for use in value.uses()), "Constant")
            sites.append(Site(name=name, op_type=reader, what="trained"))
    return tuple(sites), tuple(skipped)
