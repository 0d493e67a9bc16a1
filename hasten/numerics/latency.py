"""How long does a layer take with other widths? A model of three numbers, fitted to measured layers.

A layer takes an overhead, a time for each of its multiply-accumulates, and one for each number that it reads
or writes. The sum is the roofline model with nothing hidden behind anything else.

Source: Williams, Waterman and Patterson 2009, "Roofline: An Insightful Visual Performance Model for Multicore
Architectures", section 3 (compute and memory traffic as the two bounds).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
from scipy.optimize import nnls

_PRIOR = 0.05
"""Weight of what is believed beside what was measured. Layers of a network are often alike (each block of a
residual network has as many multiply-accumulates as any other), and then their times say nothing about an
overhead: any share of it explains them. What was measured at different sizes outweighs the belief."""
_SMALLER, _TAKES = (0.25, 0.5), 0.5
"""Believed of each layer: with a quarter of its multiply-accumulates and half of the numbers moved, as at
half of all widths, it takes half of its time."""
_TELLING = 0.9
"""Share of a layer's work up to which a version of it is narrower, and tells what of its time stays."""

Time: TypeAlias = float | tuple[float, float, float, float]
"""What a layer takes; or that, what a narrower version of it takes, and that version's shares of the layer's
multiply-accumulates and of the numbers it moves."""


@dataclass(frozen=True)
class Work:
    """What a layer does: multiply-accumulates, and numbers moved (read and written, weights included).

    operators: that do it, one after the other.
    """

    macs: float
    moved: float
    operators: int = 1


@dataclass(frozen=True)
class LatencyModel:
    """t = overhead · operators + per_mac · MACs + per_moved · numbers moved, in the times' unit.

    None of the three is below zero.
    """

    overhead: float
    per_mac: float
    per_moved: float

    @classmethod
    def fit(cls, works: Sequence[Work], times: Sequence[Time]) -> LatencyModel:
        """The model with the least squared relative error over measured layers; times of 0 say nothing.

        Where they leave open how much is overhead, half of all widths is believed to take half of the time;
        of a layer that was measured narrower, too, nothing is believed.

        Raises ValueError where no time is above 0.
        """
        seen = [point for work, time in zip(works, times, strict=True) for point in _points(work, time)]
        seen = [(work, time, alone) for work, time, alone in seen if time > 0]
        if not seen:
            raise ValueError("no layer has a time above 0")
        measured = np.array([[work.operators, work.macs, work.moved] for work, _, _ in seen], np.float64)
        measured /= np.array([time for _, time, _ in seen])[:, None]
        alone = np.array([alone for _, _, alone in seen])
        believed = measured[alone] * np.array([1.0, *_SMALLER]) / _TAKES
        rows = np.concatenate([measured, _PRIOR * believed])
        wanted = np.concatenate([np.ones(len(seen)), np.full(len(believed), _PRIOR)])
        # Columns of one size: what a multiply-accumulate takes is a millionth of an overhead.
        size = np.maximum(np.abs(rows).max(axis=0), 1e-300)
        found, _ = nnls(rows / size, wanted)
        return cls(*(float(value) for value in found / size))

    def through(self, work: Work, time: Time) -> LatencyModel:
        """The model of one layer: this one, made to meet what the layer takes, and what it takes narrower.

        What a line through both leaves of no work is its overhead, if that is neither below nothing nor above
        all of the time. Where this model sees nothing that could fall, all is overhead.
        """
        (_, whole, _), *narrower = _points(work, time)
        falls = self._falls(work)
        if not falls:
            return LatencyModel(whole / work.operators, 0.0, 0.0)
        stays = whole * (1.0 - falls / self.of(work))
        for less, faster, _ in narrower:
            share = self._falls(less) / falls
            if share <= _TELLING:
                stays = min(max((faster - share * whole) / (1.0 - share), 0.0), whole)
        scale = (whole - stays) / falls
        return LatencyModel(stays / work.operators, scale * self.per_mac, scale * self.per_moved)

    def _falls(self, work: Work) -> float:
        return self.per_mac * work.macs + self.per_moved * work.moved

    def of(self, work: Work) -> float:
        """The time of such a layer."""
        return self.overhead * work.operators + self._falls(work)


def beside(
    works: Mapping[str, Work], times: Mapping[str, float], narrower: Mapping[str, tuple[Work, float]]
) -> dict[str, Time]:
    """The times of layers, with those of narrower versions of them.

    narrower: the work of those versions and what they take, by the layers' names.
    """
    found: dict[str, Time] = dict(times)
    for name, (less, faster) in narrower.items():
        whole = works.get(name)
        if whole is not None and name in times and whole.moved:
            macs = less.macs / whole.macs if whole.macs else 1.0
            found[name] = (times[name], faster, macs, less.moved / whole.moved)
    return found


def taken(time: Time) -> float:
    """What a layer takes as it is."""
    return time[0] if isinstance(time, tuple) else time


def _points(work: Work, time: Time) -> list[tuple[Work, float, bool]]:
    """The works that were measured, with what they took, and whether that is the only one of the layer."""
    if not isinstance(time, tuple):
        return [(work, time, True)]
    whole, narrower, macs, moved = time
    if min(macs, moved) > _TELLING:
        return [(work, whole, True)]
    less = Work(macs * work.macs, moved * work.moved, work.operators)
    return [(work, whole, False), (less, narrower, False)]
