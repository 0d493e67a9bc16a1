"""How fast is it? Interleaved rounds, one process a subject, on the same cores."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple, cast

import numpy as np

from hasten.core.data import LABELS, Dataset
from hasten.core.errors import TrialError
from hasten.core.measurement import Comparison, Measurement
from hasten.core.recipe import Json
from hasten.measure.statistics import FloatArray, median_interval
from hasten.measure.subject import Conditions, Progress, Subject
from hasten.measure.workers import Lane

_ROUND_MS = 30.0
"""A round lasts at least this long, so that its median is of many runs and outlasts a scheduler's slice."""
_FEWEST_RUNS = 3
_SLOW_MS = 100.0
"""A run this long is a round of its own."""
_FEEDS = 8
_FEED_BYTES = 64 << 20
_WARM_UP_S = 2.0
_CHECK_EVERY = 5
_P90_RUNS, _P99_RUNS = 100, 1000


class Timing(NamedTuple):
    """Latency of one inference (a whole batch) in ms, and the reference's over it."""

    latency_ms: Measurement
    speedup: Comparison


@dataclass
class _Clock:
    """A subject being timed: one median a round, and every single run."""

    lane: Lane
    runs: int = 1
    rounds: list[float] = field(default_factory=list)
    singles: list[float] = field(default_factory=list)
    error: TrialError | None = None


def time_interleaved(
    subjects: Sequence[Subject], data: Dataset, conditions: Conditions, *, progress: Progress | None = None
) -> list[Timing | TrialError]:
    """Time all subjects in alternating rounds, one fresh process each; the first is the reference.

    A round runs every subject on the same feed, in an order that turns round every time, so that what drifts
    (frequency, other programs) falls on all alike; the ratio is taken within the round. It ends when the
    interval of every ratio is as narrow as ``conditions.precision``, or with the time or the rounds.
    A subject that cannot be opened or run, crashes or hangs yields its TrialError in its place and the
    others go on; when the reference fails its error is raised.
    """
    feeds = choose_feeds(data, conditions)
    with contextlib.ExitStack() as stack:
        clocks = [_Clock(stack.enter_context(Lane(subject, conditions))) for subject in subjects]
        for clock in clocks:
            with _failing(clock):
                _prepare(clock, data, feeds, conditions)
        _check_reference(clocks)
        began = time.monotonic()
        for number in range(conditions.rounds_max):
            for clock in clocks if number % 2 == 0 else reversed(clocks):
                if clock.error is None:
                    with _failing(clock):
                        _round(clock, number)
            _check_reference(clocks)
            elapsed = time.monotonic() - began
            if progress:
                progress("timing", min(1.0, elapsed / conditions.time_limit_s))
            if elapsed > conditions.time_limit_s or _precise(clocks, number + 1, conditions):
                break
    return [_timing(clock, clocks[0], len(feeds), conditions) for clock in clocks]


@contextlib.contextmanager
def _failing(clock: _Clock) -> Iterator[None]:
    try:
        yield
    except TrialError as error:
        clock.error = error
        clock.lane.close()


def _check_reference(clocks: Sequence[_Clock]) -> None:
    if clocks[0].error is not None:
        raise clocks[0].error


