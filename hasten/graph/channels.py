"""Channels as numbers: which of them change together, and which have to stay as they are.

Whoever follows channels through a graph gives each a number where it begins, says which of them are the same
wherever two meet, and fixes those that something does not let change; then all are resolved at once.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

Labels: TypeAlias = NDArray[np.intp]

NOTHING = 0
"""The number of what is no channel."""


class Channels:
    """Collects channels, which of them are the same, and which cannot change.

    nothing: the reason why what meets NOTHING cannot change.
    """

    def __init__(self, nothing: str = "it meets what is no channel") -> None:
        self._count = 1
        self._nothing = nothing
        self._pairs: list[NDArray[np.intp]] = []
        self._fixed: list[tuple[Labels, str]] = []

    def new(self, shape: tuple[int, ...]) -> Labels:
        """Channels of their own for an array of this shape."""
        size = int(np.prod(shape, dtype=np.int64))
        self._count += size
        return np.arange(self._count - size, self._count, dtype=np.intp).reshape(shape)

    def same(self, first: Labels, second: Labels) -> None:
        """Both meet elementwise, so they change together."""
        pair = np.stack(np.broadcast_arrays(first, second)).reshape(2, -1)
        self._pairs.append(np.unique(pair, axis=1))

    def fix(self, labels: Labels, reason: str) -> None:
        """These cannot change."""
        self._fixed.append((np.unique(labels), reason))

    def resolve(self) -> Resolved:
        """Number anew: the same channels alike, and 0 for all that cannot change."""
        from scipy.sparse import coo_array
        from scipy.sparse.csgraph import connected_components

        first, second = np.concatenate([np.zeros((2, 1), np.intp), *self._pairs], axis=1)
        links = coo_array((np.ones(len(first), np.int8), (first, second)), shape=(self._count, self._count))
        total, component = connected_components(links, directed=False)
        reasons: dict[int, str] = {int(component[NOTHING]): self._nothing}
        for labels, reason in self._fixed:
            for number in np.unique(component[labels]).tolist():
                reasons.setdefault(number, reason)
        free = np.ones(total, dtype=bool)
        free[list(reasons)] = False
        renumbered = np.where(free, np.cumsum(free), NOTHING).astype(np.intp)
        return Resolved(renumbered[component], component.astype(np.intp), reasons)


@dataclass(frozen=True, eq=False)
class Resolved:
    """The final numbers of channels, and why those that cannot change cannot."""

    _numbers: NDArray[np.intp]
    _components: NDArray[np.intp]
    _reasons: dict[int, str]

    @property
    def count(self) -> int:
        """How many numbers there are, 0 included."""
        return int(self._numbers.max()) + 1

    def numbers(self, labels: Labels) -> Labels:
        """The final numbers, in an array of the same shape."""
        return self._numbers[labels]

    def reason(self, labels: Labels) -> str | None:
        """Why none of these channels can change; None where one can."""
        if self._numbers[labels].any():
            return None
        return self._reasons[int(self._components[labels].reshape(-1)[0])]
