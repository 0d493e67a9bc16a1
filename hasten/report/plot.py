"""The quality-latency plot: where every trial lies, the Pareto front, the budget line, the ticks.

Positions are per cent of the plot's width and height, so that the page can draw it at any width without
a script. The left and the top are good: less time (or bytes), less quality lost.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Literal

from hasten.core.record import RunRecord, Scorecard
from hasten.report import figures
from hasten.report.axis import Axis, tick
from hasten.report.claim import Claim
from hasten.report.rows import Row

Mark = Literal["chosen", "baseline", "ok", "rejected", "aside", "holdout", "source"]
MARKS: dict[Mark, str] = {
    "chosen": "chosen, on Selection",
    "holdout": "chosen, on Holdout: the claim",
    "baseline": "original",
    "source": "what runs today",
    "ok": "ok: within budget on Selection",
    "rejected": "rejected: lost too much",
    "aside": "for comparison only",
}
DRAWN_LAST = ("source", "baseline", "chosen", "holdout")
"""What must not be covered by other marks."""
BAND = 88.0
"""Per cent of the height that the scale takes; below lies what is beyond it."""


@dataclass(frozen=True)
class Point:
    """A mark; low and high are the ends of its error bars. beyond: its drop is off the scale."""

    mark: Mark
    anchor: str
    x: float
    y: float
    x_bar: tuple[float, float] | None
    y_bar: tuple[float, float] | None
    beyond: bool
    drop: str
    label: str
    facts: tuple[tuple[str, str], ...]

    @property
    def spoken(self) -> str:
        """All that the tooltip shows, on one line."""
        return "; ".join([self.label, *(f"{name} {value}" for name, value in self.facts)])


@dataclass(frozen=True)
class Segment:
    """A straight line of the front."""

    x1: float
    y1: float
    x2: float
    y2: float


@dataclass(frozen=True)
class Plot:
    """Everything the template draws; positions in per cent."""

    points: tuple[Point, ...]
    front: tuple[Segment, ...]
    budget: float
    budget_label: str
    x_label: str
    y_label: str
    x_ticks: tuple[tuple[float, str], ...]
    y_ticks: tuple[tuple[float, str], ...]
    marks: tuple[tuple[Mark, str], ...]
    beyond: int
    left_out: int


@dataclass(frozen=True)
class _Raw:
    """A point in data units: x in ms or bytes, drop in the metric's own unit."""

    mark: Mark
    anchor: str
    x: float
    x_ci: tuple[float, float] | None
    drop: float
    drop_ci: tuple[float, float] | None
    label: str
    facts: tuple[tuple[str, str], ...]

    def times(self, factor: float) -> _Raw:
        """The same point with x in another unit."""
        ci = (self.x_ci[0] * factor, self.x_ci[1] * factor) if self.x_ci else None
        return replace(self, x=self.x * factor, x_ci=ci)


def plot(made: Claim, rows: Sequence[Row]) -> Plot | None:
    """Lay out the plot; None when fewer than two trials have both quality and the quantity of the x axis."""
    record = made.record
    raw = [point for row in rows if (point := _trial_point(record, row))]
    measured = next((t.quality for t in (made.trial, *record.trials) if t.quality), None)
    if len(raw) < 2 or measured is None:
        return None
    left_out = len(rows) - len(raw)
    words = figures.QualityWords(measured)
    raw += [p for p in (_holdout_point(made), _source_point(record)) if p]
    unit, factor = _x_unit(record, max(p.x for p in raw))
    x, y = _x_axis([p.x * factor for p in raw]), _y_axis(raw, measured.allowed)
    raw = [p.times(factor) for p in raw]
    raw.sort(key=lambda p: (DRAWN_LAST.index(p.mark) if p.mark in DRAWN_LAST else -1, p.x, p.drop))
    points = tuple(_place(p, x, y, words) for p in raw)
    used = {p.mark for p in raw}
    return Plot(
        points=points,
        front=_front(raw, x, y),
        budget=y.at(measured.allowed),
        budget_label=f"budget: {words.allowed}",
        x_label=f"{_QUANTITY[record.budget.objective]}, {unit}{' (logarithmic)' if x.log else ''}",
        y_label=f"drop of {measured.metric}{f', {words.drop_unit}' if words.share else ''}",
        x_ticks=tuple((x.at(t), tick(t)) for t in x.ticks()),
        y_ticks=tuple((y.at(t), tick(t * words.factor)) for t in y.ticks()),
        marks=tuple((mark, text) for mark, text in MARKS.items() if mark in used),
        beyond=sum(p.beyond for p in points),
        left_out=left_out,
    )


_QUANTITY = {
    "latency": "median latency",
    "throughput": "time per sample at full throughput",
    "size": "size on disk",
}


def _quantity(record: RunRecord, card: Scorecard) -> tuple[float, tuple[float, float] | None] | None:
    """What the x axis shows of a scorecard, less is better: value (ms or bytes) and 95 % interval."""
    found: tuple[float, tuple[float, float] | None] | None = None
    if record.budget.objective == "size":
        found = None if card.size_bytes is None else (float(card.size_bytes), None)
    elif record.budget.objective == "throughput":
        rate = card.throughput_per_s
        if rate is not None and rate.median > 0 and rate.ci95[0] > 0:
            found = 1e3 / rate.median, (1e3 / rate.ci95[1], 1e3 / rate.ci95[0])
    elif card.latency_ms is not None:
        found = card.latency_ms.median, card.latency_ms.ci95
    return found if found is not None and 0 < found[0] < math.inf else None


