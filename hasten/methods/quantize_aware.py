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
from typing import Annotated, Literal

from pydantic import ConfigDict, Field
from pydantic.dataclasses import dataclass

from hasten import train
from hasten.core.errors import MethodError
from hasten.core.record import Site, Skip
from hasten.graph import Graph
from hasten.methods import Change, Context, Facts
from hasten.methods._qat.fold import fold
from hasten.methods._qat.unfold import Unfolded, unfold

FACTS = Facts(
    summary="a quantized graph trained with its rounding, the original as its teacher",
    exact=False,
    needs=frozenset({"calibration", "gradients"}),
    needs_float=False,
)


@dataclass(frozen=True, kw_only=True, config=ConfigDict(extra="forbid"))
class Params:
    """Hyper-parameters of ``quantize_aware``.

    epochs: passes over the calibration samples. batch_size: samples of an optimizer step.
    learning_rate: of weights, after a warm-up; it falls along a cosine. learn_scales: also learn the scales.
    alpha: share of the labels' loss; 0 learns from the original alone, without labels, 1 from labels.
    temperature: that soften the teacher's class scores. augment: what is done to pictures.
    held_back: share of the samples that only choose the best weights. precision: of the arithmetic.
    device: ``auto`` takes a GPU where there is one.
    """

    epochs: Annotated[float, Field(gt=0)] = 4.0
    batch_size: Annotated[int, Field(ge=1)] = 32
    learning_rate: Annotated[float, Field(gt=0)] = 5e-5
    optimizer: Literal["adamw", "sgd"] = "adamw"
    learn_scales: bool = True
    alpha: Annotated[float, Field(ge=0, le=1)] = 0.0
    temperature: Annotated[float, Field(gt=0)] = 4.0
    augment: tuple[Literal["flip", "crop"], ...] = ()
    held_back: Annotated[float, Field(ge=0, le=0.5)] = 0.1
    precision: Literal["float32", "bfloat16", "float16"] = "float32"
    device: Literal["auto", "cpu", "cuda"] = "auto"


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
    changed = fold(graph, unfolded, fitted.graph)
    return Change(changed, _sites(unfolded), notes=tuple(fitted.notes))


def _sites(unfolded: Unfolded) -> tuple[Site, ...]:
    learned = set(unfolded.scales)
    return tuple(
        Site(
            name=layer,
            op_type="DequantizeLinear",
            what="weights learned with their rounding" + (", and their scales" if w.scale in learned else ""),
        )
        for w in unfolded.weights
        for layer in w.layers
    )
