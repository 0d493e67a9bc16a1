"""Block-wise reconstruction: each block of a quantized graph learns what the original computes in its place.

The graph that ``quantize_static`` made is cut where everything passes through one value. Block by block, in
order, its weights, biases and scales are trained through the bridge, so that its output for what the
quantized blocks before it give is nearest to the original's. No labels are needed and few samples, since a
block has few weights and each sample shows it many positions. What was learned is rounded back into the same
integers.

Sources: Li et al. 2021, "BRECQ: Pushing the Limit of Post-Training Quantization by Block Reconstruction",
section 3.2; Nagel et al. 2020, "Up or Down? Adaptive Rounding for Post-Training Quantization", section 3.2
(the asymmetric objective: quantized inputs, original outputs); Esser et al. 2020, "Learned Step Size
Quantization", eqs. 2 and 3; Bengio et al. 2013, section 4 (straight-through).
"""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Literal

import numpy as np
from pydantic import ConfigDict, Field
from pydantic.dataclasses import dataclass

from hasten.core.errors import MethodError
from hasten.core.record import Site, Skip
from hasten.graph import Graph
from hasten.methods import Change, Context, Facts
from hasten.methods._blocks.plan import make_plan
from hasten.methods._blocks.tape import drawn
from hasten.methods._blocks.walk import Lesson, Outcome, walk
from hasten.methods._qat.fold import fold
from hasten.methods._qat.unfold import Unfolded, unfold
from hasten.train.settings import Settings

FACTS = Facts(
    summary="a quantized graph trained block by block to compute what the original does there",
    exact=False,
    needs=frozenset({"calibration", "gradients"}),
    needs_float=False,
)

_EVALUATIONS = 4
"""How often a block is judged while it learns."""


@dataclass(frozen=True, kw_only=True, config=ConfigDict(extra="forbid"))
class Params:
    """Hyper-parameters of ``reconstruct``.

    steps: optimizer steps of a block. learning_rate: of weights, in steps of their rounding; it rises over
        the first twentieth and falls along a cosine.
    batch_size: samples of an optimizer step at most. positions: places (pixels, tokens) of a step that are
        enough: where a sample has many, fewer samples make up a step, two at least.
    layers: quantized layers of a block at least. samples: at most this many are learned from and judged by.
    learn_scales: also learn the scales. held_back: share of the samples that judge each block.
    device: ``auto`` is cuda when there, else cpu.
    """

    steps: Annotated[int, Field(ge=4)] = 80
    learning_rate: Annotated[float, Field(gt=0, allow_inf_nan=False)] = 0.03
    batch_size: Annotated[int, Field(ge=1)] = 32
    positions: Annotated[int, Field(ge=1)] = 2048
    layers: Annotated[int, Field(ge=1)] = 3
    samples: Annotated[int, Field(ge=2)] = 256
    learn_scales: bool = True
    held_back: Annotated[float, Field(gt=0, le=0.5)] = 0.1
    device: Literal["auto", "cpu", "cuda"] = "auto"


def apply(graph: Graph, params: Params, context: Context) -> Change:
    """Train the quantized graph block by block.

    Raises MethodError for fewer than two samples, without an original, and where either graph does not run;
    Unavailable where PyTorch or accelerate is missing.
    """
    if context.calibration is None:
        raise MethodError("reconstruct has no samples to learn from; give --data")
    if context.original is None:
        raise MethodError("reconstruct has no original to learn from")
    unfolded = unfold(graph, None, learn_scales=params.learn_scales)
    if not unfolded.weights:
        reason = "it has no quantized weights; put quantize_static before reconstruct"
        return Change(graph, skipped=(Skip(name="graph", op_type="graph", reason=reason),))
    samples = drawn(context.calibration, params.samples)
    plan = make_plan(graph, unfolded, context.original, samples, params.layers, context.threads)
    with tempfile.TemporaryDirectory(dir=context.work) as folder:
        outcomes = list(walk(plan, samples, _lesson(params, context), context, Path(folder)))
    changed = fold(graph, unfolded, plan.graph)
    sites, skipped = _told(graph, changed, unfolded, outcomes)
    notes = (f"reconstruct: {sum(o.better for o in outcomes)} of {len(outcomes)} blocks got better",)
    if not sites:
        return Change(graph, skipped=skipped, notes=notes)
    return Change(changed, sites, skipped, notes)


def _lesson(params: Params, context: Context) -> Lesson:
    settings = Settings(
        steps=params.steps,
        learning_rate=params.learning_rate,
        batch_size=params.batch_size,
        clip_norm=None,
        held_back=params.held_back,
        evaluate_every=max(1, params.steps // _EVALUATIONS),
        device=params.device,
        seed=context.seed,
        threads=context.threads,
        learn_statistics=False,
    )
    return Lesson(settings, params.positions)


def _told(
    before: Graph, after: Graph, unfolded: Unfolded, outcomes: Sequence[Outcome]
) -> tuple[tuple[Site, ...], tuple[Skip, ...]]:
    """Every layer, with its block's error before and after."""
    op_types = {node.name: node.op_type for node in before.ir_model.graph}
    block_of = {name: outcome for outcome in outcomes for name in outcome.weights}
    sites, skipped = [], []
    for weight in unfolded.weights:
        outcome = block_of.get(weight.floats)
        old, new = (graph.weights[weight.integers].const_value for graph in (before, after))
        assert old is not None
        assert new is not None
        moved = np.not_equal(old.numpy(), new.numpy()).mean()
        for layer in weight.layers:
            op_type = op_types.get(layer, "DequantizeLinear")
            if outcome is not None and outcome.better:
                what = f"{outcome}; {moved:.1%} of its integers moved"
                sites.append(Site(name=layer, op_type=op_type, what=what))
            else:
                reason = (
                    "nothing that is computed with it can be compared" if outcome is None else str(outcome)
                )
                skipped.append(Skip(name=layer, op_type=op_type, reason=reason))
    return tuple(sites), tuple(skipped)