def _trial_point(record: RunRecord, row: Row) -> _Raw | None:
    trial = row.trial
    quantity = _quantity(record, trial)
    quality = trial.quality
    if quantity is None or (quality is None and row.kind != "original"):
        return None
    drop = quality.drop if quality else 0.0
    if not math.isfinite(drop):
        return None
    mark = "baseline" if row.kind == "original" else row.kind
    if mark not in MARKS:
        return None
    return _Raw(
        mark=mark,
        anchor=row.anchor,
        x=quantity[0],
        x_ci=quantity[1],
        drop=drop,
        drop_ci=quality.ci95 if quality and row.kind != "original" else None,
        label=str(trial.recipe),
        facts=row.facts,
    )


def _holdout_point(made: Claim) -> _Raw | None:
    best = made.record.best
    if best is None or best.holdout.quality is None:
        return None
    quantity = _quantity(made.record, best.holdout) or _quantity(made.record, made.trial)
    quality = best.holdout.quality
    if quantity is None or not math.isfinite(quality.drop):
        return None
    words = figures.QualityWords(quality)
    facts = [("drop", f"{words.amount(quality.drop)}, {words.interval}"), ("verdict", words.verdict)]
    if made.gain is not None:
        ratio = figures.speed(made.gain, made.record.budget.objective)
        facts.append(("against the original", f"{ratio.text} [{ratio.interval}]"))
    facts.append(("samples", figures.count(quality.n)))
    label = f"{made.trial.recipe}, on Holdout"
    return _Raw("holdout", "card-quality", *quantity, quality.drop, quality.ci95, label, tuple(facts))


def _source_point(record: RunRecord) -> _Raw | None:
    source = record.source
    if source is None or record.budget.objective != "latency" or not source.latency_ms.median > 0:
        return None
    measured = source.latency_ms
    facts = (("latency", f"{figures.latency(measured)} [{figures.latency_interval(measured)}]"),)
    return _Raw("source", "before-after", measured.median, measured.ci95, 0.0, None, source.name, facts)


def _x_unit(record: RunRecord, largest: float) -> tuple[str, float]:
    if record.budget.objective != "size":
        return figures.time_unit(largest)
    unit = figures.size(largest).rpartition(" ")[2]
    return unit, {"bytes": 1.0, "kB": 1e-3, "MB": 1e-6, "GB": 1e-9}[unit]


def _x_axis(values: Sequence[float]) -> Axis:
    low, high = min(values), max(values)
    if high / low > 3:
        return Axis(low / 1.2, high * 1.2, log=True)
    pad = 0.1 * (high - low) or 0.1 * high
    return Axis(max(0.0, low - pad), high + pad)


def _y_axis(raw: Sequence[_Raw], allowed: float) -> Axis:
    """From the best drop to somewhat beyond the budget; a collapsed trial must not flatten the others."""
    drops = [p.drop for p in raw]
    near = [p.drop for p in raw if p.mark != "rejected"]
    near += [end for p in raw if p.mark in ("chosen", "holdout") and p.drop_ci for end in p.drop_ci]
    near = [v for v in near if math.isfinite(v)]
    high = max([1.4 * allowed if math.isfinite(allowed) else 0.0, *near])
    if max(drops) <= 2.5 * high:
        high = max(high, *drops)
    low = min([0.0, *near, *drops])
    pad = 0.08 * (high - low) or 0.01
    return Axis(low - pad, high + pad, span=BAND)


def _place(p: _Raw, x: Axis, y: Axis, words: figures.QualityWords) -> Point:
    beyond = p.drop > y.high
    drop_ci = None if beyond else p.drop_ci
    return Point(
        mark=p.mark,
        anchor=p.anchor,
        x=x.at(p.x),
        y=(100.0 + BAND) / 2 if beyond else y.at(p.drop),
        x_bar=(x.at(p.x_ci[0]), x.at(p.x_ci[1])) if p.x_ci else None,
        y_bar=(y.at(drop_ci[0]), y.at(drop_ci[1])) if drop_ci else None,
        beyond=beyond,
        drop=words.drop_number(p.drop),
        label=p.label,
        facts=p.facts,
    )


def _front(raw: Sequence[_Raw], x: Axis, y: Axis) -> tuple[Segment, ...]:
    """The staircase below which no measured trial lies: nothing is both faster and loses less."""
    on = [p for p in raw if p.mark in ("chosen", "baseline", "ok", "rejected") and p.drop <= y.high]
    steps: list[tuple[float, float]] = []
    for p in sorted(on, key=lambda p: (p.x, p.drop)):
        if not steps or p.drop < steps[-1][1]:
            steps.append((p.x, p.drop))
    segments = []
    for (x1, d1), (x2, d2) in pairwise(steps):
        segments.append(Segment(x.at(x1), y.at(d1), x.at(x2), y.at(d1)))
        segments.append(Segment(x.at(x2), y.at(d1), x.at(x2), y.at(d2)))
    if steps:
        last = x.at(steps[-1][0]), y.at(steps[-1][1])
        segments.append(Segment(*last, 100.0, last[1]))
    return tuple(segments)
