"""The loss that labels mean: cross entropy of classes, squared error of numbers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from torch import Tensor

from hasten.core.data import Array
from hasten.core.errors import DataError
from hasten.numerics.decisions import Reading, read
from hasten.train.losses import Scale, binary_cross_entropy, cross_entropy, logits, rows, squared_error
from hasten.train.objective import Metric, Term, Values, only
from hasten.train.samples import Batch


def from_labels(outputs: Mapping[str, Sequence[Array]], labels: Sequence[Array]) -> tuple[Term, Metric]:
    """The term and the metric of labels.

    outputs: of some samples, by name. labels: of all samples, those of ``outputs`` first. Classes (whole
    numbers that fit the scores, or a 1 at the class) give cross entropy and accuracy; other numbers the
    squared error, over their mean square. Raises DataError when no output fits, InputError when several do.
    """
    whole = [label.reshape(()) if label.shape == (1,) else label for label in labels]
    if whole[0].dtype.kind in "OSU":
        raise DataError("the labels are text; give numbers of classes")
    readings: dict[str, Reading] = {}
    reasons: dict[str, str] = {}
    numbers: dict[str, str] = {}
    for name, values in outputs.items():
        if values[0].dtype.kind != "f":
            reasons[name] = f"output {name!r} holds {values[0].dtype}, which has no gradient"
            continue
        low, high = min(float(v.min()) for v in values), max(float(v.max()) for v in values)
        try:
            # Of a sequence of one, the axis of the tokens looks like one to be left out.
            longest = max(range(len(values)), key=lambda i: whole[i].size)
            reading = read(values[longest], [whole[longest], *whole], low, high)
            if reading.kind == "threshold" and not _yes_or_no(whole):
                raise DataError("the labels are numbers, not classes")
            readings[name] = reading
        except DataError as error:
            reasons[name] = f"output {name!r}: {error}"
            if whole[0].dtype.kind != "f" or whole[0].size != values[0].size:
                numbers[name] = reasons[name]
    chosen = only(reasons, list(outputs))
    if chosen is not None:
        return _classes(chosen, readings[chosen], outputs[chosen])
    if whole[0].dtype.kind == "f":
        chosen = only(
            {**numbers, **{n: reasons[n] for n in reasons if "gradient" in reasons[n]}}, list(outputs)
        )
        if chosen is not None:
            return _numbers(chosen, whole)
    raise DataError("; ".join(reasons.values()) or "the model has no output to compare labels with")


def _classes(name: str, reading: Reading, values: Sequence[Array]) -> tuple[Term, Metric]:
    scale = scale_of(values, reading.axis) if reading.kind == "axis" else _score_scale(reading)

    def classes(batch: Batch) -> Tensor:
        assert batch.labels is not None
        label = batch.labels.argmax(dim=-1) if reading.one_hot else batch.labels
        return rows(label)

    def scores(outputs: Values) -> Tensor:
        given = outputs[name]
        if reading.squeezed:
            given = given.reshape(len(given), *[d for d in given.shape[1:] if d != 1])
        return by_decision(given, reading.axis)

    if reading.kind == "threshold":

        def loss(outputs: Values, wanted: Values, batch: Batch) -> Tensor:
            return binary_cross_entropy(rows(outputs[name]), classes(batch), scale)

        def right(outputs: Values, wanted: Values, batch: Batch) -> Tensor:
            return _share(rows(outputs[name]) > reading.threshold, classes(batch))

    else:

        def loss(outputs: Values, wanted: Values, batch: Batch) -> Tensor:
            return cross_entropy(logits(scores(outputs), scale), classes(batch))

        def right(outputs: Values, wanted: Values, batch: Batch) -> Tensor:
            return _share(scores(outputs).argmax(dim=-1), classes(batch))

    return Term("labels", 1.0, loss), Metric("accuracy", right)


def _numbers(name: str, labels: Sequence[Array]) -> tuple[Term, Metric]:
    signal = float(np.mean([np.mean(np.square(label, dtype=np.float64)) for label in labels])) or 1.0

    def loss(outputs: Values, wanted: Values, batch: Batch) -> Tensor:
        assert batch.labels is not None
        return squared_error(rows(outputs[name]), rows(batch.labels), signal)

    def fit(outputs: Values, wanted: Values, batch: Batch) -> Tensor:
        return 1 - loss(outputs, wanted, batch)

    return Term("labels", 1.0, loss), Metric("1 - normalized error", fit)


def by_decision(values: Tensor, axis: int) -> Tensor:
    """(samples, ...) with the classes along a sample's ``axis``, as (samples, decisions, classes)."""
    moved = values.movedim(axis if axis < 0 else axis + 1, -1)
    return moved.reshape(len(moved), -1, moved.shape[-1])


def scale_of(values: Sequence[Array], axis: int) -> Scale:
    """Whether scores along an axis are probabilities; logarithms of them are as good as logits."""
    sums = (np.allclose(v.astype(np.float64).sum(axis=axis), 1, atol=1e-2) for v in values)
    return "probabilities" if all(bool(np.all(v >= 0)) for v in values) and all(sums) else "logits"


def _score_scale(reading: Reading) -> Scale:
    return "probabilities" if reading.threshold == 0.5 else "logits"


def _yes_or_no(labels: Sequence[Array]) -> bool:
    """Whether labels are 0 and 1; whole numbers that are negative are not labelled, fractions never are."""
    least = 0.0 if labels[0].dtype.kind == "f" else -np.inf
    return all(bool(np.all((label >= least) & (label <= 1))) for label in labels)


def _share(decided: Tensor, label: Tensor) -> Tensor:
    """The share of a sample's labelled decisions that are right; 1 where none is labelled."""
    known = label >= 0
    right = ((decided == label) & known).sum(dim=1)
    return torch.where(known.any(dim=1), right / known.sum(dim=1).clamp_min(1), 1.0)
