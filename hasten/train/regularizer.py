"""What is done to weights after each optimizer step: the proximal step of a penalty, or a projection."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from hasten.train.schedule import factor
from hasten.train.settings import Settings


@dataclass(frozen=True)
class Pace:
    """Where in a training an optimizer step lies.

    step: its number, from 0. rates: the learning rate of every step of the training, over the highest.
    """

    step: int
    rates: Sequence[float]

    @classmethod
    def of(cls, settings: Settings, steps: int) -> Pace:
        """The first of so many steps."""
        return cls(0, tuple(factor(settings.schedule, i, steps, settings.warmup) for i in range(steps)))

    def at(self, step: int) -> Pace:
        """The same training at another step."""
        return Pace(step, self.rates)


class Regularizer(Protocol):
    """Changes weights in place after each optimizer step.

    It must have no memory: what it does follows from the weights, the pace and what it was made with, so
    that a training that goes on from a checkpoint, and every process, does the same.
    """

    @property
    def identity(self) -> str:
        """What it was made with, which a checkpoint must agree with."""

    @property
    def final(self) -> bool:
        """Whether the last weights count, since it asks for more each step; else the best ones do."""

    def after_step(self, weights: Mapping[str, Tensor], pace: Pace) -> None:
        """Change the weights that are trained, by name; called without gradients."""


class Zeros:
    """Projects back to zero what was zero at the start, in weights of more than one axis.

    Biases and scales may begin at zero for other reasons than pruning. Source: Han et al. 2015, "Learning
    both Weights and Connections for Efficient Neural Networks", section 3 (retraining what is left).
    """

    identity = "zeros"
    final = False

    def __init__(self, weights: Mapping[str, Tensor]) -> None:
        found = {name: weight.detach() == 0 for name, weight in weights.items() if _is_matrix(weight)}
        self._zero = {name: zero for name, zero in found.items() if zero.any()}

    def after_step(self, weights: Mapping[str, Tensor], pace: Pace) -> None:
        """Set them to zero again."""
        for name, zero in self._zero.items():
            weights[name].masked_fill_(zero.to(weights[name].device), 0.0)


def _is_matrix(weight: Tensor) -> bool:
    return sum(size > 1 for size in weight.shape) > 1


class Regularizers:
    """All that is done after a step, to the weights of a module that are trained."""

    def __init__(self, module: torch.nn.Module, settings: Settings, given: Regularizer | None) -> None:
        self._weights = {n: w for n, w in module.named_parameters() if w.requires_grad}
        self._all: list[Regularizer] = [] if given is None else [given]
        if settings.keep_zeros:
            self._all.append(Zeros(self._weights))
        self.final = any(each.final for each in self._all)

    @torch.no_grad()
    def after_step(self, pace: Pace) -> None:
        """Let each change the weights, in order."""
        for each in self._all:
            each.after_step(self._weights, pace)
