"""Does it still answer as the original does? Agreement, the metric without labels.

What agreeing means is chosen from the original's outputs and named:

- class scores along an axis: top-1, every decision of the sample the same;
- embeddings: cosine similarity, the mean over samples (1 minus the mean cosine distance);
- anything else: 1 minus the normalized error ‖a - b‖² / ‖a‖², which is the noise-to-signal ratio;
- what is not a floating-point number (class numbers, texts, booleans): every element the same.

The original agrees with itself: its value is 1. Of several outputs the worst binds.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from hasten.core.data import Array, Dataset
from hasten.core.errors import DataError
from hasten.measuring.metrics import Metric, Scores
from hasten.measuring.predict import Predictions
from hasten.measuring.statistics import FloatArray, spearman
from hasten.numerics.kinds import Sight, see

_LOOKED_AT = 64
_PAIRED = 400
"""Embeddings whose pairwise similarities are correlated: 79,800 pairs."""


def resolve(reference: Predictions, output: str | None) -> Metric:
    """The agreement that fits the original's outputs, or the one output named.

    Raises DataError when none of them holds a finite number: broken answers agree with broken ones.
    """
    looked = range(min(len(reference), _LOOKED_AT))
    names = [output] if output else list(reference.outputs)
    if all(_broken(reference, name) for name in names):
        raise DataError(
            f"{', '.join(names)}: not one number of the original's answers to {len(reference)} samples is "
            "finite, so nothing can agree with it; run it on these data and look for NaN"
        )
    return _Agreement(tuple(see(name, [reference.value(name, i) for i in looked]) for name in names))


def _broken(reference: Predictions, output: str) -> bool:
    """Whether an output holds floats and all of them are NaN or infinite."""
    holds = False
    for value in reference.values(output):
        if value.dtype.kind != "f" or np.any(np.isfinite(value)):
            return False
        holds = holds or value.size > 0
    return holds


@dataclass(frozen=True)
class _Agreement:
    """Agreement on one or several outputs."""

    sights: tuple[Sight, ...]
    higher_is_better: bool = True
    perfect: bool = True

    @property
    def name(self) -> str:
        """The kind of agreement, with the outputs where there are several."""
        if len(self.sights) == 1:
            return f"{self.sights[0].kind} agreement"
        return "agreement (worst of " + ", ".join(f"{s.output}: {s.kind}" for s in self.sights) + ")"

    def scores(self, answers: Predictions, reference: Predictions, data: Dataset) -> Scores:
        """Scores of the output that agrees worst, with the figures of all in the details."""
        every = [(sight, _SCORES[sight.kind](sight, answers, reference)) for sight in self.sights]
        _, worst = min(every, key=lambda pair: pair[1].value)
        if len(every) == 1:
            return worst
        details = {f"{s.output}: {s.kind} agreement": scores.value for s, scores in every}
        for sight, scores in every:
            details |= {f"{sight.output}: {name}": value for name, value in scores.details.items()}
        return Scores(
            worst.statistic, worst.count, worst.per_sample, worst.binary, worst.bound, details, worst.draws
        )


def _top1(sight: Sight, answers: Predictions, reference: Predictions) -> Scores:
    def decide(value: Array) -> Array:
        return np.where(np.isnan(value).any(axis=sight.axis), -1, np.argmax(value, axis=sight.axis))

    same, decisions, kept = [], 0, 0
    for ours, theirs in _pairs(sight, answers, reference):
        wanted = decide(theirs)
        decisions += wanted.size
        if ours.shape != theirs.shape:
            same.append(0.0)
            continue
        equal = decide(ours) == wanted
        kept += int(np.count_nonzero(equal))
        same.append(float(np.all(equal)))
    details = {"per decision": kept / decisions} if decisions != len(same) else {}
    return Scores.of_samples(np.asarray(same), binary=True, bound=1.0, details=details)


def _exact(sight: Sight, answers: Predictions, reference: Predictions) -> Scores:
    same, elements, kept = [], 0, 0
    for ours, theirs in _pairs(sight, answers, reference):
        elements += theirs.size
        if ours.shape != theirs.shape:
            same.append(0.0)
            continue
        equal = np.asarray(ours == theirs)
        kept += int(np.count_nonzero(equal))
        same.append(float(np.all(equal)))
    details = {"per decision": kept / elements} if elements not in {0, len(same)} else {}
    return Scores.of_samples(np.asarray(same), binary=True, bound=1.0, details=details)


def _cosine(sight: Sight, answers: Predictions, reference: Predictions) -> Scores:
    scores = []
    ours_kept: list[FloatArray] = []
    theirs_kept: list[FloatArray] = []
    for ours, theirs in _pairs(sight, answers, reference):
        if ours.shape != theirs.shape or not (np.all(np.isfinite(ours)) and np.all(np.isfinite(theirs))):
            scores.append(float(np.array_equal(ours, theirs, equal_nan=True)))
            continue
        a, b = (_directions(v.astype(np.float64)) for v in (ours, theirs))
        scores.append(float(np.mean(np.sum(a * b, axis=-1) + _both_zero(ours, theirs))))
        if a.ndim == 1 and len(ours_kept) < _PAIRED:
            ours_kept.append(a)
            theirs_kept.append(b)
    details = {}
    if len(ours_kept) >= 3 and len({len(v) for v in theirs_kept}) == 1:
        details["rank correlation of pairwise similarities"] = _rank_correlation(ours_kept, theirs_kept)
    return Scores.of_samples(np.asarray(scores), bound=1.0, details=details)


def _directions(vectors: FloatArray) -> FloatArray:
    length = np.linalg.norm(vectors, axis=-1, keepdims=True)
    return np.asarray(np.divide(vectors, length, out=np.zeros_like(vectors), where=length > 0))


def _both_zero(ours: Array, theirs: Array) -> Array:
    """1 where both vectors are zero, which have no direction but agree."""
    return np.asarray(~(np.any(ours, axis=-1) | np.any(theirs, axis=-1)), dtype=np.float64)


def _rank_correlation(ours: Sequence[FloatArray], theirs: Sequence[FloatArray]) -> float:
    """Spearman's correlation of the cosine similarities of all pairs of samples."""
    above = np.triu_indices(len(ours), k=1)
    pairs = [(np.stack(v) @ np.stack(v).T)[above] for v in (ours, theirs)]
    return float(spearman(*pairs)(np.ones((1, len(pairs[0]))))[0])


