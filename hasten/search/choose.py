"""Which trial is best within the budget, and in which order should the holdout confirm them?"""

from __future__ import annotations

from collections.abc import Sequence

from hasten.core.budget import Budget
from hasten.core.record import Scalar, Trial

_SMALLER = 0.995
"""Part of the original's bytes that a smaller version takes at most: what differs by less is unchanged, as by
a few names or the version of the operator set."""


def within_budget(trial: Trial) -> bool:
    """Whether a trial ran, kept its quality on Selection, and may be chosen."""
    kept = trial.quality is not None and trial.quality.budget != "missed"
    return trial.status == "ok" and trial.selectable and kept


def improves(trial: Trial, baseline: Trial, budget: Budget) -> bool:
    """Whether a trial is better than the baseline at the objective, beyond doubt."""
    if budget.objective == "size":
        return is_smaller(trial, baseline)
    gain = trial.gain(budget.objective)
    return gain is not None and gain.verdict == "better"


def is_smaller(trial: Trial, baseline: Trial) -> bool:
    """Whether a trial takes fewer bytes than the baseline, by enough to be called smaller."""
    return (trial.size_bytes or 0) < _SMALLER * (baseline.size_bytes or 0)


def promises(trial: Trial, baseline: Trial, budget: Budget) -> bool:
    """Whether a trial is better than the baseline, or may be: faster by its median, by its interval perhaps.

    A trial is timed briefly. What it leaves in doubt the finalists' longer timing decides; dropped here, a
    gain of ten per cent on a noisy machine would be lost.
    """
    gain = trial.gain(budget.objective)
    doubtful = budget.objective != "size" and gain is not None and gain.median > 1.0
    return improves(trial, baseline, budget) or doubtful


def cost(trial: Trial, budget: Budget) -> float:
    """What the objective makes small: bytes, or time relative to the baseline's."""
    if budget.objective == "size":
        return float(trial.size_bytes or 0)
    gain = trial.gain(budget.objective)
    return 1.0 / gain.median if gain is not None else float("inf")


def exact_costs(trials: Sequence[Trial], target: str, budget: Budget) -> dict[Scalar | None, float]:
    """What the exact rewrites alone cost on a target, by the precision option they first ran with."""
    exact = [t for t in trials if t.target == target and len(t.recipe.steps) == 1]
    return {t.options.get("precision"): cost(t, budget) for t in reversed(exact)}


def costlier(trial: Trial, other: Trial, budget: Budget) -> bool:
    """Whether a trial costs more than another beyond doubt: at best it is slower than the other's median.

    The two were timed at different times, each beside the baseline.
    """
    ours, theirs = trial.gain(budget.objective), other.gain(budget.objective)
    if budget.objective == "size" or ours is None or theirs is None:
        return cost(trial, budget) >= cost(other, budget)
    return ours.ci95[1] < theirs.median


def ranked(trials: Sequence[Trial], baseline: Trial, budget: Budget) -> list[Trial]:
    """The trials that qualify, best first; of equals the one that loses less quality."""
    return _in_order([t for t in trials if within_budget(t) and improves(t, baseline, budget)], budget)


def contenders(trials: Sequence[Trial], baseline: Trial, budget: Budget) -> list[Trial]:
    """The trials that may turn out best when measured longer, those that promise most first."""
    return _in_order([t for t in trials if within_budget(t) and promises(t, baseline, budget)], budget)


def _in_order(trials: Sequence[Trial], budget: Budget) -> list[Trial]:
    return sorted(trials, key=lambda t: (cost(t, budget), t.quality.drop if t.quality else 0.0))


def leader(trials: Sequence[Trial], baseline: Trial, budget: Budget) -> Trial | None:
    """The best trial so far, or None while nothing beats the baseline."""
    return next(iter(ranked(trials, baseline, budget)), None)
