"""Numbers as they are written."""

from __future__ import annotations

import pytest

from hasten.core.measurement import Comparison
from hasten.report import figures
from hasten.report.figures import QualityWords

from . import parts


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0, "0"),
        (3.14159, "3.14"),
        (9.996, "10.0"),
        (0.00123456, "0.00123"),
        (-12.345, "\N{MINUS SIGN}12.3"),
        (1234567, "1,234,567"),
        (99.96, "100"),
        (1e-12, "0.000000000"),
        (float("nan"), "not finite"),
        (float("inf"), "not finite"),
    ],
)
def test_number(value: float, text: str) -> None:
    assert figures.number(value) == text


def test_units() -> None:
    assert figures.time_ms(3.859) == "3.86 ms"
    assert figures.time_ms(0.0421) == "42.1 µs"
    assert figures.time_ms(0.42) == "420 µs"
    assert figures.time_ms(1250) == "1.25 s"
    assert figures.size(999) == "999 bytes"
    assert figures.size(12_412_900) == "12.4 MB"
    assert figures.large(386_000_000) == "386 M"
    assert figures.duration(12.34) == "12.3 s"
    assert figures.duration(252) == "4 min 12 s"
    assert figures.duration(3785) == "1 h 03 min"
    assert figures.plural(1, "thread") == "1 thread"
    assert figures.plural(1200, "thread") == "1,200 threads"


def test_an_interval_is_in_the_unit_of_its_median() -> None:
    measured = parts.timing(0.999, spread=0.01)
    assert figures.latency(measured) == "999 µs"
    assert figures.latency_interval(measured) == "994 to 1,004 µs"


def test_a_slow_down_is_turned_over() -> None:
    slower = figures.speed(Comparison(median=0.8, ci95=(0.75, 0.85), verdict="worse"))
    assert slower.sentence == "1.25× slower (95 % interval 1.18× to 1.33×)"


def test_an_interval_around_one_is_said_in_words() -> None:
    same = figures.speed(Comparison(median=1.02, ci95=(0.97, 1.06), verdict="indistinguishable"))
    assert same.text == "1.02×, indistinguishable"
    assert "faster" not in same.sentence


def test_an_end_of_an_interval_next_to_one_shows_its_side() -> None:
    slower = figures.speed(Comparison(median=0.98, ci95=(0.95, 0.997), verdict="worse"))
    assert slower.interval == "1.003× to 1.05×"
    assert figures.times(1.0) == "1.00×"


def test_exact_ratios() -> None:
    assert figures.shrink(12.4e6, 3.2e6, "smaller", "larger") == "3.88× smaller"
    assert figures.shrink(3.2e6, 12.4e6, "smaller", "larger") == "3.88× larger"
    assert figures.shrink(100, 100, "smaller", "larger") == "unchanged"
    assert figures.shrink(0, 100, "smaller", "larger") == ""


def test_shares_are_in_points_and_other_metrics_in_their_own_unit() -> None:
    share = QualityWords(parts.quality(0.0021))
    assert share.level(0.9124) == "91.24 %"
    assert share.amount(0.0021) == "0.21 points lost"
    assert share.amount(-0.0021) == "0.21 points gained"
    assert share.amount(0.0) == "0.00 points"
    assert share.amount(-0.00001) == "0.00 points"
    rank = QualityWords(parts.quality(0.0021, metric="spearman", reference=0.83))
    assert rank.level(0.83) == "0.8300"
    assert rank.amount(0.0021) == "0.00210 lost"
    error = of_an_error()
    assert error.amount(0.0021) == "0.00210 worse"
    assert error.interval == "0.00210 better to 0.00630 worse"
    percent = QualityWords(parts.quality(0.4, metric="accuracy", reference=91.2))
    assert not percent.share
    assert percent.level(91.2) == "91.20"
    assert not QualityWords(parts.quality(0.01, metric="agreement (cosine)", reference=1.0)).share


def of_an_error() -> QualityWords:
    """An error rises from 0.25 to 0.2521: the drop is positive, and nothing is lost."""
    made = parts.quality(0.0021, metric="mse", reference=0.25)
    return QualityWords(made.model_copy(update={"value": 0.2521}))


@pytest.mark.parametrize(
    ("drop", "half", "text"),
    [
        (0.0021, 0.0042, "0.21 gained to 0.63 points lost"),
        (0.0100, 0.0040, "0.60 to 1.40 points lost"),
        (-0.0100, 0.0040, "0.60 to 1.40 points gained"),
        (0.0020, 0.0020, "0.00 to 0.40 points lost"),
        (0.0, 0.0, "0.00 points at both ends"),
    ],
)
def test_the_interval_of_a_drop_needs_no_sign(drop: float, half: float, text: str) -> None:
    assert QualityWords(parts.quality(drop, half=half)).interval == text


def test_the_budget_in_words() -> None:
    met, sample, missed = (QualityWords(parts.quality(d)) for d in (0.002, 0.008, 0.02))
    assert met.verdict == "within budget"
    assert sample.verdict == "within budget on the sample, not proven"
    assert "about 3,400 samples would settle it" in sample.budget
    assert missed.verdict == "over budget"
    assert "the estimate is beyond it" in missed.budget
