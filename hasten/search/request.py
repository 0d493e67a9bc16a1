"""What the user asks for, and what happens meanwhile."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from hasten.core.budget import Budget
from hasten.core.errors import InputError
from hasten.core.recipe import Recipe
from hasten.core.record import Trial
from hasten.core.target import usable_cores

LARGEST_SEED = 2**32 - 1
"""Every generator of random numbers that hasten seeds takes seeds up to this one."""


@dataclass(frozen=True)
class Event:
    """Something happened: ``what`` is being done, and when a trial ended, which and the best so far."""

    what: str
    trial: Trial | None = None
    best: Trial | None = None
    seconds_left: float | None = None


Listener = Callable[[Event], None]


def silent(event: Event) -> None:
    """A listener that says nothing."""


@dataclass(frozen=True, kw_only=True)
class Request:
    """One call of ``optimize``.

    model, data: anything that ``hasten.loaders`` and ``hasten.data`` take. train: data to calibrate and learn
    from, so that all of ``data`` is left to compare on. recipe: try this one alone instead of searching.
    target: a name in ``hasten.targets`` or a group such as ``cpu``. inputs: example specs for modules that do
    not say what they take. shapes: inputs to fix. threads: None lets the search choose. folder: where the run
    keeps its work until it is saved.
    """

    model: Any
    data: Any
    folder: Path
    train: Any = None
    metric: Any = None
    budget: Budget = field(default_factory=Budget)
    target: str = "cpu"
    recipe: Recipe | None = None
    inputs: tuple[str, ...] = ()
    shapes: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    batch: int = 1
    threads: int | None = None
    seed: int = 0
    resume: bool = False

    def __post_init__(self) -> None:
        if self.batch < 1:
            raise InputError(f"batch is {self.batch}: it must be at least 1")
        cores(self.threads)
        check_seed(self.seed)


def cores(threads: int | None) -> int:
    """How many to use: as many as asked for, all without; raises InputError for fewer than 1 or too many."""
    usable = usable_cores()
    if threads is not None and not 1 <= threads <= usable:
        raise InputError(
            f"threads is {threads}: it must be from 1 to {usable}, the number of cores that can be used here"
        )
    return threads or usable


def check_seed(seed: int) -> None:
    """Raise InputError for what cannot seed random choices."""
    if not 0 <= seed <= LARGEST_SEED:
        raise InputError(f"seed is {seed}: it must be from 0 to {LARGEST_SEED}")
