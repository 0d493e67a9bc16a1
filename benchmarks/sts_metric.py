"""Set-level metric of the sentence encoder: rank correlation of cosines with human scores."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["spearman"]


def spearman(outputs: dict[str, NDArray[Any]], labels: NDArray[Any]) -> float:
    """Spearman's rho between the cosine of rows (2i, 2i+1) and the score of pair i.

    `outputs` holds one array of embeddings (2n, width); `labels` (2n,) repeats each pair's score. Raises
    ValueError when there is not exactly one output, when the rows are odd in number, or when the two labels
    of a pair differ (then the rows were shuffled or a pair was torn).
    """
    if len(outputs) != 1:
        raise ValueError(f"expected one output of embeddings, got {sorted(outputs)}")
    (embedding,) = outputs.values()
    if len(embedding) % 2 or len(embedding) != len(labels):
        raise ValueError(f"{len(embedding)} embeddings and {len(labels)} labels do not form pairs of rows")
    if not np.array_equal(labels[::2], labels[1::2]):
        raise ValueError("the labels of rows 2i and 2i+1 differ: pairs were torn or shuffled")
    from scipy.stats import spearmanr

    first, second = embedding[::2].astype(np.float64), embedding[1::2].astype(np.float64)
    norms = np.linalg.norm(first, axis=1) * np.linalg.norm(second, axis=1)
    cosine = (first * second).sum(1) / norms
    return float(spearmanr(cosine, labels[::2]).statistic)
