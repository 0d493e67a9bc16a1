"""The geometry of the plot, checked against the record's own numbers."""

from __future__ import annotations

import math

import pytest

from hasten.core.record import RunRecord
from hasten.report.axis import Axis, tick
from hasten.report.claim import claim
from hasten.report.plot import BAND, Plot, Point, plot
from hasten.report.rows import rows

from . import parts, records


def drawn(made: RunRecord) -> Plot:
    laid = plot(claim(made), rows(claim(made)))
    assert laid is not None
    return laid


def named(laid: Plot, anchor: str) -> Point:
    return next(p for p in laid.points if p.anchor == anchor)


@pytest.mark.parametrize(("low", "high"), [(0.3, 0.9), (3.1, 57.8), (0.02, 4000.0), (11.0, 12.5)])
@pytest.mark.parametrize("log", [False, True])
def test_ticks_lie_inside_the_scale(low: float, high: float, log: bool) -> None:
    axis = Axis(low, high, log=log)
    ticks = axis.ticks()
    assert 2 <= len(ticks) <= 8
    assert all(low <= t <= high for t in ticks)
    assert ticks == sorted(set(ticks))
    assert axis.at(low) == 0
    assert axis.at(high) == 100
    assert axis.at(high * 9) == 100


def test_a_logarithmic_scale_puts_equal_ratios_at_equal_distances() -> None:
    axis = Axis(1, 100, log=True)
    assert axis.at(10) == pytest.approx(50)
    assert axis.at(50) - axis.at(5) == pytest.approx(50, abs=0.01)


def test_ticks_are_written_without_noise() -> None:
    assert tick(0.1 + 0.2) == "0.3"
    assert tick(-0.0) == "0"
    assert tick(-0.5) == "\N{MINUS SIGN}0.5"


def test_order_on_the_page_is_order_of_the_numbers() -> None:
    made = records.many()
    laid = drawn(made)
    at = {r.anchor: r.trial for r in rows(claim(made))}
    on = [p for p in laid.points if p.anchor in at and not p.beyond]
    by_x = sorted(on, key=lambda p: p.x)
    by_y = sorted(on, key=lambda p: p.y)
    times = [at[p.anchor].latency_ms.median for p in by_x]  # type: ignore[union-attr]
    drops = [at[p.anchor].quality.drop for p in by_y]  # type: ignore[union-attr]
    assert times == sorted(times)
    assert drops == sorted(drops)


def test_the_front_is_what_nothing_measured_beats() -> None:
    laid = drawn(records.many())
    candidates = [
        p for p in laid.points if p.mark in ("ok", "rejected", "chosen", "baseline") and not p.beyond
    ]
    best = {
        (p.x, p.y)
        for p in candidates
        if not any((q.x <= p.x and q.y <= p.y) and (q.x, q.y) != (p.x, p.y) for q in candidates)
    }
    starts = {(s.x1, s.y1) for s in laid.front if s.y1 == s.y2}
    assert starts == best
    for before, after in zip(laid.front, laid.front[1:], strict=False):
        assert (before.x2, before.y2) == (after.x1, after.y1)


def test_a_collapsed_trial_does_not_flatten_the_others() -> None:
    laid = drawn(records.record())
    collapsed = [p for p in laid.points if p.beyond]
    assert [p.drop for p in collapsed] == ["61.20"]
    assert collapsed[0].y > BAND
    assert 30 < laid.budget < BAND
    assert laid.beyond == 1
    assert laid.left_out == 2


def test_the_claim_and_the_source_have_their_own_marks() -> None:
    laid = drawn(records.record())
    assert [p.mark for p in laid.points][-1] == "holdout"
    assert named(laid, "card-quality").mark == "holdout"
    source = named(laid, "before-after")
    assert source.mark == "source"
    assert source.x == max(p.x for p in laid.points)
    assert [m for m, _ in drawn(records.kept()).marks if m in ("chosen", "holdout")] == []


def test_error_bars_hold_their_estimate() -> None:
    for p in drawn(records.record()).points:
        for bar, at in ((p.x_bar, p.x), (p.y_bar, p.y)):
            assert bar is None or bar[0] <= at <= bar[1]


def test_a_search_for_size_plots_size() -> None:
    laid = drawn(records.smaller())
    assert laid.x_label.startswith("size on disk, MB")
    assert all(p.x_bar is None for p in laid.points)


def test_a_search_for_throughput_plots_time_per_sample() -> None:
    made = records.record()
    budget = made.budget.model_copy(update={"objective": "throughput"})
    laid = drawn(made.model_copy(update={"budget": budget}))
    assert laid.x_label.startswith("time per sample at full throughput, ms")
    assert named(laid, "trial-4").x == min(p.x for p in laid.points if p.mark != "holdout")
    bar = named(laid, "trial-4").x_bar
    assert bar is not None
    assert bar[0] < named(laid, "trial-4").x < bar[1]


def test_one_trial_makes_no_plot() -> None:
    made = records.minimal()
    assert plot(claim(made), rows(claim(made))) is None


def test_unlimited_drops_and_equal_trials_are_drawn() -> None:
    flat = parts.quality(0.0, half=0.0, allowed=0.0)
    wild = parts.quality(math.inf)
    trials = [t.model_copy(update={"quality": flat, "latency_ms": parts.timing(5.0)}) for t in parts.trials()]
    trials[6] = trials[6].model_copy(update={"quality": wild})
    made = records.record(trials=tuple(trials), source=None)
    laid = drawn(made)
    assert all(0 <= p.x <= 100 and 0 <= p.y <= 100 for p in laid.points)
    assert laid.left_out == 3
