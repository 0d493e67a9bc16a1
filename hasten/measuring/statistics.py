"""What may be said about a drop or a ratio, given these samples?

Intervals are percentile bootstraps (Efron, 1979) with seeded resamples: the statistic is computed on samples
drawn with replacement, the same draws for both subjects, and the middle 95 % of the differences is the
interval. A resample is a row of *weights*: how often each sample was drawn. Where the bootstrap overclaims,
with few or no changed samples (the resamples of no change are no change), exact or score intervals for
proportions widen it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from hasten.core.record import BudgetVerdict

FloatArray: TypeAlias = NDArray[np.float64]
Statistic: TypeAlias = Callable[[FloatArray], FloatArray]
"""Weights of shape (resamples, samples) to one value a resample; a row of ones is the sample itself."""

RESAMPLES = 2000
_Z = 1.959963984540054
"""The 97.5 % point of the normal distribution: both tails together hold 5 %."""
_TAIL = 0.025
_PROCESS_SPREAD, _PRIOR_PROCESSES = 0.015, 3
"""By how much processes of one model differ (standard deviation of the log ratio of two; 0.005 to 0.02 were
measured for ONNX Runtime and OpenVINO on small models), and how many processes that knowledge is worth."""
_MOST_ELEMENTS = 4_000_000
"""Weights held at once: 32 MB."""


def resamples(count: int, draws: int, seed: int) -> Iterator[FloatArray]:
    """Blocks of bootstrap weights: ``draws`` rows of ``count`` columns in all, each summing to ``count``."""
    rng = np.random.default_rng(seed)
    block = max(1, min(draws, _MOST_ELEMENTS // max(count, 1)))
    for start in range(0, draws, block):
        rows = min(block, draws - start)
        drawn = rng.integers(0, count, size=(rows, count))
        drawn += np.arange(rows)[:, None] * count
        counted = np.bincount(drawn.ravel(), minlength=rows * count)
        yield counted.reshape(rows, count).astype(np.float64)


def percentile_interval(values: FloatArray) -> tuple[float, float]:
    """The middle 95 % of bootstrap values."""
    low, high = np.percentile(values, [100 * _TAIL, 100 * (1 - _TAIL)])
    return float(low), float(high)


def bootstrap(statistic: Statistic, count: int, seed: int, draws: int = RESAMPLES) -> tuple[float, float]:
    """The 95 % interval of a statistic of ``count`` samples."""
    return percentile_interval(
        np.concatenate([statistic(weights) for weights in resamples(count, draws, seed)])
    )


def median_interval(values: FloatArray, seed: int, draws: int = RESAMPLES) -> tuple[float, float]:
    """The 95 % bootstrap interval of the median of a few values (rounds of timing)."""
    rng = np.random.default_rng(seed)
    drawn = rng.integers(0, len(values), size=(draws, len(values)))
    return percentile_interval(np.median(np.asarray(values)[drawn], axis=1))


def process_interval(lives: Sequence[FloatArray], seed: int) -> tuple[float, float]:
    """The 95 % interval of positive values measured in several processes; ``lives``: a process's rounds each.

    Rounds in one process share its luck (Kalibera and Jones, "Rigorous benchmarking in reasonable time",
    2013), so the processes, not the rounds, are the sample: Student's interval of the mean of their log
    medians. Few processes tell little about how much processes differ, so their variance is pooled with a
    prior worth ``_PRIOR_PROCESSES``; it is joined with the bootstrap over rounds, which is the wider of the
    two when the rounds themselves are few and noisy.
    """
    from scipy.special import stdtrit

    middles = np.log([np.median(life) for life in lives])
    count = len(middles)
    freedom = _PRIOR_PROCESSES + count - 1
    squares = _PRIOR_PROCESSES * _PROCESS_SPREAD**2 + float(np.sum(np.square(middles - middles.mean())))
    half = float(stdtrit(freedom, 1 - _TAIL)) * math.sqrt(squares / freedom / count)
    centre = float(middles.mean())
    low, high = median_interval(np.concatenate(lives), seed)
    return min(low, math.exp(centre - half)), max(high, math.exp(centre + half))


def weighted_mean(scores: FloatArray) -> Statistic:
    """The mean of per-sample scores as a statistic."""
    return lambda weights: np.asarray(weights @ scores / weights.sum(axis=1))


def clopper_pearson(events: float, count: float) -> tuple[float, float]:
    """The exact 95 % interval of a proportion (Clopper and Pearson, 1934); no event: 0 to about 3.7/count.

    Its ends are quantiles of beta distributions, which also take the fractions of an extrapolated count.
    """
    from scipy.special import betaincinv

    low = float(betaincinv(events, count - events + 1, _TAIL)) if events > 0 else 0.0
    high = float(betaincinv(events + 1, count - events, 1 - _TAIL)) if events < count else 1.0
    return low, high


def tango(lost: float, gained: float, count: float) -> tuple[float, float]:
    """The 95 % score interval of (lost - gained) / count for paired yes-or-no scores.

    Tango, "Equivalence test and confidence interval for the difference in proportions for the paired-sample
    design", Statistics in Medicine 17 (1998), equations (8)-(11). It holds its level with few or no flips,
    where the bootstrap does not: without any it is ±z²/(count + z²).
    """
    estimate = (lost - gained) / count

    def score(delta: float) -> float:
        a = 2 * count
        b = -lost - gained + (2 * count - lost + gained) * delta
        c = -gained * delta * (1 - delta)
        rate = (math.sqrt(max(b * b - 4 * a * c, 0.0)) - b) / (2 * a)
        variance = count * (2 * rate + delta * (1 - delta))
        if variance <= 0:
            return 0.0 if lost - gained == count * delta else math.copysign(math.inf, estimate - delta)
        return (lost - gained - count * delta) / math.sqrt(variance)

    return (
        _crossing(lambda d: score(d) - _Z, -1.0, estimate),
        _crossing(lambda d: score(d) + _Z, estimate, 1.0),
    )


def _crossing(falling: Callable[[float], float], low: float, high: float) -> float:
    """Where a falling function crosses zero, by bisection to about 1e-12."""
    for _ in range(40):
        middle = (low + high) / 2
        if falling(middle) > 0:
            low = middle
        else:
            high = middle
    return (low + high) / 2


def binary_interval(lost: float, gained: float, count: float, *, perfect: bool) -> tuple[float, float]:
    """The interval of the drop of yes-or-no scores from its flips.

    perfect: the reference scores yes on every sample by definition (agreement with itself), so that nothing
    can be gained and the drop is a plain proportion.
    """
    return clopper_pearson(lost, count) if perfect else tango(lost, gained, count)


def unseen(count: int) -> float:
    """The rule of three: the largest share that may differ, 97.5 % sure, when none of ``count`` did."""
    return float(1 - _TAIL ** (1 / count))


def budget_verdict(drop: float, high: float, allowed: float) -> BudgetVerdict:
    """Whether a drop with this upper bound keeps within what is allowed."""
    # A drop on the line is within it; one part in 10^9 is the rounding of the division that made it.
    slack = 1e-9 * max(abs(allowed), 1e-12)
    if high <= allowed + slack:
        return "met"
    return "met on the sample, not proven" if drop <= allowed + slack else "missed"


def proof_n(
    drop: float, high: float, allowed: float, count: int, flips: tuple[int, int] | None, *, perfect: bool
) -> int | None:
    """About how many samples would prove a drop that is within budget on these.

    It assumes the same shares of flips, or the same spread, in more samples. None when it is proven already,
    or no number would do since the drop uses the budget up.
    """
    if drop >= allowed or high <= allowed:
        return None
    if flips is None:
        return math.ceil(count * ((high - drop) / (allowed - drop)) ** 2)
    low, most = float(count), float(count)
    while _upper(flips, count, most, perfect=perfect) > allowed:
        low, most = most, most * 2
        if most > 1e9:
            return None
    while most - low > max(1.0, 0.01 * low):
        middle = (low + most) / 2
        if _upper(flips, count, middle, perfect=perfect) > allowed:
            low = middle
        else:
            most = middle
    return math.ceil(most)


def _upper(flips: tuple[int, int], count: int, more: float, *, perfect: bool) -> float:
    scale = more / count
    return binary_interval(flips[0] * scale, flips[1] * scale, more, perfect=perfect)[1]


def spearman(first: FloatArray, second: FloatArray) -> Statistic:
    """Spearman's rank correlation of paired values as a statistic, with midranks for ties.

    The rank of a value within a resample is the weight below it plus half of one more than its own, so no
    resample needs sorting.
    """
    ranks = [_midranks(first), _midranks(second)]

    def statistic(weights: FloatArray) -> FloatArray:
        x, y = (rank(weights) for rank in ranks)
        total = weights.sum(axis=1, keepdims=True)
        x = x - (weights * x).sum(axis=1, keepdims=True) / total
        y = y - (weights * y).sum(axis=1, keepdims=True) / total
        spread = np.sqrt((weights * x * x).sum(axis=1) * (weights * y * y).sum(axis=1))
        shared = (weights * x * y).sum(axis=1)
        # A resample of equal values has no order: no correlation is what it shows.
        return np.asarray(np.divide(shared, spread, out=np.zeros_like(shared), where=spread > 0))

    return statistic


def _midranks(values: FloatArray) -> Callable[[FloatArray], FloatArray]:
    _, group = np.unique(values, return_inverse=True)
    order = np.argsort(group, kind="stable")
    starts = np.flatnonzero(np.r_[True, np.diff(group[order]) > 0])

    def rank(weights: FloatArray) -> FloatArray:
        grouped: NDArray[Any] = np.add.reduceat(weights[:, order], starts, axis=1)
        below = np.cumsum(grouped, axis=1) - grouped
        return np.asarray((below + (grouped + 1) / 2)[:, group])

    return rank
