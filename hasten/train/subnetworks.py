"""Parts of a network that learn with it in the same weights: a supernet.

In each optimizer step the whole network learns what it is to learn, and some parts of it learn what the
whole answers; the loss is the mean over all of them (Yu and Huang 2019, "Universally Slimmable Networks and
Improved Training Techniques", sections 3.2, the sandwich rule, and 3.3, inplace distillation).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol

from hasten.core.data import Array


class Subnetworks(Protocol):
    """Says which parts of a graph learn in a step.

    It must have no memory: what it says follows from the step and from what it was made with, so that a
    training that goes on from a checkpoint, and every process, trains the same parts.
    """

    @property
    def identity(self) -> str:
        """What it was made with, which a checkpoint must agree with."""

    def masks(self, step: int) -> Sequence[Mapping[str, Array]]:
        """Of each part, what weights are multiplied by, by name; others are all there. Steps count from 0."""
