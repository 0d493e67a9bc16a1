"""How fast is it? Rounds of several sets of processes, and what may be concluded from them."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Literal, NamedTuple

import numpy as np

from hasten.core.data import Dataset
from hasten.core.errors import TrialError
from hasten.core.measurement import Comparison, Measurement
from hasten.measuring.feeds import choose_feeds, shapes
from hasten.measuring.rounds import Clock, live
from hasten.measuring.statistics import FloatArray, process_interval
from hasten.measuring.subject import Conditions, Progress, Subject

_P90_RUNS, _P99_RUNS = 100, 1000
_Figure = Literal["lives", "rates"]
_CLEAR = 0.15
"""A ratio whose interval is this narrow beside its distance from 1 is known well enough."""


class Timing(NamedTuple):
    """Latency of one inference (a whole batch) in ms, the reference's in the same rounds, and its ratio.

    Where throughput was measured: samples a second under full load, and their ratio to the reference's.
    """

    latency_ms: Measurement
    reference_ms: Measurement
    speedup: Comparison
    throughput_per_s: Measurement | None = None
    throughput_gain: Comparison | None = None

    @property
    def fields(self) -> dict[str, Measurement | Comparison | None]:
        """What a scorecard says of it."""
        return self._asdict()


def time_interleaved(
    subjects: Sequence[Subject], data: Dataset, conditions: Conditions, *, progress: Progress | None = None
) -> list[Timing | TrialError]:
    """Time all subjects in alternating rounds, one fresh process each; the first is the reference.

    The ratio is taken within a round. After some rounds all processes are started afresh, since two
    processes of one model differ by a per cent or two for as long as they live (where their memory lies),
    which no number of rounds within them shows. It ends with the time or the rounds of ``conditions``, or
    when every ratio is known to ``conditions.precision`` or is far from 1.
    A subject that cannot be opened or run, crashes or hangs yields its TrialError in its place and the
    others go on; when the reference fails its error is raised.
    """
    feeds = choose_feeds(data, conditions)
    clocks = [Clock(subject) for subject in subjects]
    limit_s = conditions.time_limit_s * max(1.0, len(subjects) / 2)
    began = time.monotonic()
    while True:
        started = time.monotonic()
        live(clocks, data, feeds, conditions)
        now = time.monotonic()
        if progress:
            progress("timing", min(1.0, (now - began) / limit_s))
        # One life more is begun where it would end in time; the second, without which luck looks like a
        # difference, as long as there is time at all.
        ends = now - began + (now - started if len(clocks[0].lives) > 1 else 0.0)
        if ends > limit_s or _enough(clocks, conditions):
            break
    alike = len({tuple(shapes(data, numbers[0]).values()) for numbers in feeds}) == 1
    cycle = 1 if alike else len(feeds)
    return [clock.error or _timing(clock, clocks[0], cycle, conditions) for clock in clocks]


def _enough(clocks: Sequence[Clock], conditions: Conditions) -> bool:
    rounds = sum(map(len, clocks[0].lives))
    if rounds >= conditions.rounds_max:
        return True
    if rounds < conditions.rounds_min:
        return False
    figure: _Figure = "rates" if conditions.throughput else "lives"
    compared = [_ratios(clocks[0], c, figure) for c in clocks[1:] if c.error is None]
    compared = compared or [_rounds(clocks[0], figure)]
    return all(_known(lives, conditions, against_one=len(clocks) > 1) for lives in compared)


def _known(lives: list[FloatArray], conditions: Conditions, *, against_one: bool) -> bool:
    low, high = process_interval(lives, conditions.seed)
    middle = float(np.median(np.concatenate(lives)))
    far = _CLEAR * abs(middle - 1) if against_one else 0.0
    return (high - low) / 2 <= max(conditions.precision * middle, far)


def _rounds(clock: Clock, figure: _Figure) -> list[FloatArray]:
    return [np.asarray(life) for life in getattr(clock, figure)]


def _ratios(reference: Clock, clock: Clock, figure: _Figure) -> list[FloatArray]:
    """How many times better the clock is than the reference: less time, or a higher rate."""
    pairs = zip(_rounds(reference, figure), _rounds(clock, figure), strict=True)
    return [a / b if figure == "lives" else b / a for a, b in pairs]


def _timing(clock: Clock, reference: Clock, cycle: int, conditions: Conditions) -> Timing:
    latency = _measured(clock, "lives", cycle, conditions)
    before = _measured(reference, "lives", cycle, conditions)
    compared = _compared(reference, clock, "lives", conditions)
    if not conditions.throughput:
        return Timing(latency, before, compared)
    rate = _measured(clock, "rates", cycle, conditions)
    return Timing(latency, before, compared, rate, _compared(reference, clock, "rates", conditions))


def _compared(reference: Clock, clock: Clock, figure: _Figure, conditions: Conditions) -> Comparison:
    if clock is reference:
        return Comparison(median=1.0, ci95=(1.0, 1.0), verdict="indistinguishable")
    return compare_rounds(_ratios(reference, clock, figure), conditions.seed)


def _measured(clock: Clock, figure: _Figure, cycle: int, conditions: Conditions) -> Measurement:
    lives = _rounds(clock, figure)
    rounds = np.concatenate(lives)
    spread = _spread(lives, cycle)
    runs = len(clock.singles) if figure == "lives" else 0
    return Measurement(
        unit="ms" if figure == "lives" else "1/s",
        median=float(np.median(rounds)),
        ci95=process_interval(lives, conditions.seed),
        rounds=len(rounds),
        spread=spread,
        samples=tuple(rounds.tolist()),
        p90=float(np.percentile(clock.singles, 90)) if runs >= _P90_RUNS else None,
        p99=float(np.percentile(clock.singles, 99)) if runs >= _P99_RUNS else None,
        warning=_warning(spread, conditions),
    )


def compare_rounds(lives: Sequence[FloatArray], seed: int) -> Comparison:
    """The verdict on reference over candidate: one ratio a round, grouped by process pair."""
    low, high = process_interval(lives, seed)
    middle = float(np.median(np.concatenate(lives)))
    if low <= 1.0 <= high:
        return Comparison(median=middle, ci95=(low, high), verdict="indistinguishable")
    return Comparison(median=middle, ci95=(low, high), verdict="better" if low > 1.0 else "worse")


def _spread(lives: Sequence[FloatArray], cycle: int) -> float:
    """Interquartile range over median, of rounds relative to the others on the same feed.

    cycle: after how many rounds the shapes come again. Feeds of different shapes take different times; that
    is the model's, not noise.
    """
    values = np.concatenate(lives)
    numbers = np.concatenate([np.arange(len(life)) % cycle for life in lives])
    relative = values.copy()
    for number in np.unique(numbers):
        relative[numbers == number] /= np.median(values[numbers == number])
    low, high = np.percentile(relative, [25, 75])
    return float((high - low) / np.median(relative))


def _warning(spread: float, conditions: Conditions) -> str | None:
    if spread <= conditions.noise:
        return None
    return (
        f"noisy: the middle half of the rounds spreads over {spread:.0%} of the median (more than "
        f"{conditions.noise:.0%}); other programs may be using these cores"
    )
