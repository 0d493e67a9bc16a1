"""The user's own metric: a function of outputs and labels."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import cast

import numpy as np

from hasten.core.data import Array, Dataset
from hasten.core.errors import InputError, TrialError
from hasten.core.named import resolve as named
from hasten.core.named import user_code
from hasten.measuring.metrics import Metric, Scores, UserMetric
from hasten.measuring.predict import Predictions
from hasten.measuring.statistics import FloatArray

_DRAWS = 500
"""Resamples for a function of the whole set, which is called once for each and subject."""
_CHUNK_BYTES = 64 << 20


def find(spec: str) -> UserMetric:
    """Import ``package.module:function``; raises InputError."""
    found = named(spec)
    if not callable(found):
        raise InputError(f"metric {spec!r} is not a function")
    return cast("UserMetric", found)


def resolve(function: UserMetric, data: Dataset, reference: Predictions) -> Metric:
    """Find out whether the function scores samples or the set; raises InputError.

    It is asked about as many samples as fit into memory, at even distances: a function of the set need not
    be defined for a few, as a ranking of two classes is not where only one of them occurs.
    """
    name = getattr(function, "__name__", type(function).__name__)
    higher = bool(getattr(function, "higher_is_better", True))
    fitting = len(next(_chunks(reference)))
    positions = [i * len(data) // fitting for i in range(fitting)]
    labels = _stack_labels(data, positions)
    with user_code(f"the metric {name}"):
        made = np.asarray(function(_stack(reference, positions), labels))
    if made.dtype.kind not in "fiub" or made.shape not in {(), (len(positions),)}:
        raise InputError(
            f"metric {name} returned {made.dtype}{made.shape} for {len(positions)} samples: return one "
            "number, or an array with one number a sample"
        )
    return _UserMetric(name, function, made.shape != (), higher)


@dataclass(frozen=True)
class _UserMetric:
    """A function's scores, streamed in chunks where it scores samples one by one."""

    name: str
    function: UserMetric
    by_sample: bool
    higher_is_better: bool
    perfect: bool = False

    def scores(self, answers: Predictions, reference: Predictions, data: Dataset) -> Scores:
        """Call the function; raises TrialError when it fails or its scores are not finite."""
        count = len(answers)
        if self.by_sample:
            parts = [
                self._call(_stack(answers, chunk), _stack_labels(data, chunk), len(chunk))
                for chunk in _chunks(answers)
            ]
            scores = np.concatenate(parts)
            binary = bool(np.all((scores == 0) | (scores == 1)))
            return Scores.of_samples(scores, binary=binary, bound=1.0 if binary else None)
        everything = list(range(count))
        outputs, labels = _stack(answers, everything), _stack_labels(data, everything)

        def statistic(weights: FloatArray) -> FloatArray:
            values = []
            for row in weights:
                drawn = np.repeat(np.arange(count), row.astype(np.int64))
                chosen = {name: value[drawn] for name, value in outputs.items()}
                try:
                    values.append(self._call(chosen, None if labels is None else labels[drawn], None))
                except TrialError:
                    if np.all(row == 1):  # the samples themselves
                        raise
                    values.append(np.asarray(np.nan))
            return np.asarray(values, dtype=np.float64).reshape(-1)

        return Scores(statistic, count, draws=_DRAWS)

    def _call(self, outputs: dict[str, Array], labels: Array | None, count: int | None) -> FloatArray:
        with user_code(f"the metric {self.name}", TrialError):
            made = np.asarray(self.function(outputs, labels), dtype=np.float64)
        if made.shape != (() if count is None else (count,)):
            wanted = "one number" if count is None else f"one number for each of {count} samples"
            raise TrialError(f"metric {self.name} returned an array of shape {made.shape}, not {wanted}")
        if not np.all(np.isfinite(made)):
            wrong = made[~np.isfinite(made)].flat[0]
            raise TrialError(f"metric {self.name} returned {wrong}, which is not finite")
        return made


def _chunks(answers: Predictions) -> Iterator[list[int]]:
    size = sum(answers.value(name, 0).nbytes for name in answers.outputs)
    step = max(1, _CHUNK_BYTES // max(size, 1))
    for start in range(0, len(answers), step):
        yield list(range(start, min(start + step, len(answers))))


def _stack(answers: Predictions, positions: list[int]) -> dict[str, Array]:
    """Outputs stacked over samples; where their shapes differ, an array of objects holds them."""
    return {name: _join([answers.value(name, i) for i in positions]) for name in answers.outputs}


def _stack_labels(data: Dataset, positions: list[int]) -> Array | None:
    if not data.has_labels:
        return None
    return _join([data.store.value("labels", data.indices[i]) for i in positions])


def _join(values: list[Array]) -> Array:
    if all(v.shape == values[0].shape for v in values):
        return np.stack(values)
    joined = np.empty(len(values), dtype=object)
    joined[:] = values
    return joined