def _sqnr(sight: Sight, answers: Predictions, reference: Predictions) -> Scores:
    """The value is the whole set's, so that samples of little signal do not drown the others."""
    noise, signal, lost = [], [], []
    for ours, theirs in _pairs(sight, answers, reference):
        wanted = theirs.astype(np.float64)
        finite = np.isfinite(wanted)
        signal.append(float(np.sum(np.square(wanted[finite]))))
        whole = ours.shape == theirs.shape
        # Where the original is infinite (a mask) the same infinity is right; elsewhere it is a loss.
        whole = whole and np.array_equal(ours[~finite], theirs[~finite], equal_nan=True)
        whole = whole and bool(np.all(np.isfinite(ours[finite])))
        lost.append(not whole)
        noise.append(float(np.sum(np.square(ours[finite] - wanted[finite]))) if whole else 0.0)
    noise_n, signal_n = np.asarray(noise), np.asarray(signal)
    # A sample that is lost is as much noise as there is signal: alone it takes the agreement to 0.
    noise_n[np.asarray(lost, dtype=bool)] = max(float(signal_n.sum()), 1.0)

    def statistic(weights: FloatArray) -> FloatArray:
        total, error = weights @ signal_n, weights @ noise_n
        missing = np.where(error > 0, 1.0, 0.0)
        return np.asarray(np.clip(1 - np.divide(error, total, out=missing, where=total > 0), 0, 1))

    error, total = float(noise_n.sum()), float(signal_n.sum())
    details = {}
    if total > 0:
        details["normalized error"] = error / total
        if error > 0:
            details["SQNR in dB"] = float(10 * np.log10(total / error))
    return Scores(statistic, len(noise), details=details)


def _pairs(sight: Sight, answers: Predictions, reference: Predictions) -> zip[tuple[Array, Array]]:
    return zip(answers.values(sight.output), reference.values(sight.output), strict=True)


_SCORES = {"top-1": _top1, "cosine": _cosine, "SQNR": _sqnr, "exact": _exact}
