"""The last comparison side by side, and the one look at the holdout."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from hasten.core.data import Holdout
from hasten.core.errors import TrialError
from hasten.core.layers import Kernel, LayerError
from hasten.core.record import Finalist, Quality, Scorecard, Trial
from hasten.search.candidate import Candidate
from hasten.search.choose import contenders, cost
from hasten.search.explain import quality_in_words
from hasten.search.layers import layer_errors
from hasten.search.trial import Lab

FINALISTS = 3
"""How many trials, fixed before the holdout is opened, it may be asked to confirm, best first."""
_MOST_FLIPPED = 100


@dataclass(frozen=True)
class Outcome:
    """The trial that was confirmed with its claim, or None; and what became of each finalist.

    unknown: what could not be found out of the confirmed one. flipped, kernels, errors: of the confirmed
    trial, as in ``Best``.
    """

    best: Trial | None = None
    holdout: Scorecard | None = None
    finalists: tuple[Finalist, ...] = ()
    unknown: tuple[str, ...] = ()
    flipped: tuple[int, ...] = ()
    kernels: tuple[Kernel, ...] = ()
    errors: tuple[LayerError, ...] = ()

    @property
    def reasons(self) -> tuple[str, ...]:
        """Why finalists were refused, and what is not known of the confirmed one."""
        refused = (f"{f.reason}." for f in self.finalists if f.reason is not None)
        return (*refused, *self.unknown)


def finalists(
    lab: Lab, baseline: Trial, trials: Sequence[Trial], tried: Mapping[str, Candidate]
) -> list[Finalist]:
    """The best trials, reordered by a comparison in the same rounds where time is the objective.

    One that fails there comes last.
    """
    first = contenders(trials, baseline, lab.budget)[:FINALISTS]
    if len(first) < 2 or lab.budget.objective == "size":
        return [Finalist(trial=trial.id) for trial in first]
    timings = lab.head_to_head([tried[t.id] for t in first])
    again = [t.model_copy(update=timings[t.id].fields) for t in first if t.id in timings]
    timed = [
        Finalist(trial=t.id, speedup=t.speedup, throughput_gain=t.throughput_gain)
        for t in sorted(again, key=lambda t: cost(t, lab.budget))
    ]
    failed = [
        Finalist(
            trial=t.id, outcome="failed", reason=f"{t.recipe} on {t.target} failed when it was timed again"
        )
        for t in first
        if t.id not in timings
    ]
    return [*timed, *failed]


def confirm(
    lab: Lab,
    holdout: Holdout,
    chosen: Sequence[Finalist],
    tried: Mapping[str, tuple[Candidate, Trial]],
) -> Outcome:
    """Open the holdout and confirm the first of the finalists, in order, that holds there."""
    if not chosen:
        return Outcome()
    reference = lab.predictions(lab.baseline, holdout)
    asked = list(chosen)
    for number, finalist in enumerate(chosen):
        if finalist.outcome == "failed":
            continue
        candidate, trial = tried[finalist.trial]
        subject = lab.subject(candidate)
        where = f"{trial.recipe} on {trial.target}"
        outcome: Literal["refused", "failed"] = "refused"
        try:
            answers = lab.predictions(subject, holdout)
            quality = lab.judge(answers, reference, holdout)
            if quality.budget == "missed":
                reason = f"{where} did not hold on the holdout: {_words(quality)}"
            else:
                card = Scorecard(**lab.card(subject, answers, quality))
                gain = card.gain(lab.budget.objective)
                if lab.budget.objective == "size" or gain is None or gain.verdict == "better":
                    asked[number] = finalist.model_copy(update={"outcome": "confirmed"})
                    lost, gained = lab.flipped(answers, reference, holdout)
                    flipped = (lost + gained)[:_MOST_FLIPPED]
                    return _explained(lab, Outcome(trial, card, tuple(asked), flipped=flipped), trial)
                reason = f"{where} gained nothing when measured again"
        except TrialError as error:
            outcome, reason = "failed", f"{where} failed on the holdout: {error}"
        asked[number] = finalist.model_copy(update={"outcome": outcome, "reason": reason})
    return Outcome(finalists=tuple(asked))


def _explained(lab: Lab, outcome: Outcome, trial: Trial) -> Outcome:
    """With what the runtime executes and each layer's error; what cannot be read does not undo the claim."""
    kernels: tuple[Kernel, ...] = ()
    errors: tuple[LayerError, ...] = ()
    unknown: list[str] = []
    try:
        (kernels,) = lab.kernels(lab.subject(Candidate(trial.recipe, trial.target, trial.options)))
    except TrialError as error:
        unknown.append(f"What {trial.target} executes for it could not be read: {error}.")
    try:
        errors = layer_errors(lab.workshop, trial.recipe)
    except TrialError as error:
        unknown.append(f"The errors of its layers could not be measured: {error}.")
    return replace(outcome, unknown=tuple(unknown), kernels=kernels, errors=errors)


def _words(quality: Quality) -> str:
    return f"{quality_in_words(quality)}, {quality.allowed:.4g} is allowed"
