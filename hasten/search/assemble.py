"""Everything a run found becomes its record."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Literal

from hasten import __version__, measuring
from hasten.core.budget import Objective
from hasten.core.layers import Blocks
from hasten.core.record import Best, BudgetInfo, Considered, ModelInfo, RunRecord, SourceRuntime, Trial
from hasten.search.explain import headline, no_gain, shape_gain
from hasten.search.final import Outcome
from hasten.search.machine import describe_machine
from hasten.search.prepare import Prepared
from hasten.search.request import Request
from hasten.search.trial import Lab


@dataclass(frozen=True, kw_only=True)
class Findings:
    """What a run found, in the order in which it found it."""

    baseline: Trial
    source: SourceRuntime | None
    considered: tuple[Considered, ...]
    blocks: tuple[Blocks, ...]
    trials: tuple[Trial, ...]
    outcome: Outcome


def assemble(request: Request, prepared: Prepared, lab: Lab, found: Findings) -> RunRecord:
    """The record of a finished run; files and seconds are filled in when it is saved."""
    baseline, trials, outcome = found.baseline, found.trials, found.outcome
    reasons = [*outcome.reasons, *shape_gain(trials)]
    best = None
    if outcome.best is not None and outcome.holdout is not None:
        layers = prepared.workshop.cost(prepared.workshop.apply(outcome.best.recipe)).layers
        best = Best(
            trial=outcome.best.id,
            holdout=outcome.holdout,
            layers=layers,
            kernels=outcome.kernels,
            flipped=outcome.flipped,
            errors=outcome.errors,
        )
    else:
        why = no_gain(
            prepared.facts,
            prepared.specs,
            baseline,
            trials,
            objective=request.budget.objective,
            considered=found.considered,
        )
        reasons = [*why, *reasons]
    return RunRecord(
        hasten_version=__version__,
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        seconds=0.0,
        machine=describe_machine(),
        model=_model_info(prepared, baseline),
        data=prepared.data_info,
        budget=_budget_info(request, lab),
        baseline=baseline,
        source=found.source,
        trials=trials,
        considered=found.considered,
        blocks=found.blocks,
        finalists=outcome.finalists,
        best=best,
        verdict=_verdict(outcome, request.budget.objective),
        headline=headline(outcome.best, baseline, outcome.holdout, request.budget),
        reasons=tuple(reasons),
    )


def _verdict(outcome: Outcome, objective: Objective) -> Literal["faster", "smaller", "kept"]:
    if outcome.best is None or outcome.holdout is None:
        return "kept"
    gain = outcome.holdout.gain(objective)
    return "faster" if gain is not None and gain.verdict == "better" else "smaller"


def _model_info(prepared: Prepared, baseline: Trial) -> ModelInfo:
    graph = prepared.graph
    return ModelInfo(
        sha256=graph.fingerprint,
        source=prepared.loaded.source,
        format=prepared.loaded.format,
        inputs=tuple(str(spec) for spec in graph.inputs),
        outputs=tuple(str(spec) for spec in graph.outputs),
        opset=graph.opset,
        parameters=graph.parameters,
        macs=baseline.macs,
        size_bytes=baseline.size_bytes or 0,
        layers=prepared.workshop.cost(prepared.workshop.apply(baseline.recipe)).layers,
        notes=prepared.loaded.notes,
    )


def _budget_info(request: Request, lab: Lab) -> BudgetInfo:
    return BudgetInfo(
        max_drop=request.budget.max_drop,
        points=request.budget.points,
        time_s=request.budget.time_s,
        objective=request.budget.objective,
        target=request.target,
        metric=lab.metric.name,
        metric_asked=measuring.recorded(request.metric),
        batch=request.batch,
        threads=lab.conditions.threads,
        seed=request.seed,
        shapes={name: "x".join(map(str, shape)) for name, shape in request.shapes.items()},
        inputs=request.inputs,
    )