def choose_feeds(data: Dataset, conditions: Conditions) -> list[list[int]]:
    """Batches to time on: sample numbers of equal shapes, seeded, so that shapes come as often as they do.

    A batch for which too few samples have its shape is filled by repeating them.
    """
    if not len(data):
        raise TrialError("there are no samples to time on")
    rng = np.random.default_rng(conditions.seed)
    wanted = conditions.batch
    first = data.store.sample(data.indices[0])
    sample_bytes = max(1, sum(v.nbytes for v in first.values()))
    count = int(np.clip(_FEED_BYTES // (sample_bytes * wanted), 1, _FEEDS))
    starts = rng.permutation(len(data))[:count]
    if wanted == 1:
        return [[data.indices[i]] for i in starts]
    return [_fill(data, int(start), wanted) for start in starts]


def _fill(data: Dataset, start: int, wanted: int) -> list[int]:
    order = [data.indices[(start + i) % len(data)] for i in range(min(len(data), 8 * wanted))]
    shape = _shapes(data, order[0])
    alike = [i for i in order if _shapes(data, i) == shape][:wanted]
    return [alike[i % len(alike)] for i in range(wanted)]


def _shapes(data: Dataset, index: int) -> dict[str, tuple[int, ...]]:
    return {name: v.shape for name, v in data.store.sample(index).items() if name != LABELS}


def _prepare(clock: _Clock, data: Dataset, feeds: list[list[int]], conditions: Conditions) -> None:
    lane = clock.lane
    lane.ask("stay_on", cores=cast("Json", cores_for(conditions.threads)))
    lane.open(conditions)
    lane.ask(
        "preload",
        store=str(data.store.folder.resolve()),
        batches=cast("Json", feeds),
        batch=conditions.batch,
    )
    run_ms = max(1e-3, cast("float", lane.ask("warm_up", limit_s=_WARM_UP_S)))
    clock.runs = 1 if run_ms > _SLOW_MS else max(_FEWEST_RUNS, round(_ROUND_MS / run_ms))


def cores_for(threads: int) -> list[int]:
    """The cores all subjects are timed on: as many as there are threads, the same for every one.

    Left to the operating system, one process can sit for seconds beside another busy program and the other
    not, which looks like a difference between the two. Empty where the system has no such setting.
    """
    return sorted(os.sched_getaffinity(0))[:threads] if hasattr(os, "sched_getaffinity") else []


def _round(clock: _Clock, number: int) -> None:
    times = cast("list[float]", clock.lane.ask("time_round", number=number, runs=clock.runs))
    clock.singles += times
    clock.rounds.append(float(np.median(times)))


def _precise(clocks: Sequence[_Clock], rounds: int, conditions: Conditions) -> bool:
    if rounds < conditions.rounds_min or (rounds - conditions.rounds_min) % _CHECK_EVERY:
        return False
    alive = [c for c in clocks if c.error is None]
    compared = [_ratios(clocks[0], c) for c in alive[1:]] or [np.asarray(clocks[0].rounds)]
    for values in compared:
        low, high = median_interval(values, conditions.seed, draws=1000)
        if high - low > 2 * conditions.precision * float(np.median(values)):
            return False
    return True


def _ratios(reference: _Clock, clock: _Clock) -> FloatArray:
    count = min(len(reference.rounds), len(clock.rounds))
    ratios: FloatArray = np.asarray(reference.rounds[:count]) / np.asarray(clock.rounds[:count])
    return ratios


def _timing(clock: _Clock, reference: _Clock, feeds: int, conditions: Conditions) -> Timing | TrialError:
    if clock.error is not None:
        return clock.error
    rounds = np.asarray(clock.rounds)
    spread = _spread(rounds, feeds)
    runs = len(clock.singles)
    latency = Measurement(
        unit="ms",
        median=float(np.median(rounds)),
        ci95=median_interval(rounds, conditions.seed),
        rounds=len(rounds),
        spread=spread,
        samples=tuple(clock.rounds),
        p90=float(np.percentile(clock.singles, 90)) if runs >= _P90_RUNS else None,
        p99=float(np.percentile(clock.singles, 99)) if runs >= _P99_RUNS else None,
        warning=_warning(spread, conditions),
    )
    if clock is reference:
        return Timing(latency, Comparison(median=1.0, ci95=(1.0, 1.0), verdict="indistinguishable"))
    return Timing(latency, compare_rounds(_ratios(reference, clock), conditions.seed))


def compare_rounds(ratios: FloatArray, seed: int) -> Comparison:
    """The verdict on reference over candidate, one ratio a round."""
    low, high = median_interval(ratios, seed)
    middle = float(np.median(ratios))
    if low <= 1.0 <= high:
        return Comparison(median=middle, ci95=(low, high), verdict="indistinguishable")
    return Comparison(median=middle, ci95=(low, high), verdict="better" if low > 1.0 else "worse")


def _spread(rounds: FloatArray, feeds: int) -> float:
    """Interquartile range over median, of rounds relative to the others on the same feed.

    Feeds of different shapes take different times; that is the model's, not noise.
    """
    relative = rounds.copy()
    for i in range(min(feeds, len(rounds))):
        relative[i::feeds] /= np.median(rounds[i::feeds])
    low, high = np.percentile(relative, [25, 75])
    return float((high - low) / np.median(relative))


def _warning(spread: float, conditions: Conditions) -> str | None:
    if spread <= conditions.noise:
        return None
    return (
        f"noisy: the middle half of the rounds spreads over {spread:.0%} of the median (more than "
        f"{conditions.noise:.0%}); other programs may be using these cores"
    )


def throughput(subject: Subject, data: Dataset, conditions: Conditions) -> float:
    """Samples a second with as many requests under way as keep the runtime busy; raises TrialError."""
    feeds = choose_feeds(data, conditions)
    with Lane(subject, conditions) as lane:
        lane.open(conditions)
        lane.ask(
            "preload",
            store=str(data.store.folder.resolve()),
            batches=cast("Json", feeds),
            batch=conditions.batch,
        )
        lane.ask("warm_up", limit_s=_WARM_UP_S)
        seconds = min(2.0, conditions.time_limit_s)
        return cast("float", lane.ask("throughput", seconds=seconds, most_callers=conditions.threads))
