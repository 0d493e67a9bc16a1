"""How long does a layer take with other widths? A model of three numbers, fitted to measured layers.

A layer takes an overhead, a time for each of its multiply-accumulates, and one for each number that it reads
or writes. The sum is the roofline model with nothing hidden behind anything else.

Source: Williams, Waterman and Patterson 2009, "Roofline: An Insightful Visual Performance Model for Multicore
Architectures", section 3 (compute and memory traffic as the two bounds).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.optimize import nnls

_PRIOR = 0.05
"""Weight of what is believed beside what was measured. Layers of a network are often alike (each block of a
residual network has as many multiply-accumulates as any other), and then their times say nothing about an
overhead: any share of it explains them. What was measured at different sizes outweighs the belief."""
_SMALLER, _TAKES = (0.25, 0.5), 0.5
"""Believed of each layer: with a quarter of its multiply-accumulates and half of the numbers moved, as at
half of all widths, it takes half of its time."""


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
    def fit(cls, works: Sequence[Work], times: Sequence[float]) -> LatencyModel:
        """The model with the least squared relative error over measured layers; times of 0 say nothing.

        Where they leave open how much is overhead, half of all widths is believed to take half of the time.

        Raises ValueError where no time is above 0.
        """
        seen = [(work, time) for work, time in zip(works, times, strict=True) if time > 0]
        if not seen:
            raise ValueError("no layer has a time above 0")
        measured = np.array([[work.operators, work.macs, work.moved] for work, _ in seen], np.float64)
        measured /= np.array([time for _, time in seen])[:, None]
        believed = measured * np.array([1.0, *_SMALLER]) / _TAKES
        rows = np.concatenate([measured, _PRIOR * believed])
        wanted = np.repeat([1.0, _PRIOR], len(seen))
        # Columns of one size: what a multiply-accumulate takes is a millionth of an overhead.
        size = np.maximum(np.abs(rows).max(axis=0), 1e-300)
        found, _ = nnls(rows / size, wanted)
        return cls(*(float(value) for value in found / size))

    def of(self, work: Work) -> float:
        """The time of such a layer."""
        return self.overhead * work.operators + self.per_mac * work.macs + self.per_moved * work.moved
