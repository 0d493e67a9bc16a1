"""What takes a branch's place: nothing, the mean that is missing, or a line of what goes round it.

With t what the sum had and the other summand now lacks, at each position and for each channel,

    mean:    shift = E[t]
    affine:  scale · x + shift nearest to t:  scale = Cov(x, t) / Var(x),  shift = E[t] - scale · E[x]

Least squares with one regressor a channel (Draper and Smith 1998, "Applied Regression Analysis", chapter 1),
weighted by how much a position counts (chapter 9). Where nothing before it was left out, t is what the branch
computes.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, TypeAlias

import numpy as np

from hasten.core.data import Array
from hasten.methods._branches.channels import Channels

Kind: TypeAlias = Literal["nothing", "mean", "affine"]
Replace: TypeAlias = Literal["best", "nothing", "mean", "affine"]
KINDS: dict[Replace, tuple[Kind, ...]] = {
    "best": ("nothing", "mean", "affine"),
    "nothing": ("nothing",),
    "mean": ("mean",),
    "affine": ("affine",),
}
"""What is tried for each way to replace."""
_FLAT = 1e-12
"""A channel whose variance is a smaller part of its square than this is constant."""


@dataclass(frozen=True)
class Line:
    """What is added in a branch's place: scale · x + shift, float64, of one element a channel."""

    scale: Array
    shift: Array

    @property
    def is_zero(self) -> bool:
        """Whether nothing is added."""
        return not (self.scale.any() or self.shift.any())


def nothing(channels: Channels) -> Line:
    """The line that adds nothing."""
    return Line(np.zeros(channels.size), np.zeros(channels.size))


class Sums:
    """Running sums over positions, from which the line is solved."""

    def __init__(self, channels: Channels) -> None:
        self._channels = channels
        self._count = 0.0
        self._x, self._t, self._xx, self._xt = (np.zeros(channels.size) for _ in range(4))

    def update(self, x: Array, missing: Array, counts: Array | None = None) -> None:
        """Count the positions of a batch; both of one shape. counts: how much each does, else one."""
        rows, lacking = self._channels.rows(x), self._channels.rows(missing)
        each = np.ones(len(rows)) if counts is None else counts
        self._count += float(each.sum())
        self._x += each @ rows
        self._t += each @ lacking
        self._xx += each @ np.square(rows)
        self._xt += each @ (rows * lacking)

    def line(self, kind: Kind) -> Line:
        """The line of least squares; a channel that holds what is not finite gets nothing."""
        if kind == "nothing" or not self._count:
            return nothing(self._channels)
        x, t, xx, xt = (total / self._count for total in (self._x, self._t, self._xx, self._xt))
        scale = np.zeros_like(x)
        if kind == "affine":
            variance = xx - x * x
            varies = variance > _FLAT * xx
            np.divide(xt - x * t, variance, out=scale, where=varies)
        shift = t - scale * x
        sound = np.isfinite(scale) & np.isfinite(shift)
        return Line(np.where(sound, scale, 0.0), np.where(sound, shift, 0.0))
