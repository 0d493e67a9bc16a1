"""Narrower networks within a network: which are trained in a step, and what they are multiplied by."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence

import numpy as np

from hasten.core.data import Array
from hasten.graph.reading import constant
from hasten.methods._narrow.work import Ordered


class Parts:
    """The narrowest, and so many ``between`` it and the whole, each width of these drawn by itself.

    Sources: Yu and Huang 2019, "Universally Slimmable Networks and Improved Training Techniques", section 3.2
    (the sandwich rule); Cai et al. 2020, "Once-for-All", section 3.2 (widths drawn layer by layer, channels
    in the order of their importance).
    """

    def __init__(self, ordered: Ordered, *, least: float, between: int, seed: int) -> None:
        self._ordered = ordered
        self._least = least
        self._between = between
        self._seed = seed
        self._widths = ordered.chooser.widths
        orders = {name: order.units.tolist() for name, order in ordered.orders.items()}
        told = json.dumps([orders, least, between, seed, self.narrowest], sort_keys=True)
        self.identity = hashlib.sha256(told.encode()).hexdigest()

    @property
    def narrowest(self) -> dict[str, int]:
        """How many units of each width the narrowest does without."""
        return {width.name: self._ordered.chooser.most(width) for width in self._widths}

    def masks(self, step: int) -> Sequence[Mapping[str, Array]]:
        """Of the narrowest, and of those between; see ``hasten.train.Subnetworks``."""
        rng = np.random.default_rng((self._seed, step))
        parts = [self.narrowest]
        for _ in range(self._between):
            shares = rng.uniform(self._least, 1.0, len(self._widths)).tolist()
            drawn = zip(self._widths, shares, strict=True)
            parts.append({width.name: self._ordered.chooser.removed(width, left) for width, left in drawn})
        return [self.without(removed) for removed in parts]

    def without(self, removed: Mapping[str, int]) -> dict[str, Array]:
        """What weights are multiplied by where so many units of each width go: 1, or 0 for theirs."""
        gone = self._ordered.chooser.gone(removed)
        weights = self._ordered.graph.weights
        masks: dict[str, Array] = {}
        seen = set()
        for part in (part for width in self._widths for part in width.parts):
            array = constant(weights[part.weight])
            where = (part.weight, part.axis)
            if array is None or array.dtype.kind != "f" or where in seen or not gone[part.units].any():
                continue
            seen.add(where)
            along = (~gone[part.units]).astype(array.dtype)
            shape = [-1 if axis == part.axis else 1 for axis in range(array.ndim)]
            masks[part.weight] = masks.get(part.weight, np.ones(1, array.dtype)) * along.reshape(shape)
        return masks
