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


@dataclass(frozen=True)
class Work:
    """What a layer does: multiply-accumulates, and numbers moved (read and written, weights included)."""

    macs: float
    moved: float


@dataclass(frozen=True)
class LatencyModel:
    """t = overhead + per_mac · MACs + per_moved · numbers moved; none is below zero, in the times' unit."""

    overhead: float
    per_mac: float
    per_moved: float

    @classmethod
    def fit(cls, works: Sequence[Work], times: Sequence[float]) -> LatencyModel:
        """The model with the least squared relative error over measured layers; times of 0 say nothing.

        Raises ValueError where no time is above 0.
        """
        seen = [(work, time) for work, time in zip(works, times, strict=True) if time > 0]
        if not seen:
            raise ValueError("no layer has a time above 0")
        rows = np.array([[1.0, work.macs, work.moved] for work, _ in seen])
        rows /= np.array([time for _, time in seen])[:, None]
        # Columns of one size: what a multiply-accumulate takes is a millionth of an overhead.
        size = np.maximum(np.abs(rows).max(axis=0), 1e-300)
        found, _ = nnls(rows / size, np.ones(len(seen)))
        return cls(*(float(value) for value in found / size))

    def of(self, work: Work) -> float:
        """The time of such a layer."""
        return self.overhead + self.per_mac * work.macs + self.per_moved * work.moved
