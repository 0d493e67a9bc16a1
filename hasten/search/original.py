"""The original, measured on the same path as every candidate."""

from __future__ import annotations

from hasten import measuring
from hasten.core.errors import ModelError, TrialError
from hasten.core.recipe import Recipe
from hasten.core.record import Artifact, SourceRuntime, Trial
from hasten.measuring import Conditions, Subject
from hasten.search.advise import default_options
from hasten.search.candidate import Candidate
from hasten.search.prepare import Prepared
from hasten.search.request import Request
from hasten.search.trial import Lab

_USUAL_TARGET = "onnxruntime"
"""What an ONNX model is run with today, and so the baseline wherever it is among the targets."""


def measure_original(
    prepared: Prepared, request: Request, conditions: Conditions
) -> tuple[Lab, Trial, SourceRuntime | None]:
    """The lab that candidates are tried in, the baseline's trial, and the source framework's time.

    Raises ModelError when the original itself cannot be measured, InputError or DataError when the metric
    does not fit the outputs.
    """
    spec = next((s for s in prepared.specs if s.name == _USUAL_TARGET), prepared.specs[0])
    options = default_options(spec, conditions.threads, request.budget.objective)
    candidate = Candidate(Recipe(), spec.name, options)
    selection = prepared.roles.selection
    work = request.folder
    try:
        built = prepared.workshop.apply(candidate.recipe)
        artifact, folder = prepared.workshop.export(built, spec.name, candidate.options, {}, candidate.id)
        subject = Subject(artifact, folder, "original")
        predictions = measuring.predict(subject, selection, conditions, work / "predictions")
        lab = Lab(
            workshop=prepared.workshop,
            selection=selection,
            metric=measuring.resolve(request.metric, selection, predictions),
            conditions=conditions,
            budget=request.budget,
            work=work,
            runtimes={s.name: f"{s.runtime} {s.version}" for s in prepared.specs},
            original=candidate,
            baseline=subject,
            baseline_predictions=predictions,
        )
        found = lab.card(subject, predictions, lab.judge(predictions, predictions, selection))
        cost = prepared.workshop.cost(built)
    except TrialError as error:
        raise ModelError(f"the original cannot be measured: {error}") from error
    found |= {"macs": cost.macs, "parameters": cost.parameters, "nonzero_parameters": cost.nonzero_parameters}
    trial = lab.trial(candidate, status="ok", artifact=artifact, **found)
    return lab, trial, _source_runtime(prepared, lab)


def _source_runtime(prepared: Prepared, lab: Lab) -> SourceRuntime | None:
    """The framework the model came from, timed beside the baseline; None where there is nothing to time."""
    program = prepared.loaded.eager
    if program is None:
        return None
    eager = Subject(Artifact(target="torch", entry=program.name), program.parent, "PyTorch eager")
    [_, timing] = measuring.time_interleaved([lab.baseline, eager], lab.selection, lab.conditions)
    if isinstance(timing, TrialError):
        return None
    return SourceRuntime(name=eager.name, latency_ms=timing.latency_ms, speedup=timing.speedup)
