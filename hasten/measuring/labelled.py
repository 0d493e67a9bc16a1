"""Metrics that need labels."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np

from hasten.core.data import LABELS, Array, Dataset
from hasten.core.errors import DataError, InputError, TrialError
from hasten.measuring.metrics import Metric, Scores
from hasten.measuring.predict import Predictions
from hasten.measuring.statistics import FloatArray, spearman
from hasten.numerics.decisions import Reading, read

_LOOKED_AT = 64
"""Outputs looked at to tell probabilities from logits."""


def default(data: Dataset, reference: Predictions) -> Metric:
    """Accuracy where the labels are classes that fit an output; raises DataError where they are not."""
    try:
        return of_classes(1, data, reference, None)
    except DataError as error:
        if data.store.value(LABELS, data.indices[0]).dtype.kind != "f":
            raise
        raise DataError(
            "the labels are not classes, so the metric cannot be guessed: "
            f"give spearman, mse, mae, your own function, or agreement ({error})"
        ) from error


def of_classes(k: int, data: Dataset, reference: Predictions, output: str | None) -> Metric:
    """Accuracy (k = 1) or top-k accuracy; raises InputError or DataError when no single output fits."""
    name = "accuracy" if k == 1 else f"top-{k} accuracy"
    output, reading = _fitting(name, data, reference, output)
    if k > 1 and (reading.kind != "axis" or k >= reading.classes):
        raise DataError(f"{name} needs scores of more than {k} classes; output {output!r} has none such")
    return _Accuracy(name, output, k, reading)


def f1(name: str, data: Dataset, reference: Predictions, output: str | None) -> Metric:
    """F1 of class 1, or its mean over classes; raises InputError or DataError when no single output fits."""
    output, reading = _fitting(name, data, reference, output)
    seen = np.unique(np.concatenate([reading.label(label) for label in _labels(data)]))
    classes = reading.classes or len(seen[seen >= 0] if seen.dtype.kind in "iuf" else seen)
    # Of two classes that are texts, or 2 and 5, none is class 1.
    binary = classes == 2 and (reading.classes == 2 or 1 in seen.tolist())
    if name == "f1":
        name = "f1_binary" if binary else "f1_macro"
    if name == "f1_binary" and not binary:
        raise DataError(
            f"f1_binary needs two classes, one of them 1, and there are {classes}, "
            f"{', '.join(map(str, seen[:3].tolist()))}{', …' if len(seen) > 3 else ''}; give f1_macro"
        )
    return _F1(name.replace("_", " "), output, reading)


def of_values(name: str, data: Dataset, reference: Predictions, output: str | None) -> Metric:
    """``mse``, ``mae`` or ``spearman``; raises InputError or DataError when no single output fits."""
    if name == "spearman":
        kind: Literal["mse", "mae", "spearman"] = "spearman"
    else:
        kind = "mse" if name == "mse" else "mae"

    def fits(candidate: str) -> None:
        label = data.store.value(LABELS, data.indices[0])
        value = reference.value(candidate, 0)
        if value.dtype.kind not in "fiub" or label.dtype.kind not in "fiub" or label.size != value.size:
            raise DataError(
                f"{name}: labels {label.dtype}{label.shape} do not fit output {candidate!r}, "
                f"{value.dtype}{value.shape}"
            )
        if name == "spearman" and label.size != 1:
            raise DataError(f"spearman needs one number a sample, and output {candidate!r} has {value.size}")

    chosen = _only(name, reference, output, fits)
    return _Values(kind, chosen)


def _fitting(name: str, data: Dataset, reference: Predictions, output: str | None) -> tuple[str, Reading]:
    labels = _labels(data)
    # The longest tells the axes: of a sequence of one, that of the tokens looks like one to be left out.
    longest = max(range(len(labels)), key=lambda i: labels[i].size)
    readings: dict[str, Reading] = {}

    def fits(candidate: str) -> None:
        values = [reference.value(candidate, i) for i in range(min(len(reference), _LOOKED_AT))]
        lowest = highest = 0.0
        if values[0].dtype.kind in "fiub" and values[0].size:
            lowest = float(min(np.min(v) for v in values if v.size))
            highest = float(max(np.max(v) for v in values if v.size))
        shown = reference.value(candidate, longest)
        readings[candidate] = read(shown, [labels[longest], *labels], lowest, highest)

    chosen = _only(name, reference, output, fits)
    return chosen, readings[chosen]


def _only(name: str, reference: Predictions, output: str | None, fits: Callable[[str], None]) -> str:
    """The one output that ``fits`` does not raise DataError for; raises InputError when several fit."""
    reasons: dict[str, str] = {}
    for candidate in [output] if output else reference.outputs:
        try:
            fits(candidate)
        except DataError as error:
            reasons[candidate] = str(error)
    fitting = [o for o in ([output] if output else reference.outputs) if o not in reasons]
    if len(fitting) == 1:
        return fitting[0]
    if not fitting:
        raise DataError("; ".join(f"output {o!r}: {reason}" for o, reason in reasons.items()))
    raise InputError(
        f"{name} could judge any of the outputs {', '.join(fitting)}: say which, as in {name}:{fitting[0]}"
    )


def _labels(data: Dataset) -> list[Array]:
    labels = [data.store.value(LABELS, i) for i in data.indices]
    return [label.reshape(()) if label.shape == (1,) else label for label in labels]


@dataclass(frozen=True)
class _Accuracy:
    """Share of decisions whose label is among the k classes of highest score; mean over samples."""

    name: str
    output: str
    k: int
    reading: Reading
    higher_is_better: bool = True
    perfect: bool = False

    def scores(self, answers: Predictions, reference: Predictions, data: Dataset) -> Scores:
        """A share a sample; unlabelled decisions (negative labels) do not count, nor samples of such alone.

        Raises TrialError when no sample has a label.
        """
        scores: list[float] = []
        judged: list[int] = []
        binary = True
        for i, (raw, output) in enumerate(zip(_labels(data), answers.values(self.output), strict=True)):
            label = self.reading.label(raw)
            right = self._right(output, label)
            if label.dtype.kind in "if":
                right = right[label >= 0]
            if right.size:
                judged.append(i)
                binary = binary and right.size == 1
                scores.append(float(np.mean(right)))
        if not judged:
            raise TrialError(f"no sample of the {data.role} data has a label: all of them are negative")
        found = Scores.of_samples(np.asarray(scores), binary=binary, bound=1.0)
        return replace(found, judged=tuple(judged))

    def _right(self, output: Array, label: Array) -> Array:
        try:
            if self.reading.kind == "axis":
                return np.asarray(self.reading.ranks(output, label) < self.k)
            return np.asarray(self.reading.decided(output) == label)
        except (ValueError, IndexError) as error:
            raise TrialError(
                f"output {self.output!r} of shape {output.shape} does not fit labels of shape {label.shape}"
            ) from error


@dataclass(frozen=True)
class _F1:
    """F1 = 2 TP / (2 TP + FP + FN), of class 1 or averaged over the classes that occur."""

    name: str
    output: str
    reading: Reading
    higher_is_better: bool = True
    perfect: bool = False

    def scores(self, answers: Predictions, reference: Predictions, data: Dataset) -> Scores:
        """Counts a sample and class, from which the statistic of any resample follows."""
        labels = [self.reading.label(raw) for raw in _labels(data)]
        decided = [self.reading.decided(output) for output in answers.values(self.output)]
        if any(d.shape != label.shape for d, label in zip(decided, labels, strict=True)):
            raise TrialError(f"output {self.output!r} does not have one decision a label")
        classes = np.unique(np.concatenate([*labels, *decided]))
        if classes.dtype.kind in "if":
            classes = classes[classes >= 0]
        shape = (len(labels), len(classes))
        hit, claimed, present = np.zeros(shape), np.zeros(shape), np.zeros(shape)
        for i, (label, choice) in enumerate(zip(labels, decided, strict=True)):
            counted = label >= 0 if label.dtype.kind in "if" else np.ones(label.shape, dtype=bool)
            _count(present[i], classes, label[counted])
            _count(claimed[i], classes, choice[counted])
            _count(hit[i], classes, label[counted & (label == choice)])
        if self.name == "f1 binary":
            kept = classes == 1
            hit, claimed, present = hit[:, kept], claimed[:, kept], present[:, kept]

        def statistic(weights: FloatArray) -> FloatArray:
            both = weights @ claimed + weights @ present
            f1 = np.divide(2 * (weights @ hit), both, out=np.full_like(both, np.nan), where=both > 0)
            occurring = np.maximum(np.sum(both > 0, axis=1), 1)
            return np.asarray(np.nansum(f1, axis=1) / occurring)

        return Scores(statistic, len(labels), bound=None)


def _count(row: FloatArray, classes: Array, values: Array) -> None:
    known = values[np.isin(values, classes)]
    np.add.at(row, np.searchsorted(classes, known), 1)


@dataclass(frozen=True)
class _Values:
    """Mean squared or absolute error, or rank correlation, of numbers with labels of the same size."""

    name: Literal["mse", "mae", "spearman"]
    output: str
    perfect: bool = False

    @property
    def higher_is_better(self) -> bool:
        """Whether more is better: of a correlation yes, of an error no."""
        return self.name == "spearman"

    def scores(self, answers: Predictions, reference: Predictions, data: Dataset) -> Scores:
        """One error a sample, or the correlation of the set. Raises TrialError for outputs not finite."""
        labels = _labels(data)
        values = list(answers.values(self.output)) if self.name == "spearman" else None
        if values is not None:
            pair = [_numbers(values, self.output), _numbers(labels, LABELS)]
            return Scores(spearman(*pair), len(labels))
        errors = [
            self._error(output, label)
            for output, label in zip(answers.values(self.output), labels, strict=True)
        ]
        return Scores.of_samples(_finite(np.asarray(errors), self.output))

    def _error(self, output: Array, label: Array) -> float:
        if output.size != label.size:
            raise TrialError(f"output {self.output!r} has {output.size} values for {label.size} in the label")
        apart = output.reshape(-1).astype(np.float64) - label.reshape(-1)
        return float(np.mean(np.abs(apart) if self.name == "mae" else np.square(apart)))


def _numbers(values: Sequence[Array], name: str) -> FloatArray:
    if any(v.size != 1 for v in values):
        raise TrialError(f"{name!r} does not have one number a sample")
    return _finite(np.asarray([float(v.reshape(())) for v in values]), name)


def _finite(values: FloatArray, name: str) -> FloatArray:
    wrong = int(np.count_nonzero(~np.isfinite(values)))
    if wrong:
        raise TrialError(f"output {name!r} is not finite on {wrong} of {len(values)} samples")
    return values
