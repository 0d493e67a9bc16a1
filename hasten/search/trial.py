"""A candidate becomes a trial: built, exported, judged on Selection, timed beside the baseline."""

from __future__ import annotations

import time
from dataclasses import dataclass, field, replace
from math import inf
from pathlib import Path
from statistics import median
from typing import Any

from hasten import measuring
from hasten.core.budget import Budget
from hasten.core.data import Dataset
from hasten.core.errors import TrialError
from hasten.core.layers import Kernel
from hasten.core.record import Quality, Trial
from hasten.measuring import Conditions, Metric, Predictions, Subject
from hasten.search.build import Built, Workshop
from hasten.search.candidate import CLEAN, Candidate

_BUSY = 1.5
"""Times the baseline's usual latency beyond which the machine was busy with something else."""


@dataclass(frozen=True, kw_only=True)
class Lab:
    """Everything a trial needs: the workshop that builds, the baseline to compare with, the conditions.

    selection: the data candidates are compared on. runtimes: target name to runtime name and version.
    usual_ms: the baseline's latency in the trials so far.
    """

    workshop: Workshop
    selection: Dataset
    metric: Metric
    conditions: Conditions
    budget: Budget
    work: Path
    runtimes: dict[str, str]
    original: Candidate
    baseline: Subject
    baseline_predictions: Predictions
    usual_ms: list[float] = field(default_factory=list)

    def run(self, candidate: Candidate) -> Trial:
        """Try one candidate; whatever fails becomes the reason of a failed trial."""
        began = time.monotonic()
        try:
            built = self.workshop.apply(candidate.recipe)
            reason = self._without_effect(candidate, built)
            found = {"status": "no effect", "reason": reason} if reason else self._measured(candidate, built)
            found |= {"sites": built.sites, "skipped": built.skipped, "notes": built.notes}
        except TrialError as error:
            found = {"status": "failed", "reason": str(error)}
        return self.trial(candidate, seconds=time.monotonic() - began, **found)

    def trial(self, candidate: Candidate, **found: Any) -> Trial:
        """The record of a candidate with what was found."""
        return Trial(
            id=candidate.id,
            recipe=candidate.recipe,
            target=candidate.target,
            runtime=self.runtimes[candidate.target],
            options=dict(candidate.options),
            selectable=candidate.selectable,
            **found,
        )

    def _without_effect(self, candidate: Candidate, built: Built) -> str | None:
        """Why a candidate need not be measured, or None."""
        steps = candidate.recipe.steps
        if not steps or built.last_effective:
            return None
        original = self.original
        same_runtime = candidate.target == original.target and candidate.options == original.options
        if [step.method for step in steps] == [CLEAN.method] and not same_runtime:
            return None  # it is the original on another runtime, which is worth a trial
        return f"{steps[-1].method} changed nothing in this model"

    def subject(self, candidate: Candidate) -> Subject:
        """The exported files of a candidate; raises TrialError."""
        built = self.workshop.apply(candidate.recipe)
        artifact, folder = self.workshop.export(
            built, candidate.target, candidate.options, candidate.shapes, candidate.id
        )
        return Subject(artifact, folder, str(candidate))

    def _measured(self, candidate: Candidate, built: Built) -> dict[str, Any]:
        subject = self.subject(candidate)
        found: dict[str, Any] = {"artifact": subject.artifact, "status": "ok"}
        cost = self.workshop.cost(built)
        found |= {
            "macs": cost.macs,
            "parameters": cost.parameters,
            "nonzero_parameters": cost.nonzero_parameters,
        }
        if candidate.shapes:
            # Fixing shapes does not change the arithmetic; the question is the time alone.
            return found | self.card(subject, None, None)
        answers = self.predictions(subject, self.selection)
        quality = self.judge(answers, self.baseline_predictions, self.selection)
        if quality.budget == "missed":
            found |= {"status": "rejected", "reason": too_much(quality)}
        return found | self.card(subject, answers, quality)

    def judge(self, answers: Predictions, reference: Predictions, data: Dataset) -> Quality:
        """Quality of answers on a role, against the original's on the same samples; raises TrialError."""
        return measuring.judge(self.metric, reference, answers, data, self.budget, self.conditions.seed)

    def predictions(self, subject: Subject, data: Dataset) -> Predictions:
        """The subject's answers to every sample of a role; raises TrialError."""
        return measuring.predict(subject, data, self.conditions, self.work / "predictions")

    def flipped(
        self, answers: Predictions, reference: Predictions, data: Dataset
    ) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """Numbers of the samples of a role that were lost and gained; raises TrialError."""
        return measuring.flipped(self.metric, reference, answers, data)

    def kernels(self, *subjects: Subject) -> list[tuple[Kernel, ...]]:
        """What the runtime executes for each subject, on a batch of Selection; raises TrialError."""
        return measuring.kernels(subjects, self.selection, self.conditions, self.work / "kernels")

    def card(self, subject: Subject, answers: Predictions | None, quality: Quality | None) -> dict[str, Any]:
        """The fields of a Scorecard; timing is made beside the baseline. Raises TrialError."""
        size_bytes, size_zstd_bytes = measuring.sizes(subject.artifact, subject.folder)
        card: dict[str, Any] = {
            "size_bytes": size_bytes,
            "size_zstd_bytes": size_zstd_bytes,
            "quality": quality,
        }
        if answers is not None:
            card |= {"load_ms": answers.load_ms, "peak_memory_bytes": answers.peak_memory_bytes}
        conditions = self.conditions
        if quality is not None and quality.budget == "missed":
            # Its speed is only needed to see whether a repair would pay.
            conditions = replace(conditions, time_limit_s=conditions.time_limit_s / 3)
        return card | self._timed(subject, conditions).fields

    def _timed(self, subject: Subject, conditions: Conditions) -> measuring.Timing:
        """The time beside the baseline's; once more where the baseline took far longer than in other trials.

        Then something else was running, and that does not slow down all alike: one lucky ratio would lead the
        search astray. Raises TrialError.
        """
        timing = self._beside_baseline(subject, conditions)
        if timing.reference_ms.median > _BUSY * median(self.usual_ms or [inf]):
            again = self._beside_baseline(subject, conditions)
            timing = min(timing, again, key=lambda each: each.reference_ms.median)
        self.usual_ms.append(timing.reference_ms.median)
        return timing

    def _beside_baseline(self, subject: Subject, conditions: Conditions) -> measuring.Timing:
        timing = measuring.time_interleaved([self.baseline, subject], self.selection, conditions)[1]
        if isinstance(timing, TrialError):
            raise timing
        return timing

    def head_to_head(self, candidates: list[Candidate]) -> dict[str, measuring.Timing]:
        """Time candidates and the baseline in the same rounds; those that fail are left out."""
        subjects = [self.baseline, *(self.subject(c) for c in candidates)]
        timings = measuring.time_interleaved(subjects, self.selection, self.conditions)
        return {
            c.id: t for c, t in zip(candidates, timings[1:], strict=True) if not isinstance(t, TrialError)
        }


def too_much(quality: Quality) -> str:
    """Why a trial was rejected, with the figures."""
    low, high = quality.ci95
    moves = "rises" if quality.value > quality.reference else "falls"  # an error that gets worse rises
    return (
        f"{quality.metric} {moves} by {quality.drop:.4g} "
        f"(95 % interval {low:.4g} to {high:.4g}, n = {quality.n}); "
        f"{quality.allowed:.4g} is allowed"
    )
