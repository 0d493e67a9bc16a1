"""What a training tells: while it runs, and when it is over."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from hasten.graph import Graph

if TYPE_CHECKING:
    from torch import nn


_MUCH_MORE = 1.5
"""From the first step to the last ones: more than the loss varies from batch to batch."""


@dataclass(frozen=True)
class StepRow:
    """One optimizer step, counted from 1: the loss before it, what the loss is made of, the learning rate."""

    step: int
    loss: float
    learning_rate: float
    parts: dict[str, float]


@dataclass(frozen=True)
class EvaluationRow:
    """The samples held back, after so many optimizer steps; metric: how often (or how well) it is right."""

    step: int
    loss: float
    metric: float | None


@dataclass
class History:
    """Everything noted during a training, in order; metric names what evaluations measure."""

    steps: list[StepRow] = field(default_factory=list)
    evaluations: list[EvaluationRow] = field(default_factory=list)
    metric: str | None = None

    @property
    def losses(self) -> list[float]:
        """The loss of every optimizer step."""
        return [row.loss for row in self.steps]

    def warning(self) -> str | None:
        """That the loss rose, where no samples were held back that would have kept better weights."""
        if self.evaluations or not self.steps:
            return None
        losses, few = self.losses, max(1, len(self.steps) // 10)
        first, last = losses[0], sum(losses[-few:]) / few
        if last <= _MUCH_MORE * first:
            return None
        return (
            f"the loss rose from {first:.3g} to {last:.3g}, and no samples were held back to judge by: lower "
            "learning_rate"
        )

    def to_json(self) -> dict[str, Any]:
        """Columns; numbers keep every bit."""
        return {
            "loss": [row.loss for row in self.steps],
            "learning_rate": [row.learning_rate for row in self.steps],
            "parts": {
                name: [row.parts[name] for row in self.steps]
                for name in (self.steps[0].parts if self.steps else ())
            },
            "evaluations": [[row.step, row.loss, row.metric] for row in self.evaluations],
            "metric": self.metric,
        }

    @classmethod
    def from_json(cls, raw: dict[str, Any]) -> History:
        """What ``to_json`` gave."""
        parts: dict[str, list[float]] = raw["parts"]
        rows = zip(raw["loss"], raw["learning_rate"], strict=True)
        return cls(
            [
                StepRow(i + 1, loss, rate, {name: column[i] for name, column in parts.items()})
                for i, (loss, rate) in enumerate(rows)
            ],
            [EvaluationRow(*row) for row in raw["evaluations"]],
            raw["metric"],
        )


@dataclass(frozen=True)
class Event:
    """How far a training is; ``steps`` is how many there will be at most."""

    step: int
    steps: int
    loss: float | None = None
    learning_rate: float | None = None
    evaluation: EvaluationRow | None = None
    metric: str | None = None
    seconds_left: float | None = None
    note: str | None = None


Listener = Callable[[Event], None]


def silent(event: Event) -> None:
    """A listener that says nothing."""


@dataclass(frozen=True, kw_only=True)
class Fitted:
    """A finished training.

    graph: with the trained weights, None where a module was trained (in place: ``module``). why: it stopped.
    best_step: after how many optimizer steps the weights were what they are now. trained: names of the
    weights that training could change; frozen: names of the others and the reason. notes: what a reader
    should know.
    """

    graph: Graph | None
    module: nn.Module
    history: History
    why: str
    best_step: int
    trained: tuple[str, ...]
    frozen: dict[str, str]
    notes: tuple[str, ...] = ()
