"""What is measured, and under which conditions."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from hasten.core.errors import InputError
from hasten.core.record import Artifact
from hasten.core.target import usable_cores

Progress = Callable[[str, float], None]
"""Called with what is being done and how much of it is done (0 to 1)."""


@dataclass(frozen=True)
class Subject:
    """One artifact to measure; ``folder`` holds its files, ``name`` is for messages and reports."""

    artifact: Artifact
    folder: Path
    name: str


@dataclass(frozen=True, kw_only=True)
class Conditions:
    """The conditions a measurement is made under, the same for every subject.

    batch: samples in one inference. threads: cores the runtime may use, unless the artifact's own options
    say how many. seed: of every random choice. rounds_min, rounds_max: rounds of timing; between them timing
    ends when the interval of every ratio is within ``precision`` of its median (0.02 is ±2 %), or the ratio
    is far from 1. time_limit_s: for timing two subjects, more take their share more; one set of processes is
    timed however long it takes. noise: the interquartile range over
    the median above which a timing carries a warning. timeout_s: after which a process is taken to hang.
    throughput: whether samples a second under full load are measured too, in the same rounds.
    """

    batch: int = 1
    threads: int = field(default_factory=usable_cores)
    seed: int = 0
    rounds_min: int = 30
    rounds_max: int = 100
    precision: float = 0.02
    time_limit_s: float = 8.0
    noise: float = 0.10
    timeout_s: float = 600.0
    throughput: bool = False

    def __post_init__(self) -> None:
        if self.batch < 1 or self.threads < 1:
            raise InputError(f"batch and threads must be at least 1, not {self.batch} and {self.threads}")
        if not 2 <= self.rounds_min <= self.rounds_max:
            raise InputError(f"rounds must be 2 <= min <= max, not {self.rounds_min} and {self.rounds_max}")
