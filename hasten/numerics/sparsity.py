"""Which weights stay, given how important each of them is: as many as asked for, exactly.

A mask is True where a weight stays. Of equal scores any may go, always the same ones.

Sources: Han et al. 2015, "Learning both Weights and Connections", section 3 (the smallest of a layer);
Mishra et al. 2021, "Accelerating Sparse Deep Neural Networks", section 3 (2:4); Zhou et al. 2021, "Learning
N:M Fine-grained Structured Sparse Neural Networks From Scratch", section 3.1 (N:M); Sun et al. 2023, "A
Simple and Effective Pruning Approach for Large Language Models", section 3 (by output); Lee et al. 2021,
"Layer-Adaptive Sparsity for the Magnitude-Based Pruning", section 3 (all layers together).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

LEAST_KEPT = 0.01
"""Part of a layer that stays when layers are ranked together: an empty one would cut the model in two."""

Mask = NDArray[np.bool_]


def all_but_smallest(scores: NDArray[Any], zeros: int) -> Mask:
    """Without the ``zeros`` smallest scores of all; of the shape of ``scores``."""
    kept = np.ones(scores.size, dtype=np.bool_)
    if zeros > 0:
        kept[_smallest(scores.reshape(1, -1), min(zeros, scores.size))[0]] = False
    return kept.reshape(scores.shape)


def all_but_smallest_of_row(scores: NDArray[Any], zeros: int) -> Mask:
    """Without the ``zeros`` smallest scores of each row, the last axis."""
    rows = scores.reshape(-1, scores.shape[-1])
    kept = np.ones(rows.shape, dtype=np.bool_)
    if zeros > 0:
        np.put_along_axis(kept, _smallest(rows, min(zeros, rows.shape[1])), False, axis=1)
    return kept.reshape(scores.shape)


def largest_of_group(scores: NDArray[Any], kept: int, group: int) -> Mask:
    """The ``kept`` largest of each ``group`` consecutive scores of the last axis, which it divides."""
    parts = scores.reshape(*scores.shape[:-1], -1, group)
    return all_but_smallest_of_row(parts, group - kept).reshape(scores.shape)


def ranked_together(scores: Sequence[NDArray[Any]], zeros: int) -> list[Mask]:
    """The masks of several layers without the ``zeros`` smallest scores of all of them.

    The largest hundredth of each layer stays; where that leaves fewer than ``zeros``, so many go.
    """
    flat, spared = [], 0
    for layer in scores:
        values = layer.reshape(-1).astype(np.float64)
        spare = min(values.size, int(np.ceil(LEAST_KEPT * values.size)))
        if spare:
            values[np.argpartition(values, values.size - spare)[values.size - spare :]] = np.inf
        flat.append(values)
        spared += spare
    total = sum(values.size for values in flat)
    kept = all_but_smallest(np.concatenate([*flat, np.empty(0)]), min(zeros, total - spared))
    ends = np.cumsum([values.size for values in flat])
    parts = np.split(kept, ends)
    return [part.reshape(layer.shape) for part, layer in zip(parts, scores, strict=False)]


def _smallest(rows: NDArray[Any], count: int) -> NDArray[np.intp]:
    """Places of the ``count`` smallest of each row; count from 1 to the row's length."""
    return np.argpartition(rows, count - 1, axis=1)[:, :count]
