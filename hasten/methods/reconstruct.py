"""Block-wise reconstruction: each block of a changed graph learns what the original computes in its place.

The graph, quantized or with fewer channels, layers or ranks, is cut where everything passes through one
value. Block by block, in order, its weights, biases and scales are trained through the bridge, so that its
output for what the changed blocks before it give is nearest to the original's. No labels are needed and few
samples, since a block has few weights and each sample shows it many positions. What a quantized graph learned
is rounded back into the same integers.

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

from pydantic import ConfigDict, Field
from pydantic.dataclasses import dataclass

from hasten.core.data import Calibration
from hasten.core.errors import MethodError
from hasten.core.record import Site, Skip
from hasten.graph import Graph
from hasten.methods import Change, Context, Facts
from hasten.methods._blocks.counterpart import unchanged
from hasten.methods._blocks.floats import Floats
from hasten.methods._blocks.plan import make_plan
from hasten.methods._blocks.rounded import Rounded
from hasten.methods._blocks.student import Student
from hasten.methods._blocks.tape import drawn, units
from hasten.methods._blocks.walk import Lesson, Outcome, walk
from hasten.methods._qat.unfold import unfold
from hasten.train.settings import Settings

FACTS = Facts(
    summary="a quantized or smaller graph trained block by block to compute what the original does there",
    exact=False,
    needs=frozenset({"calibration", "gradients"}),
    needs_float=False,
)

_EVALUATIONS = 4
"""How often a block is judged while it learns."""


@dataclass(frozen=True, kw_only=True, config=ConfigDict(extra="forbid"))
class Params:
    """Hyper-parameters of ``reconstruct``.

    steps: optimizer steps of a block. learning_rate: of weights, in steps of their rounding, of floats in
        quarters of a channel's largest; it rises over the first twentieth and falls along a cosine.
    batch_size: samples of an optimizer step at most. positions: places (pixels, tokens) of a step that are
        enough: where a sample has many, fewer samples make up a step, two at least.
    layers: layers that learn, of a block at least. samples: at most this many are learned from and judged by.
    learn_scales: also learn the scales of roundings. held_back: share of the samples that judge each block.
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
    """Train the graph block by block.

    Raises MethodError for fewer samples than twice what the model takes at a time, without an original, and
    where either graph does not run; Unavailable where PyTorch or accelerate is missing.
    """
    if context.calibration is None:
        raise MethodError("reconstruct has no samples to learn from; give --data")
    if context.original is None:
        raise MethodError("reconstruct has no original to learn from")
    samples = drawn(context.calibration, params.samples)
    size = samples.fixed_batch(graph.inputs) or 1
    if len(samples) < 2 * size:
        raise MethodError(
            f"the model takes {size} samples at a time, and reconstruct learns from some and judges by "
            f"others: it needs {2 * size} samples and has {len(samples)}"
        )
    student = _student(graph, params)
    reason = _nothing_to_learn(student, graph, context.original, samples)
    if reason:
        return Change(graph, skipped=(Skip(name="graph", op_type="graph", reason=reason),))
    plan = make_plan(student, context.original, samples, params.layers, context.threads)
    with tempfile.TemporaryDirectory(dir=context.work) as folder:
        outcomes = list(walk(plan, samples, _lesson(params, context), context, Path(folder)))
    changed = student.finished()
    sites, skipped = _told(student, changed, outcomes)
    notes = (f"reconstruct: {sum(o.better for o in outcomes)} of {len(outcomes)} blocks got better",)
    if not sites:
        return Change(graph, skipped=skipped, notes=notes)
    return Change(changed, sites, skipped, notes)


def _student(graph: Graph, params: Params) -> Student:
    unfolded = unfold(graph, None, learn_scales=params.learn_scales)
    return Rounded(unfolded) if unfolded.weights else Floats(graph)


def _nothing_to_learn(student: Student, graph: Graph, original: Graph, samples: Calibration) -> str | None:
    """Why there is nothing to do; None where there is."""
    if not student.layers:
        return "it has no layers whose weights are integers or floats of 32 bits"
    if isinstance(student, Floats) and unchanged(graph, original, next(units(samples, graph))):
        return "it computes what the original does; put reconstruct after a method that changes it"
    return None


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
    student: Student, after: Graph, outcomes: Sequence[Outcome]
) -> tuple[tuple[Site, ...], tuple[Skip, ...]]:
    """Every layer, with its block's error before and after."""
    block_of = {name: outcome for outcome in outcomes for name in outcome.weights}
    sites, skipped = [], []
    for moved in student.moved(after):
        outcome = block_of.get(moved.weight)
        if outcome is not None and outcome.better:
            what = f"{outcome}; {moved.what}"
            sites.append(Site(name=moved.layer, op_type=moved.op_type, what=what))
        else:
            reason = "nothing that is computed with it can be compared" if outcome is None else str(outcome)
            skipped.append(Skip(name=moved.layer, op_type=moved.op_type, reason=reason))
    return tuple(sites), tuple(skipped)
