"""Interleaved rounds: fresh processes for all subjects, the same cores, turn by turn."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import cast

import numpy as np

from hasten.core.data import Dataset
from hasten.core.errors import TrialError
from hasten.core.recipe import Json
from hasten.measuring.subject import Conditions, Subject
from hasten.measuring.workers import Lane

ROUNDS = 10
"""Rounds of one set of processes: even, so that every order comes as often as its reverse."""
_ROUND_MS = 30.0
"""A round lasts at least this long, so that its median is of many runs and outlasts a scheduler's slice."""
_FEWEST_RUNS = 3
_SLOW_MS = 100.0
"""A run this long is a round of its own."""
_WARM_UP_S = 2.0
_LOAD_S, _LOAD_RUNS = 0.1, 4
"""A round under load lasts so many seconds, and so many runs of a caller, that its ragged end is small."""


@dataclass
class Clock:
    """A subject being timed, a figure a round, grouped by process.

    lives: the median of the round's runs, in ms. singles: every single run of all rounds, in ms.
    rates: samples a second of the round under full load, where throughput is measured.
    """

    subject: Subject
    lives: list[list[float]] = field(default_factory=list)
    singles: list[float] = field(default_factory=list)
    rates: list[list[float]] = field(default_factory=list)
    error: TrialError | None = None

    @contextlib.contextmanager
    def failing(self) -> Iterator[None]:
        """What fails inside becomes this subject's error."""
        try:
            yield
        except TrialError as error:
            self.error = error


def live(clocks: Sequence[Clock], data: Dataset, feeds: list[list[int]], conditions: Conditions) -> None:
    """Time all subjects in one fresh process each; every clock gains a life of up to ``ROUNDS`` rounds.

    A round runs every subject on the same feed, in an order that turns round every time, so that what drifts
    (frequency, other programs) falls on all alike. A subject that fails keeps its error and the others go
    on; when the first, the reference, fails its error is raised.
    """
    with contextlib.ExitStack() as stack:
        seats = [
            _Seat(clock, stack.enter_context(Lane(clock.subject, conditions)), conditions)
            for clock in clocks
            if clock.error is None
        ]
        with ThreadPoolExecutor(len(seats)) as pool:
            list(pool.map(_Seat.start, seats))
        cores = _shared_cores([clock.subject for clock in clocks], conditions)
        for seat in seats:
            seat.prepare(data, feeds, cores)
        for number in range(min(ROUNDS, conditions.rounds_max)):
            for seat in seats if number % 2 == 0 else reversed(seats):
                seat.round(number)
            if clocks[0].error is not None:
                raise clocks[0].error


class _Seat:
    """A subject's process for the length of one life."""

    def __init__(self, clock: Clock, lane: Lane, conditions: Conditions) -> None:
        self.clock = clock
        self.lane = lane
        self.conditions = conditions
        self.runs = 1
        self.load_s = _LOAD_S
        clock.lives.append([])
        clock.rates.append([])

    def start(self) -> None:
        """Import the runtime, which takes longest and disturbs no one yet."""
        with self.clock.failing():
            self.lane.ask("import_runtime", target=self.clock.subject.artifact.target)

    def prepare(self, data: Dataset, feeds: list[list[int]], cores: list[int]) -> None:
        """Open the artifact on the shared cores, warm up, and find how many runs make a round."""
        if self.clock.error is not None:
            return
        with self.clock.failing():
            self.lane.ask("stay_on", cores=cast("Json", cores))
            self.lane.open(self.conditions)
            _preload(self.lane, data, feeds, self.conditions)
            run_ms = max(1e-3, cast("float", self.lane.ask("warm_up", limit_s=_WARM_UP_S)))
            self.runs = 1 if run_ms > _SLOW_MS else max(_FEWEST_RUNS, round(_ROUND_MS / run_ms))
            self.load_s = max(_LOAD_S, _LOAD_RUNS * run_ms / 1e3)

    def round(self, number: int) -> None:
        """One round; nothing when the subject has failed."""
        if self.clock.error is not None:
            self.lane.close()
            return
        with self.clock.failing():
            times = cast("list[float]", self.lane.ask("time_round", number=number, runs=self.runs))
            self.clock.singles += times
            self.clock.lives[-1].append(float(np.median(times)))
            if self.conditions.throughput:
                rate = self.lane.ask(
                    "load_round", number=number, seconds=self.load_s, most_callers=self.conditions.threads
                )
                self.clock.rates[-1].append(cast("float", rate))


def _preload(lane: Lane, data: Dataset, feeds: list[list[int]], conditions: Conditions) -> None:
    """Have the process read the feeds; raises TrialError."""
    store = str(data.store.folder.resolve())
    lane.ask("preload", store=store, batches=cast("Json", feeds), batch=conditions.batch)


def _shared_cores(subjects: Sequence[Subject], conditions: Conditions) -> list[int]:
    """The cores all subjects are timed on: as many as the most threads one of them uses.

    Left to the operating system, one process can sit for seconds beside another busy program and the other
    not, which looks like a difference between the two. Empty where the system has no such setting.
    """
    if not hasattr(os, "sched_getaffinity"):
        return []
    own = [int(s.artifact.options.get("threads") or 0) for s in subjects]
    return sorted(os.sched_getaffinity(0))[: max(conditions.threads, *own)]
