"""Numbers with their uncertainty: a measurement is raw samples, a comparison has a verdict."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict

Verdict = Literal["better", "worse", "indistinguishable"]


def ratio_text(value: float) -> str:
    """A ratio with two decimals, and three next to 1: a verdict hangs on whether an interval ends there."""
    return f"{value:.3f}" if f"{value:.2f}" == "1.00" and value != 1 else f"{value:.2f}"


class Record(BaseModel):
    """Base of everything that is written to ``hasten.json``: frozen, and strict about unknown keys."""

    model_config = ConfigDict(frozen=True, extra="forbid", ser_json_inf_nan="null")


class Measurement(Record):
    """Latency (or another repeated quantity) of one subject over interleaved rounds.

    samples: one value a round, each the median of that round's runs.
    spread: interquartile range of ``samples`` over their median, dimensionless.
    p90, p99: percentiles over single runs; None when too few were made to know them.
    warning: what makes this number doubtful, or None.
    """

    unit: str
    median: float
    ci95: tuple[float, float]
    rounds: int
    spread: float
    samples: tuple[float, ...]
    p90: float | None = None
    p99: float | None = None
    warning: str | None = None


class Comparison(Record):
    """How many times faster the candidate is than the reference: above 1 it is faster.

    ``indistinguishable`` when the 95 % interval contains 1.
    """

    median: float
    ci95: tuple[float, float]
    verdict: Verdict
