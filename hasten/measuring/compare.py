"""Everything about every subject, side by side."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from hasten.core.budget import Budget
from hasten.core.data import Dataset
from hasten.core.errors import InputError, TrialError
from hasten.core.record import Scorecard
from hasten.measuring.latency import time_interleaved
from hasten.measuring.metrics import Metric, UserMetric, resolve
from hasten.measuring.predict import Predictions, predict
from hasten.measuring.quality import judge
from hasten.measuring.size import sizes
from hasten.measuring.subject import Conditions, Progress, Subject


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

    metric: as ``resolve`` takes it, or a metric it made. budget: what each Quality is judged against
    (default: ``Budget()``). A subject that fails yields its TrialError in its place; when the reference
    fails its error is raised, InputError or DataError when the metric does not fit.
    """
    if not subjects:
        raise InputError("there is nothing to measure: give at least one model")
    seats = [_Seat(subject) for subject in subjects]
    for seat in seats:
        try:
            seat.answers = predict(seat.subject, data, conditions, work, progress=progress)
        except TrialError as error:
            if seat is seats[0]:
                raise
            seat.error = error
    reference = seats[0].answers
    assert reference is not None
    chosen = metric if isinstance(metric, Metric) else resolve(metric, data, reference)
    alive = [seat for seat in seats if seat.error is None]
    timings = time_interleaved([s.subject for s in alive], data, conditions, progress=progress)
    for seat, timing in zip(alive, timings, strict=True):
        if isinstance(timing, TrialError):
            seat.error = timing
            continue
        try:
            assert seat.answers is not None
            seat.card = _card(seat.subject, seat.answers, data, conditions).model_copy(
                update={
                    "quality": judge(
                        chosen, reference, seat.answers, data, budget or Budget(), conditions.seed
                    ),
                    **timing.fields,
                }
            )
        except TrialError as error:
            if seat is seats[0]:
                raise
            seat.error = error
    return [seat.result for seat in seats]


@dataclass
class _Seat:
    """A subject's place in the comparison, and what has been found."""

    subject: Subject
    answers: Predictions | None = None
    card: Scorecard | None = None
    error: TrialError | None = None

    @property
    def result(self) -> Scorecard | TrialError:
        found = self.error or self.card
        assert found is not None
        return found


def _card(subject: Subject, answers: Predictions, data: Dataset, conditions: Conditions) -> Scorecard:
    size_bytes, size_zstd_bytes = sizes(subject.artifact, subject.folder)
    return Scorecard(
        load_ms=answers.load_ms,
        size_bytes=size_bytes,
        size_zstd_bytes=size_zstd_bytes,
        peak_memory_bytes=answers.peak_memory_bytes,
    )
