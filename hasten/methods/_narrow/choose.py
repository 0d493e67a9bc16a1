"""How many units of each width go: the same share of all, or where it costs least for what it saves."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import gcd

import numpy as np

from hasten.core.data import Array
from hasten.graph.coupling import Coupling, Width
from hasten.graph.coupling.cost import Tally
from hasten.numerics.removal import Order

_HALVINGS = 40
"""Of the share, until it is as close to the target as whole units can be."""

_SMALLEST_BLOCK = 8
"""Channels that fill a vector of floats; of a block of more some are better than none."""


@dataclass(frozen=True, kw_only=True)
class Limits:
    """align: widths left are multiples of it where they can be. least: share of each width that is left.

    left: share of the graph's costs that is left at most.
    """

    left: float
    align: int
    least: float


class Chooser:
    """Chooses how many units go. orders: of the widths that may become narrower, by name."""

    def __init__(self, coupling: Coupling, costs: Tally, orders: Mapping[str, Order], limits: Limits) -> None:
        self.widths = [width for width in coupling.widths if width.name in orders]
        self._costs = costs
        self._orders = orders
        self._limits = limits
        self._count = coupling.count
        self.total = sum(costs.whole.values())
        self._target = limits.left * self.total

    @property
    def asked(self) -> float:
        """The share that is to be left at most."""
        return self._limits.left

    def gone(self, removed: Mapping[str, int]) -> Array:
        """A flag for each unit, where so many of each width are removed in its order."""
        flags = np.zeros(self._count, dtype=bool)
        for width in self.widths:
            flags[width.units[self._orders[width.name].units[: removed.get(width.name, 0)]]] = True
        return flags

    def left(self, removed: Mapping[str, int]) -> float:
        """The share of the graph's costs that is left where so many of each width are removed."""
        return self._cost(removed) / max(self.total, 1e-12)

    def _cost(self, removed: Mapping[str, int]) -> float:
        return sum(self._costs.of(self.gone(removed)).values())

    def most(self, width: Width) -> int:
        """How many units may go at most."""
        return self.removed(width, self._limits.least)

    def steps(self, width: Width) -> list[int]:
        """The numbers of removed units at which what is left is whole blocks, up to the most."""
        steps = [0]
        while steps[-1] < min(after := self._next(width, steps[-1]), self.most(width)):
            steps.append(min(after, self.most(width)))
        return steps

    def removed(self, width: Width, left: float) -> int:
        """How many go when this share is left, rounded up to whole blocks; what is narrow stays one block."""
        count, align = len(width), self._align(width)
        blocks = max(1, -(-int(np.ceil(left * count)) // align))
        return min(count - min(count, blocks * align), len(self._orders[width.name].units))

    def _align(self, width: Width) -> int:
        """Units of a whole block: of what is narrower than one half of it, down to 8; then any number."""
        align = self._limits.align // gcd(self._limits.align, width.breadth)
        while align >= len(width) and align > _SMALLEST_BLOCK and align % 2 == 0:
            align //= 2
        return align if len(width) > align else 1

    def evenly(self) -> dict[str, int]:
        """The same share of every width, as much as reaches the target."""
        low, high = self._limits.least, 1.0
        for _ in range(_HALVINGS):
            middle = (low + high) / 2
            if self._cost({w.name: self.removed(w, middle) for w in self.widths}) > self._target:
                high = middle
            else:
                low = middle
        return {width.name: self.removed(width, low) for width in self.widths}

    def where_it_costs_least(self, harms: Mapping[str, Array]) -> dict[str, int]:
        """Blocks of units go one after another, that first which loses least for what it saves.

        harms: what the model loses without the first so many units of each width.
        """
        removed = dict.fromkeys((width.name for width in self.widths), 0)
        touched = {width.name: self._costs.touched(width) for width in self.widths}
        gone = self.gone(removed)
        now = self._costs.of(gone)
        taken: list[tuple[str, int]] = []
        while sum(now.values()) > self._target:
            best: tuple[float, Width, int, dict[str, float]] | None = None
            for width in self.widths:
                after = min(self._next(width, removed[width.name]), self.most(width))
                if after <= removed[width.name]:
                    continue
                flags = gone.copy()
                flags[width.units[self._orders[width.name].units[:after]]] = True
                less = self._costs.of(flags, touched[width.name])
                saved = sum(now[name] - cost for name, cost in less.items())
                harm = float(harms[width.name][after] - harms[width.name][removed[width.name]])
                if saved > 0 and (best is None or harm / saved < best[0]):
                    best = (harm / saved, width, after, less)
            if best is None:
                break
            _, width, after, less = best
            taken.append((width.name, removed[width.name]))
            removed[width.name] = after
            now.update(less)
            gone[width.units[self._orders[width.name].units[:after]]] = True
        return self._given_back(removed, taken)

    def _given_back(self, removed: dict[str, int], taken: Sequence[tuple[str, int]]) -> dict[str, int]:
        """What went at the end may have saved more than was left to save: what now need not go stays.

        taken: of each block the width, and how many units of it were gone before.
        """
        for name, before in reversed(taken):
            less = {**removed, name: before}
            if before < removed[name] and self._cost(less) <= self._target:
                removed = less
        return removed

    def _next(self, width: Width, removed: int) -> int:
        """The next number of removed units at which a block is whole."""
        align = self._align(width)
        left = len(width) - removed
        return len(width) - max(left - (left % align or align), 1)
