"""Budgets are read as people write them, and refused with the way out."""

from __future__ import annotations

import pytest

from hasten.core.budget import Budget, parse_drop, parse_seconds
from hasten.core.errors import InputError


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("1%", (0.01, False)),
        ("0.1%", (0.001, False)),
        ("0.01", (0.01, False)),
        ("0.5pt", (0.005, True)),
        ("0", (0.0, False)),
    ],
)
def test_drops(text: str, expected: tuple[float, bool]) -> None:
    assert parse_drop(text) == pytest.approx(expected)


@pytest.mark.parametrize("text", ["", "one", "-1%", "1%%", "nan", "1", "1.0", "5"])
def test_bad_drops_say_how_to_write_one(text: str) -> None:
    with pytest.raises(InputError, match="1%"):
        parse_drop(text)


@pytest.mark.parametrize(
    ("text", "seconds"), [("90", 90), ("90s", 90), ("5m", 300), ("1h30m", 5400), ("0.5m", 30)]
)
def test_durations(text: str, seconds: float) -> None:
    assert parse_seconds(text) == pytest.approx(seconds)


@pytest.mark.parametrize("text", ["", "5 minutes", "m5", "5d"])
def test_bad_durations_say_how_to_write_one(text: str) -> None:
    with pytest.raises(InputError, match="5m"):
        parse_seconds(text)


def test_a_relative_drop_scales_with_the_original() -> None:
    assert Budget(max_drop=0.01).allowed(80.0) == pytest.approx(0.8)
    assert Budget(max_drop=0.5, points=True).allowed(80.0) == pytest.approx(0.5)


@pytest.mark.parametrize("wrong", [{"max_drop": -0.1}, {"max_drop": 1.5}, {"time_s": 0.0}])
def test_impossible_budgets_are_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(InputError):
        Budget(**wrong)  # type: ignore[arg-type]
