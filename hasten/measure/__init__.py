"""Is it smaller, faster and still right?

The door of the room. ``compare`` measures any number of artifacts side by side; the search uses the finer
functions, cheapest first: ``sizes``, ``predict`` and ``judge``, then ``time_interleaved``.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from hasten.core.budget import Budget
from hasten.core.data import Array, Dataset, Store
from hasten.core.errors import TrialError
from hasten.core.measurement import Comparison, Measurement
from hasten.core.record import Artifact, Quality, Scorecard
from hasten.measure.subject import Conditions, Subject

Progress = Callable[[str, float], None]
"""Called with what is being done and how much of it is done (0 to 1)."""

UserMetric = Callable[[dict[str, Array], Array | None], "float | Array"]
"""``f(outputs, labels)``: arrays stacked over samples; returns one score a sample, or one for the set."""


class Metric:  # becomes hasten.measure.metrics.Metric
    """How good the outputs are. name, higher_is_better; made by ``resolve``."""

    name: str
    higher_is_better: bool


@dataclass(frozen=True)
class Predictions:
    """What a subject answered to every sample of a role, on disk, and what its fresh process cost.

    store: one field an output, one sample a sample of the role, in the role's order, no batch axis.
    """

    subject: str
    store: Store
    load_ms: float
    peak_memory_bytes: int


class Timing(NamedTuple):
    """Latency of one inference (a whole batch) in ms, and the reference's over it."""

    latency_ms: Measurement
    speedup: Comparison


def resolve(metric: str | UserMetric | None, data: Dataset, reference: Predictions) -> Metric:
    """The metric of that name, chosen and checked against the labels and the reference's outputs.

    metric: ``accuracy``, ``top5`` (any k), ``f1``, ``f1_macro``, ``f1_binary``, ``mse``, ``mae``,
    ``spearman``, ``agreement``; any of them followed by ``:NAME`` to judge that output; the user's
    ``package.module:function`` or a callable (``UserMetric``); None chooses accuracy where integer labels
    fit the outputs and agreement where there are no labels.
    Raises InputError for an unknown name or an ambiguous choice, DataError when labels are missing or do
    not fit the outputs.
    """
    raise TrialError("not written yet")


def predict(subject: Subject, data: Dataset, conditions: Conditions, work: Path) -> Predictions:
    """Run every sample through the subject in a fresh process; kept in ``work`` and not repeated.

    Raises TrialError when the artifact cannot be opened or run, WorkerError when its process dies or hangs.
    """
    raise TrialError("not written yet")


def judge(
    metric: Metric,
    reference: Predictions,
    candidate: Predictions,
    data: Dataset,
    budget: Budget,
    seed: int = 0,
) -> Quality:
    """Compare a candidate's outputs with the reference's on the same samples; raises TrialError."""
    raise TrialError("not written yet")


def time_interleaved(
    subjects: Sequence[Subject], data: Dataset, conditions: Conditions, *, progress: Progress | None = None
) -> list[Timing | TrialError]:
    """Time all subjects in alternating rounds, one process each; the first is the reference.

    A subject that cannot be opened or run, crashes or hangs yields its TrialError in its place and the
    others go on; when the reference fails its error is raised.
    """
    raise TrialError("not written yet")


def throughput(subject: Subject, data: Dataset, conditions: Conditions) -> float:
    """Samples a second with as many requests under way as keep the runtime busy; raises TrialError."""
    raise TrialError("not written yet")


def sizes(artifact: Artifact, folder: Path) -> tuple[int, int]:
    """Bytes on disk of everything the runtime needs, and the same after zstd."""
    raise TrialError("not written yet")


def compare(
    subjects: Sequence[Subject],
    data: Dataset,
    metric: Metric | str | UserMetric | None,
    conditions: Conditions,
    work: Path,
    *,
    budget: Budget | None = None,
    progress: Progress | None = None,
) -> list[Scorecard | TrialError]:
    """Everything about every subject, side by side; the first is the reference.

    A subject that fails yields its TrialError in its place; when the reference fails its error is raised.
    ``budget`` (default: Budget()) is what each Quality is judged against.
    """
    raise TrialError("not written yet")


__all__ = [
    "Conditions",
    "Metric",
    "Predictions",
    "Subject",
    "Timing",
    "compare",
    "judge",
    "predict",
    "resolve",
    "sizes",
    "throughput",
    "time_interleaved",
]
