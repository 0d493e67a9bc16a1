"""How good are the outputs? Metrics by name, chosen and checked before anything is compared."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Protocol, runtime_checkable

import numpy as np

from hasten.core.data import Array, Dataset
from hasten.core.errors import DataError, InputError
from hasten.measuring.predict import Predictions
from hasten.measuring.statistics import FloatArray, Statistic, weighted_mean


@dataclass(frozen=True)
class Scores:
    """What a metric makes of one subject's outputs.

    statistic: the metric's value as a function of the samples' weights; NaN for a resample it has none for.
    per_sample: the scores whose mean it is, shape (n,), or None for a metric of the whole set. binary: every
    score is 0 or 1. bound: by how much two scores of a sample can differ, or None when there is no limit.
    details: further figures. draws: how many resamples the statistic is cheap enough for, None: as many as
    are usual. judged: which samples of the role count, where some say nothing (None: all); it depends on the
    data alone.
    """

    statistic: Statistic
    count: int
    per_sample: FloatArray | None = None
    binary: bool = False
    bound: float | None = None
    details: dict[str, float] = field(default_factory=dict)
    draws: int | None = None
    judged: tuple[int, ...] | None = None

    @classmethod
    def of_samples(
        cls,
        scores: FloatArray,
        *,
        binary: bool = False,
        bound: float | None = None,
        details: dict[str, float] | None = None,
    ) -> Scores:
        """Scores whose mean is the metric's value."""
        return cls(weighted_mean(scores), len(scores), scores, binary, bound, details or {})

    @property
    def value(self) -> float:
        """The metric's value on all samples."""
        return float(self.statistic(np.ones((1, self.count)))[0])


@runtime_checkable
class Metric(Protocol):
    """How good outputs are.

    name: for the report. higher_is_better: whether more of it is. perfect: whether the reference has the
    best value by definition (agreement with itself).
    """

    @property
    def name(self) -> str:
        """What it is called."""

    @property
    def higher_is_better(self) -> bool:
        """Whether more is better."""

    @property
    def perfect(self) -> bool:
        """Whether the reference's value is the best by definition."""

    def scores(self, answers: Predictions, reference: Predictions, data: Dataset) -> Scores:
        """Judge a subject's answers; raises TrialError when they cannot be judged."""


UserMetric = Callable[[dict[str, Array], "Array | None"], "float | Array"]
"""``f(outputs, labels)``: arrays stacked over samples, no labels: None. Returns an array with one score a
sample, or one number for the set. An attribute ``higher_is_better = False`` says that less is better."""

_AXIS_METRICS = re.compile(r"accuracy|top-?(?P<k>[1-9][0-9]*)|f1(?P<average>_macro|_binary)?")
_VALUE_METRICS = ("mse", "mae", "spearman")
NAMES = ("accuracy", "top5", "f1", "f1_macro", "f1_binary", "mse", "mae", "spearman", "agreement")


def resolve(metric: str | UserMetric | None, data: Dataset, reference: Predictions) -> Metric:
    """The metric of that name, chosen and checked against the labels and the reference's outputs.

    metric: ``accuracy``, ``top5`` (any k), ``f1`` (binary of two classes, else macro), ``f1_macro``,
    ``f1_binary``, ``mse``, ``mae``, ``spearman``, ``agreement``, any of them followed by ``:NAME`` to judge
    that output; the user's ``package.module:function`` or a callable (``UserMetric``). None chooses agreement
    where there are no labels and accuracy where the labels are classes that fit the outputs.
    Raises InputError for an unknown name or an ambiguous choice, DataError when labels are missing or do not
    fit the outputs.
    """
    from hasten.measuring import agreement, custom, labelled

    if not len(data):
        raise DataError("there are no samples to judge on")
    if metric is None:
        return labelled.default(data, reference) if data.has_labels else agreement.resolve(reference, None)
    if not isinstance(metric, str):
        return custom.resolve(metric, data, reference)
    name, output = _parts(metric)
    if _is_own(name):
        return _by_name(metric, name, output, data, reference)
    if output:
        return custom.resolve(custom.find(metric), data, reference)
    raise InputError(
        f"unknown metric {metric!r}: give one of {', '.join(NAMES)}, or your own package.module:function"
    )


def recorded(metric: str | UserMetric | None) -> str | None:
    """How a record names what ``resolve`` is told, so that it can be told again.

    Empty for None, the choice by default; None for the user's function, which no record holds.
    """
    if metric is None:
        return ""
    return metric if isinstance(metric, str) and _is_own(_parts(metric)[0]) else None


def _parts(metric: str) -> tuple[str, str]:
    name, _, output = metric.partition(":")
    return name.strip().lower(), output


def _is_own(name: str) -> bool:
    return name in {"agreement", *_VALUE_METRICS} or _AXIS_METRICS.fullmatch(name) is not None


def _by_name(metric: str, name: str, output: str, data: Dataset, reference: Predictions) -> Metric:
    from hasten.measuring import agreement, labelled

    if output and output not in reference.outputs:
        raise InputError(
            f"metric {metric!r}: there is no output {output!r}; there are {', '.join(reference.outputs)}"
        )
    if name == "agreement":
        return agreement.resolve(reference, output or None)
    if not data.has_labels:
        raise DataError(
            f"{name} needs labels, and the data have none: add an array 'labels', or use agreement"
        )
    found = _AXIS_METRICS.fullmatch(name)
    if found is None:
        return labelled.of_values(name, data, reference, output or None)
    if name.startswith("f1"):
        return labelled.f1(name, data, reference, output or None)
    return labelled.of_classes(int(found["k"] or 1), data, reference, output or None)
