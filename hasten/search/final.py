"""The last comparison side by side, and the one look at the holdout."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from hasten.core.data import Holdout
from hasten.core.errors import TrialError
from hasten.core.record import Kernel, LayerError, Quality, Scorecard, Trial
from hasten.search.candidate import Candidate
from hasten.search.choose import contenders, cost
from hasten.search.explain import quality_in_words
from hasten.search.repair import layer_errors
from hasten.search.trial import Lab

FINALISTS = 3
"""How many trials, fixed before the holdout is opened, it may be asked to confirm, best first."""
_MOST_FLIPPED = 100


@dataclass(frozen=True)
class Outcome:
    """The trial that was confirmed with its claim, or None with the reasons of those that were not.

    refused: these reasons, and what could not be found out of the confirmed one. flipped, kernels, errors: of
    the confirmed trial, as in ``Best``.
    """

    best: Trial | None
    holdout: Scorecard | None
    refused: tuple[str, ...]
    flipped: tuple[int, ...] = ()
    kernels: tuple[Kernel, ...] = ()
    errors: tuple[LayerError, ...] = ()


def finalists(
    lab: Lab, baseline: Trial, trials: Sequence[Trial], tried: Mapping[str, Candidate]
) -> list[Trial]:
    """The best trials, reordered by a comparison in the same rounds where time is the objective."""
    first = contenders(trials, baseline, lab.budget)[:FINALISTS]
    if len(first) < 2 or lab.budget.objective == "size":
        return first
    timings = lab.head_to_head([tried[t.id] for t in first])
    again = [t.model_copy(update=timings[t.id].fields) for t in first if t.id in timings]
    order = [t.id for t in sorted(again, key=lambda t: cost(t, lab.budget))]
    return sorted((t for t in first if t.id in timings), key=lambda t: order.index(t.id))


def confirm(lab: Lab, holdout: Holdout, chosen: Sequence[Trial], tried: Mapping[str, Candidate]) -> Outcome:
    """Open the holdout and confirm the first of the finalists, in order, that holds there."""
    refused: list[str] = []
    if not chosen:
        return Outcome(None, None, ())
    reference = lab.predictions(lab.baseline, holdout)
    for trial in chosen:
        subject = lab.subject(tried[trial.id])
        try:
            answers = lab.predictions(subject, holdout)
            quality = lab.judge(answers, reference, holdout)
            if quality.budget == "missed":
                refused.append(
                    f"{trial.recipe} on {trial.target} did not hold on the holdout: {_words(quality)}."
                )
                continue
            card = Scorecard(**lab.card(subject, answers, quality))
            lost, gained = lab.flipped(answers, reference, holdout)
        except TrialError as error:
            refused.append(f"{trial.recipe} on {trial.target} failed on the holdout: {error}.")
            continue
        gain = card.gain(lab.budget.objective)
        if lab.budget.objective != "size" and gain is not None and gain.verdict != "better":
            refused.append(f"{trial.recipe} on {trial.target} was not faster when measured again.")
            continue
        return _explained(lab, Outcome(trial, card, tuple(refused), (lost + gained)[:_MOST_FLIPPED]), trial)
    return Outcome(None, None, tuple(refused))


def _explained(lab: Lab, outcome: Outcome, trial: Trial) -> Outcome:
    """With what the runtime executes and each layer's error; what cannot be read does not undo the claim."""
    kernels: tuple[Kernel, ...] = ()
    errors: tuple[LayerError, ...] = ()
    unknown: list[str] = []
    try:
        kernels = lab.kernels(lab.subject(Candidate(trial.recipe, trial.target, trial.options)))
    except TrialError as error:
        unknown.append(f"What {trial.target} executes for it could not be read: {error}.")
    try:
        errors = layer_errors(lab.workshop, trial.recipe)
    except TrialError as error:
        unknown.append(f"The errors of its layers could not be measured: {error}.")
    return replace(outcome, refused=(*outcome.refused, *unknown), kernels=kernels, errors=errors)


def _words(quality: Quality) -> str:
    return f"{quality_in_words(quality)}, {quality.allowed:.4g} is allowed"
