"""Everything that was measured of both, side by side."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from hasten.core.budget import Objective
from hasten.core.measurement import Comparison, Measurement
from hasten.report import figures
from hasten.report.claim import Claim

Cell = tuple[str, str]


@dataclass(frozen=True)
class Line:
    """One row; a cell is a value and its interval, either of which may be empty."""

    label: str
    source: Cell
    before: Cell
    after: Cell
    change: Cell


@dataclass(frozen=True)
class _Exact:
    """A quantity without an interval: how it is written, and what less and more of it are called."""

    label: str
    written: Callable[[float], str]
    less: str
    more: str


_TAILS = {
    "p90": _Exact("Latency, 90th percentile of single runs", figures.time_ms, "less", "more"),
    "p99": _Exact("Latency, 99th percentile of single runs", figures.time_ms, "less", "more"),
}
_LOAD = _Exact("Load time", figures.time_ms, "less", "more")
_SIZE = _Exact("Size on disk", figures.size, "smaller", "larger")
_ZSTD = _Exact("Size after zstd", figures.size, "smaller", "larger")
_MEMORY = _Exact("Peak resident memory", figures.size, "less", "more")
_MACS = _Exact("Multiply-accumulates (MACs)", figures.large, "fewer", "more")
_PARAMETERS = _Exact("Parameters", figures.large, "fewer", "more")
_NONZERO = _Exact("Parameters that are not zero", figures.large, "fewer", "more")


def before_after(made: Claim) -> tuple[Line, ...]:
    """The rows of which at least one side was measured; MACs stand beside the real speed-up."""
    base, record = made.baseline, made.record
    source = record.source.latency_ms if record.source else None
    timed = (source, made.reference_ms, None if made.kept else made.latency_ms)
    rates = (None, base.throughput_per_s, None if made.kept else made.throughput_per_s)
    faster, more = (None, None) if made.kept else (made.speedup, made.throughput_gain)
    rows = [
        _timed("Latency, median and 95 % interval", timed, faster, "latency"),
        _timed("Throughput under full load, median and 95 % interval", rates, more, "throughput"),
    ]
    rows += [_exact(kind, [_tail(m, name) for m in timed]) for name, kind in _TAILS.items()]
    macs = base.macs if base.macs is not None else record.model.macs
    parameters = base.parameters if base.parameters is not None else record.model.parameters
    pairs = [
        (_MACS, macs, made.trial.macs),
        (_LOAD, base.load_ms, made.load_ms),
        (_SIZE, base.size_bytes, made.size_bytes),
        (_ZSTD, base.size_zstd_bytes, made.size_zstd_bytes),
        (_MEMORY, base.peak_memory_bytes, made.peak_memory_bytes),
        (_PARAMETERS, parameters, made.trial.parameters),
        (_NONZERO, base.nonzero_parameters, made.trial.nonzero_parameters),
    ]
    rows += [_exact(kind, [None, before, None if made.kept else after]) for kind, before, after in pairs]
    return tuple(row for row in rows if row.source[0] or row.before[0] or row.after[0])


def _tail(measured: Measurement | None, name: str) -> float | None:
    value: float | None = getattr(measured, name) if measured else None
    return value


def _timed(
    label: str, timed: Sequence[Measurement | None], gain: Comparison | None, objective: Objective
) -> Line:
    cells = [(figures.latency(m), figures.latency_interval(m)) if m else ("", "") for m in timed]
    ratio = figures.speed(gain, objective) if gain else None
    change = (ratio.text, ratio.interval) if ratio else ("", "")
    return Line(label, cells[0], cells[1], cells[2], change)


def _exact(kind: _Exact, values: Sequence[float | None]) -> Line:
    source, before, after = (("" if v is None else kind.written(v), "") for v in values)
    change = ""
    if values[1] is not None and values[2] is not None:
        change = figures.shrink(values[1], values[2], kind.less, kind.more)
    return Line(kind.label, source, before, after, (change, ""))
