"""Is it still right? A candidate's outputs against the reference's, on the same samples."""

from __future__ import annotations

import math
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from hasten.core.budget import Budget
from hasten.core.data import Dataset
from hasten.core.errors import TrialError
from hasten.core.record import Flips, Quality
from hasten.measuring.metrics import Metric, Scores
from hasten.measuring.predict import Predictions
from hasten.measuring.statistics import (
    RESAMPLES,
    FloatArray,
    binary_interval,
    budget_verdict,
    percentile_interval,
    proof_n,
    resamples,
    unseen,
)

Mask: TypeAlias = NDArray[np.bool_]


def judge(
    metric: Metric,
    reference: Predictions,
    candidate: Predictions,
    data: Dataset,
    budget: Budget,
    seed: int = 0,
) -> Quality:
    """Compare a candidate's outputs with the reference's on the same samples.

    The interval of the drop is a paired bootstrap over samples. For yes-or-no scores it is widened to the
    exact (Clopper-Pearson) interval of the flips, or to Tango's where samples can flip both ways; for other
    scores of limited range that differ on no sample, to the rule of three. The reference itself has no drop
    and no interval. Raises TrialError when the outputs cannot be judged.
    """
    if len(reference) != len(candidate) or len(reference) != len(data):
        raise TrialError(
            f"{len(candidate)} answers cannot be compared with {len(reference)} for {len(data)} samples"
        )
    before = metric.scores(reference, reference, data)
    itself = candidate.key == reference.key
    after = before if itself else metric.scores(candidate, reference, data)
    worse = 1.0 if metric.higher_is_better else -1.0
    drop = worse * (before.value - after.value)
    if not math.isfinite(drop):
        raise TrialError(f"{metric.name} is not a finite number")
    flips = _flips(metric, before, after)
    low, high = (0.0, 0.0) if itself else _interval(before, after, worse, flips, seed, perfect=metric.perfect)
    low, high = min(low, drop), max(high, drop)
    allowed = budget.allowed(before.value)
    verdict = budget_verdict(drop, high, allowed)
    counts = (flips.lost, flips.gained) if flips else None
    return Quality(
        metric=metric.name,
        value=after.value,
        reference=before.value,
        drop=drop,
        ci95=(low, high),
        n=before.count,
        flips=flips,
        allowed=allowed,
        budget=verdict,
        proof_n=proof_n(drop, high, allowed, before.count, counts, perfect=metric.perfect)
        if verdict == "met on the sample, not proven"
        else None,
        details={k: v for k, v in after.details.items() if math.isfinite(v)},
    )


def flipped(
    metric: Metric, reference: Predictions, candidate: Predictions, data: Dataset
) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """The samples that were lost and those that were gained, by their numbers in the store.

    None of a metric whose scores are not right or wrong. Raises TrialError when the outputs cannot be judged.
    """
    before = metric.scores(reference, reference, data)
    after = metric.scores(candidate, reference, data)
    sides = _sides(metric, before, after)
    if sides is None:
        return (), ()
    numbers = np.asarray(data.indices)[list(before.judged) if before.judged is not None else slice(None)]
    lost, gained = (tuple(int(i) for i in numbers[side]) for side in sides)
    return lost, gained


def _sides(metric: Metric, before: Scores, after: Scores) -> tuple[Mask, Mask] | None:
    """Which samples are scored worse than before and which better; None unless scores are yes or no."""
    if not (before.binary and after.binary):
        return None
    fell, rose = _of(after) < _of(before), _of(after) > _of(before)
    return (fell, rose) if metric.higher_is_better else (rose, fell)


def _flips(metric: Metric, before: Scores, after: Scores) -> Flips | None:
    sides = _sides(metric, before, after)
    if sides is None:
        return None
    lost, gained = (int(np.count_nonzero(side)) for side in sides)
    return Flips(lost=lost, gained=gained)


def _interval(
    before: Scores, after: Scores, worse: float, flips: Flips | None, seed: int, *, perfect: bool
) -> tuple[float, float]:
    draws = min(before.draws or RESAMPLES, after.draws or RESAMPLES)
    drops = [
        worse * (before.statistic(weights) - after.statistic(weights))
        for weights in resamples(before.count, draws, seed)
    ]
    every = np.concatenate(drops)
    defined = every[np.isfinite(every)]
    if len(defined) < draws / 2:
        raise TrialError(
            f"the metric has a value for {len(defined)} of {draws} resamples only, too few to tell how sure "
            "the drop is: more samples are needed"
        )
    low, high = percentile_interval(defined)
    if flips is not None:
        exact = binary_interval(flips.lost, flips.gained, before.count, perfect=perfect)
        return min(low, exact[0]), max(high, exact[1])
    unchanged = before.per_sample is not None and np.array_equal(before.per_sample, _of(after))
    if unchanged and before.bound is not None:
        widest = before.bound * unseen(before.count)
        return (0.0 if perfect else -widest), widest
    return low, high


def _of(scores: Scores) -> FloatArray:
    assert scores.per_sample is not None
    return scores.per_sample
