"""What does a training cost here? A few steps of one, timed."""

from __future__ import annotations

import statistics
from collections.abc import Mapping
from time import monotonic

from torch import Tensor

from hasten.core.data import Dataset
from hasten.graph import Graph
from hasten.train.regularizer import Pace
from hasten.train.settings import Settings
from hasten.train.start import fit

_BATCH = 16
_STEPS = 4
"""The first is slower than all that follow, and the median of three is not led astray by one."""


class _Clock:
    """Notes when each optimizer step is done; changes nothing."""

    identity = "clock"
    final = False

    def __init__(self) -> None:
        self.times: list[float] = []

    def after_step(self, weights: Mapping[str, Tensor], pace: Pace) -> None:
        """Note the time."""
        self.times.append(monotonic())


def seconds_per_sample(
    graph: Graph, data: Dataset, *, normalize: bool = False, threads: int | None = None
) -> float:
    """What one sample costs each time a graph is trained on it with itself as the teacher, in seconds.

    normalize: with normalizations while it learns. Raises InputError (ModelError for operators without a
    gradient; also where no normalization can be put), TrainingError.
    """
    clock = _Clock()
    settings = Settings(steps=_STEPS, batch_size=_BATCH, normalize=normalize, threads=threads)
    taken = data.take(_BATCH * _STEPS)
    fit(graph, taken, settings=settings, teacher=graph, regularizer=clock)
    gaps = [after - before for before, after in zip(clock.times, clock.times[1:], strict=False)]
    return statistics.median(gaps) / min(_BATCH, len(taken))
