"""What is claimed: the numbers of the chosen trial, and which role of the data each was measured on."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeVar

from hasten.core.measurement import Comparison, Measurement
from hasten.core.record import Quality, RunRecord, Trial

Figure = TypeVar("Figure", int, float)


@dataclass(frozen=True)
class Claim:
    """What was saved beside the baseline; each figure from the final measurement, else from the search.

    trial: the chosen trial, or the baseline where the original was kept.
    role: where ``quality`` was measured: ``Holdout`` or ``Selection``.
    searched: the chosen trial's quality on Selection, where the search saw it, when ``role`` is Holdout.
    """

    record: RunRecord
    trial: Trial
    kept: bool
    role: str
    quality: Quality | None
    searched: Quality | None
    latency_ms: Measurement | None
    speedup: Comparison | None
    throughput_per_s: float | None
    load_ms: float | None
    size_bytes: int | None
    size_zstd_bytes: int | None
    peak_memory_bytes: int | None

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
    return Claim(
        record=record,
        trial=trial,
        kept=record.best is None,
        role="Holdout" if on_holdout else "Selection",
        quality=card.quality or trial.quality,
        searched=trial.quality if on_holdout else None,
        latency_ms=card.latency_ms or trial.latency_ms,
        speedup=card.speedup or trial.speedup,
        throughput_per_s=_first(card.throughput_per_s, trial.throughput_per_s),
        load_ms=_first(card.load_ms, trial.load_ms),
        size_bytes=_first(card.size_bytes, trial.size_bytes),
        size_zstd_bytes=_first(card.size_zstd_bytes, trial.size_zstd_bytes),
        peak_memory_bytes=_first(card.peak_memory_bytes, trial.peak_memory_bytes),
    )


def _first(measured: Figure | None, fallback: Figure | None) -> Figure | None:
    return fallback if measured is None else measured


def runs_on(trial: Trial) -> str:
    """Target and options on one line: ``openvino, precision=int8, streams=1``."""
    named = [f"{key}={value}" for key, value in trial.options.items() if value is not None]
    return ", ".join([trial.target or trial.runtime, *named])
