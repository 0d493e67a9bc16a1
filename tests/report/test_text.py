"""The verdict in a few plain lines."""

from __future__ import annotations

from pathlib import Path

import pytest

from hasten.core.errors import RecordError
from hasten.report import summary

from . import records


def test_says_the_verdict_and_its_numbers() -> None:
    text = "\n".join(summary(records.record(), Path("fast")))
    assert text.splitlines()[0] == records.record().headline
    for said in (
        "speed    3.18× faster (95 % interval 3.08× to 3.28×): 12.4 ms -> 3.90 ms",
        "today    PyTorch 2.13 eager: 48.2 ms; what was saved is 12.4× faster",
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
