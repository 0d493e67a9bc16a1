"""What is claimed: the numbers of the chosen trial, and which role of the data each was measured on."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeVar

from hasten.core.measurement import Comparison, Measurement, Verdict
from hasten.core.record import Quality, RunRecord, Trial

Figure = TypeVar("Figure", int, float)


@dataclass(frozen=True)
class Claim:
    """What was saved beside the baseline; each figure from the final measurement, else from the search.

    trial: the chosen trial, or the baseline where the original was kept.
    role: where ``quality`` was measured: ``Holdout`` or ``Selection``.
    reference_ms: the original's latency, from the rounds of ``latency_ms`` where they were timed together.
    searched: the chosen trial's quality on Selection, where the search saw it, when ``role`` is Holdout.
    """

    record: RunRecord
    trial: Trial
    kept: bool
    role: str
    quality: Quality | None
    searched: Quality | None
    latency_ms: Measurement | None
    reference_ms: Measurement | None
    speedup: Comparison | None
    throughput_per_s: Measurement | None
    throughput_gain: Comparison | None
    load_ms: float | None
    size_bytes: int | None
    size_zstd_bytes: int | None
    peak_memory_bytes: int | None

    @property
    def gain(self) -> Comparison | None:
        """How many times faster at the objective: one inference, or many."""
        throughput = self.record.budget.objective == "throughput"
        return self.throughput_gain if throughput else self.speedup

    @property
    def baseline(self) -> Trial:
        """The empty recipe, through the same path."""
        return self.record.baseline


def claim(record: RunRecord) -> Claim:
    """Collect what the record claims; raises RecordError when it names a trial it does not hold."""
    if record.best is None:
        trial, final = record.baseline, None
    else:
        trial, final = record.trial(record.best.trial), record.best.holdout
    on_holdout = final is not None and final.quality is not None
    card = final or trial
    # The baseline was timed beside itself too: that is one more latency of the same model, not another.
    beside = None if record.best is None else card.reference_ms or trial.reference_ms
    return Claim(
        record=record,
        trial=trial,
        kept=record.best is None,
        role="Holdout" if on_holdout else "Selection",
        quality=card.quality or trial.quality,
        searched=trial.quality if on_holdout else None,
        latency_ms=card.latency_ms or trial.latency_ms,
        reference_ms=beside or record.baseline.latency_ms,
        speedup=card.speedup or trial.speedup,
        throughput_per_s=card.throughput_per_s or trial.throughput_per_s,
        throughput_gain=card.throughput_gain or trial.throughput_gain,
        load_ms=_first(card.load_ms, trial.load_ms),
        size_bytes=_first(card.size_bytes, trial.size_bytes),
        size_zstd_bytes=_first(card.size_zstd_bytes, trial.size_zstd_bytes),
        peak_memory_bytes=_first(card.peak_memory_bytes, trial.peak_memory_bytes),
    )


def _first(measured: Figure | None, fallback: Figure | None) -> Figure | None:
    return fallback if measured is None else measured


def against_source(made: Claim) -> Comparison | None:
    """The source over what was saved; above 1, what was saved is faster than what the user runs today.

    Both were timed against the baseline, so the ratio is the quotient of two comparisons. Its interval
    takes both at their far ends, which covers at least 95 % where the two are independent: on a logarithmic
    scale the half-widths add, and the exact one is the root of the sum of their squares. None where
    either is not known.
    """
    source = made.record.source
    saved = (
        Comparison(median=1.0, ci95=(1.0, 1.0), verdict="indistinguishable") if made.kept else made.speedup
    )
    if source is None or saved is None or min(source.speedup.median, source.speedup.ci95[0]) <= 0:
        return None
    against = source.speedup
    low, high = saved.ci95[0] / against.ci95[1], saved.ci95[1] / against.ci95[0]
    verdict: Verdict = "better" if low > 1 else "worse" if high < 1 else "indistinguishable"
    return Comparison(median=saved.median / against.median, ci95=(low, high), verdict=verdict)


def runs_on(trial: Trial) -> str:
    """Target and options on one line: ``openvino, precision=int8, streams=1``."""
    named = [f"{key}={value}" for key, value in trial.options.items() if value is not None]
    return ", ".join([trial.target or trial.runtime, *named])
