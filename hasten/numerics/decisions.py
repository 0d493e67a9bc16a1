"""Which class does an output decide for, and which does the label say?"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from hasten.core.data import Array
from hasten.core.errors import DataError


@dataclass(frozen=True)
class Reading:
    """How an output and its label are read as classes.

    kind: ``axis``, scores along ``axis`` of the output; ``threshold``, one score, yes above ``threshold``;
    ``equal``, the output is the class itself. classes: how many there are (0: not known).
    one_hot: the label holds a 1 at its class. squeezed: axes of size 1 are dropped from the output first.
    """

    kind: Literal["axis", "threshold", "equal"]
    classes: int
    axis: int = -1
    threshold: float = 0.5
    one_hot: bool = False
    squeezed: bool = False

    def label(self, label: Array) -> Array:
        """The classes a label says, one a decision; negative means not labelled."""
        if self.one_hot:
            return np.asarray(np.argmax(label, axis=-1)).reshape(-1)
        return np.asarray(label).reshape(-1)

    def ranks(self, output: Array, label: Array) -> NDArray[np.int64]:
        """How many classes come before the label's, a decision; of equal scores the first class wins.

        Shapes: output (..., classes, ...), label and result (decisions,). Only for ``axis``.
        """
        scores = self._scores(output)
        wanted = np.maximum(label, 0)[:, None].astype(np.int64)
        own = np.take_along_axis(scores, wanted, axis=1)
        # `not (score <= own)`, since comparisons with NaN are false: a NaN never helps.
        before = ~(scores <= own) | ((scores == own) & (np.arange(self.classes) < wanted))
        return np.asarray(np.sum(before, axis=1), dtype=np.int64)

    def decided(self, output: Array) -> Array:
        """The class decided for, one a decision; -1 where the scores are not numbers."""
        if self.kind == "equal":
            return np.asarray(output).reshape(-1)
        if self.kind == "threshold":
            flat = np.asarray(output).reshape(-1)
            return np.where(np.isnan(flat), -1, (flat > self.threshold).astype(np.int64))
        scores = self._scores(output)
        return np.where(np.isnan(scores).any(axis=1), -1, np.argmax(scores, axis=1))

    def _scores(self, output: Array) -> Array:
        scores = np.squeeze(output) if self.squeezed else output
        return np.moveaxis(scores, self.axis, -1).reshape(-1, self.classes)


def read(output: Array, labels: Sequence[Array], lowest: float, highest: float) -> Reading:
    """Find how this output (of one sample) and its label fit together.

    labels: of all samples, the first that of ``output``. lowest, highest: over the reference's outputs, to
    tell a probability from a logit. Raises DataError with the reason when they do not fit.
    """
    label = labels[0]
    if output.dtype.kind in "OSU" or label.dtype.kind in "OSU":
        return _equal(output, label)
    if label.dtype.kind == "f" and not _one_hot(output, labels) and not _whole(labels):
        raise DataError("the labels are fractions, not classes; mse, mae and spearman take such labels")
    if output.dtype.kind in "iub":
        return _equal(output, label)
    if _one_hot(output, labels):
        return Reading("axis", label.shape[-1], axis=-1, one_hot=True, squeezed=output.shape != label.shape)
    for shape, squeezed in ((output.shape, False), (tuple(d for d in output.shape if d != 1), True)):
        axes = [a for a in range(len(shape)) if shape[:a] + shape[a + 1 :] == label.shape and shape[a] > 1]
        if axes:
            # Scores of pixels come class axis first, those of tokens last.
            axis = axes[-1] if len(shape) <= 2 else axes[0]
            return _in_range(Reading("axis", shape[axis], axis=axis, squeezed=squeezed), labels)
    if output.size == label.size:
        probability = lowest >= 0 and highest <= 1
        return _in_range(Reading("threshold", 2, threshold=0.5 if probability else 0.0), labels)
    raise DataError(f"labels of shape {label.shape} do not fit outputs of shape {output.shape}")


def _equal(output: Array, label: Array) -> Reading:
    text = "OSU"
    if output.size != label.size or (output.dtype.kind in text) != (label.dtype.kind in text):
        raise DataError(
            f"labels {label.dtype}{label.shape} cannot be compared with outputs {output.dtype}{output.shape}"
        )
    return Reading("equal", 0)


def _whole(labels: Sequence[Array]) -> bool:
    return all(bool(np.all(np.mod(label, 1) == 0)) for label in labels)


def _one_hot(output: Array, labels: Sequence[Array]) -> bool:
    """Whether labels hold a 1 at their class, in the shape of the output but for axes of size 1."""
    label = labels[0]
    alike = [d for d in output.shape if d != 1] == [d for d in label.shape if d != 1]
    if not alike or label.ndim == 0 or label.shape[-1] < 2:
        return False
    return all(
        bool(np.all((label == 0) | (label == 1)) and np.all(np.sum(label, axis=-1) == 1)) for label in labels
    )


def _in_range(reading: Reading, labels: Sequence[Array]) -> Reading:
    highest = max((int(label.max()) for label in labels if label.size), default=0)
    if highest >= reading.classes:
        raise DataError(f"labels reach {highest}, but the output has {reading.classes} classes")
    if all(bool(np.all(label < 0)) for label in labels):
        raise DataError("no sample has a label: all of them are negative, which means not labelled")
    if reading.classes == 2 and {-1, 1} == {int(v) for label in labels for v in np.unique(label)}:
        raise DataError("the labels are -1 and 1, and negative means not labelled: give 0 and 1")
    return reading
