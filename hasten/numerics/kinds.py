"""What kind of numbers does an output hold: class scores, embeddings, or another signal?"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

Array: TypeAlias = NDArray[Any]

_CLASSES = re.compile(r"logit|prob|score|softmax|class|cls|categor", re.IGNORECASE)
_EMBEDDING = re.compile(r"emb(?:ed|_|s?$)|feature|hidden|pooler|pooled|represent|latent", re.IGNORECASE)
_SIGNAL = re.compile(r"box|coord|landmark|keypoint|regress|depth|offset|heatmap|mask", re.IGNORECASE)

Kind = Literal["top-1", "cosine", "SQNR", "exact"]


@dataclass(frozen=True)
class Sight:
    """How one output is compared; axis: that of the classes or of the embedding."""

    output: str
    kind: Kind
    axis: int = -1


def see(name: str, values: Sequence[Array]) -> Sight:
    """Tell class scores, embeddings and other signals apart, by type, sums, norms, and at last the name."""
    first = values[0]
    if first.dtype.kind not in "f":
        picture = first.dtype == np.uint8 and first.ndim >= 2
        return Sight(name, "SQNR" if picture else "exact")
    if first.ndim == 0 or any(v.ndim != first.ndim or not v.size for v in values):
        return Sight(name, "SQNR")
    axis = _class_axis(name, values)
    if axis is not None:
        return Sight(name, "top-1", axis)
    embedding = _EMBEDDING.search(name) or all(_unit(v) for v in values)
    return Sight(name, "cosine" if embedding and not _SIGNAL.search(name) else "SQNR")


def _class_axis(name: str, values: Sequence[Array]) -> int | None:
    """The axis of class scores, or None where there is none."""
    first = values[0]
    for candidate in (-1, *range(first.ndim - 1)):
        if all(v.shape[candidate] > 1 and _distribution(v, candidate) for v in values):
            return int(candidate)
    if _SIGNAL.search(name) or _EMBEDDING.search(name) or all(_unit(v) for v in values):
        return None
    axis = 0 if first.ndim > 2 else -1  # scores of pixels come class axis first, those of tokens last
    if first.shape[axis] < 2:
        return None
    if _CLASSES.search(name):
        return axis
    # A vector that peaks now here, now there: most models whose outputs have no telling name classify.
    return axis if first.ndim == 1 and len({int(np.argmax(v)) for v in values}) > 1 else None


def _distribution(value: Array, axis: int) -> bool:
    """Whether the values along an axis are probabilities, or logarithms of them, that sum to one."""
    wide = value.astype(np.float64)
    if np.all(wide <= 0):
        wide = np.exp(wide)
    return bool(np.all((wide >= 0) & (wide <= 1 + 1e-3)) and np.allclose(wide.sum(axis=axis), 1, atol=1e-2))


def _unit(value: Array) -> bool:
    if value.shape[-1] < 2:
        return False
    return bool(np.allclose(np.linalg.norm(value.astype(np.float64), axis=-1), 1, atol=1e-3))
