"""The verdict in a few plain lines."""

from __future__ import annotations

from pathlib import Path

import pytest

from hasten.core.errors import RecordError
from hasten.report import summary
from hasten.report.before_after import before_after
from hasten.report.claim import against_source, claim

from . import parts, records


def test_says_the_verdict_and_its_numbers() -> None:
    text = "\n".join(summary(records.record(), Path("fast")))
    assert text.splitlines()[0] == records.record().headline
    for said in (
        "speed    3.18× faster (95 % interval 3.08× to 3.28×): 12.4 ms -> 3.90 ms",
        "today    PyTorch 2.13 eager takes 48.2 ms; what was saved is 12.4× faster",
        "12.4× faster (95 % interval 11.6× to 13.1×)",
        "accuracy 90.87 % -> 90.61 % on Holdout: 0.26 points lost (95 % interval 0.13 gained to 0.65 points",
        "n = 2,000); within budget (0.91 points)",
        "12.4 MB -> 3.20 MB (3.88× smaller)",
        "88.1 MB -> 61.2 MB (1.44× less) peak resident",
        "openvino, threads=2; measured on Example CPU 8000",
        f"model    {Path('fast') / 'model.xml'}",
        f"report   {Path('fast') / 'report.html'}",
    ):
        assert said in text, said


def test_what_was_kept_says_why() -> None:
    lines = summary(records.kept())
    assert any("12.4 ms (95 % interval 12.2 to 12.6 ms)" in line for line in lines)
    assert any(line.startswith("  why") for line in lines)
    assert sum("no VNNI" in line for line in lines) == 1
    assert not any("->" in line for line in lines)
    assert any("PyTorch 2.13 eager takes 48.2 ms; what was saved is 3.89× faster" in line for line in lines)


def test_the_original_has_one_latency() -> None:
    held = records.kept()
    again = held.baseline.model_copy(update={"reference_ms": parts.timing(13.1)})
    made = claim(held.model_copy(update={"baseline": again}))
    assert made.reference_ms == made.latency_ms == held.baseline.latency_ms


def test_the_original_is_shown_from_the_rounds_it_is_compared_in() -> None:
    held = records.record()
    assert held.best is not None
    beside = parts.timing(11.0, p99=17.0)
    card = held.best.holdout.model_copy(update={"reference_ms": beside})
    made = claim(held.model_copy(update={"best": held.best.model_copy(update={"holdout": card})}))
    lines = {line.label: line.before[0] for line in before_after(made)}
    assert lines["Latency, median and 95 % interval"] == "11.0 ms"
    assert lines["Latency, 99th percentile of single runs"] == "17.0 ms"


def test_a_speed_that_cannot_be_told_apart_says_so_and_why() -> None:
    text = "\n".join(summary(records.smaller()))
    assert "0.99×, indistinguishable" in text
    assert "No int8 kernel" in text


def test_without_measurements_only_what_is_known() -> None:
    lines = summary(records.minimal())
    assert lines[0].startswith("Keep the original")
    assert [line.split()[0] for line in lines[1:]] == ["runs"]


def test_control_characters_do_not_reach_the_terminal() -> None:
    made = records.renamed(records.record(), "\x1b[2J\r\n")
    for line in summary(made, Path("fast")):
        assert line.isprintable()


def test_a_record_that_names_a_missing_trial_is_refused() -> None:
    with pytest.raises(RecordError, match="t4"):
        summary(records.record(trials=()))


def test_the_interval_against_the_source_holds_both_uncertainties() -> None:
    made = records.record()
    assert made.source is not None
    assert made.best is not None
    assert made.best.holdout.speedup is not None
    compared = against_source(claim(made))
    assert compared is not None
    saved, source = made.best.holdout.speedup, made.source.speedup
    assert compared.median == pytest.approx(saved.median / source.median)
    assert compared.ci95[0] < compared.median * saved.ci95[0] / saved.median
    assert compared.ci95[1] > compared.median * source.median / source.ci95[0]
    assert compared.verdict == "better"
    kept = against_source(claim(records.kept()))
    assert kept is not None
    assert kept.median == pytest.approx(48.2 / 12.4)
