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
        if self.threads is not None and self.threads < 1:
            raise InputError(f"threads is {self.threads}: it must be at least 1")
