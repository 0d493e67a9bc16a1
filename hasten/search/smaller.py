"""Smaller structures of the best version so far: narrower layers, fewer of them, thinner factors.

Each family makes the model smaller by a share, before whatever else the best recipe does. Where that loses
too much, the smaller model learns from the original, if samples and time allow; where that holds, more is
taken, otherwise less.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from time import monotonic

from hasten.core.errors import TrialError
from hasten.core.recipe import Recipe, Step
from hasten.core.record import Trial
from hasten.search.candidate import Candidate
from hasten.search.choose import cost, leader, within_budget
from hasten.search.learn import distill, finetune, reconstruct
from hasten.search.trial import Lab

_FIRST = 0.75
"""Share of the multiply-accumulates, heads or branches that is left at first."""
_LADDER = 4
"""Shares that are tried of one family."""
_MOST = 0.93
"""A share beyond saves less than timing can tell."""
_EXACT = "optimize_graph"
_SHRINKING = frozenset({"prune_channels", "prune_heads", "prune_layers", "factorize"})
_LEARNING = frozenset({"reconstruct", "distill", "finetune"})
"""What teaches a smaller model, directly behind the last of what made it smaller."""


@dataclass(frozen=True, kw_only=True)
class Shrinker:
    """Proposes smaller structures. Fields as of ``Proposer``."""

    lab: Lab
    baseline: Trial
    samples: int
    labelled: bool
    deadline: float

    def propose(self, done: Sequence[Trial]) -> Iterator[Candidate]:
        """Yield what to try next; the caller tries it and appends the trial to ``done``."""
        if not self.samples:
            return
        for family in ("narrower", "shallower", "thinner"):
            yield from self._ladder(family, done)

    def _ladder(self, family: str, done: Sequence[Trial]) -> Iterator[Candidate]:
        share = _FIRST
        for _ in range(_LADDER):
            best = leader(done, self.baseline, self.lab.budget)
            place = best or self.baseline
            steps = self._steps(family, share)
            if not steps or share > _MOST:
                return
            recipe = _with(place.recipe, steps)
            candidate = Candidate(recipe, place.target, place.options)
            yield candidate
            trial = _found(done, candidate)
            if trial is None or trial.quality is None:
                return
            if best is not None and self._cost(trial) >= self._cost(best):
                return  # smaller, and not faster: less of it would be no faster either
            if not within_budget(trial):
                for mended in self._recovered(recipe):
                    taught = replace(candidate, recipe=mended)
                    yield taught
                    trial = _found(done, taught) or trial
                    if within_budget(trial):
                        break
            share = share * _FIRST if within_budget(trial) else (1 + share) / 2

    def _steps(self, family: str, share: float) -> tuple[Step, ...]:
        """The family's steps that change this model."""
        steps = {
            "narrower": (
                Step("prune_channels", {"macs": round(share, 3)}),
                Step("prune_heads", {"heads": round(share, 3)}),
            ),
            "shallower": (Step("prune_layers", {"ratio": round(1 - share, 3)}),),
            "thinner": (Step("factorize", {"macs": round(share, 3)}),),
        }[family]
        return tuple(step for step in steps if self._changes(step))

    def _changes(self, step: Step) -> bool:
        try:
            return self.lab.workshop.apply(Recipe((Step(_EXACT), step))).last_effective
        except TrialError:
            return False

    def _recovered(self, recipe: Recipe) -> Iterator[Recipe]:
        """The recipe in which the smaller model learns: by blocks, from the answers, then from labels."""
        if self.baseline.latency_ms is None:
            return
        inference_ms = self.baseline.latency_ms.median / self.lab.conditions.batch
        at = 1 + max(i for i, step in enumerate(recipe.steps) if step.method in _SHRINKING)
        for learn in (reconstruct, distill, finetune) if self.labelled else (reconstruct, distill):
            step = learn(self.samples, inference_ms, self.deadline - monotonic())
            if step is not None:
                yield Recipe((*recipe.steps[:at], step, *recipe.steps[at:]))

    def _cost(self, trial: Trial) -> float:
        return cost(trial, self.lab.budget)


def _with(recipe: Recipe, steps: tuple[Step, ...]) -> Recipe:
    """The recipe with these steps behind the exact ones, in place of others of the same methods.

    What it had learned since it was made smaller falls away; what a quantized one learned stays.
    """
    ours = {step.method for step in steps}
    before = (None, *(step.method for step in recipe.steps))
    rest = [
        step
        for step, last in zip(recipe.steps, before, strict=False)
        if step.method not in ours and not (step.method in _LEARNING and last in _SHRINKING)
    ]
    at = 1 if rest and rest[0].method == _EXACT else 0
    return Recipe((*rest[:at], *([] if at else [Step(_EXACT)]), *steps, *rest[at:]))


def _found(done: Sequence[Trial], candidate: Candidate) -> Trial | None:
    return next((trial for trial in reversed(done) if trial.id == candidate.id), None)
