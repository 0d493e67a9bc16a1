"""In which order the units of each width go, and what is lost by it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal, TypeAlias

import numpy as np

from hasten.core.data import Array, Calibration
from hasten.core.errors import MethodError
from hasten.core.record import Skip
from hasten.graph import Graph
from hasten.graph.coupling import Part, Width
from hasten.graph.reading import constant
from hasten.methods import Context
from hasten.methods._narrow import nested
from hasten.methods._narrow.readers import Read, reader
from hasten.methods._observe.weight_gradients import weight_gradients
from hasten.numerics.importance import NEED_GRADIENTS, NEED_SQUARES, scores
from hasten.numerics.importance import Importance as OfWeights
from hasten.numerics.removal import Order, order_of_removal
from hasten.numerics.rounding import Moments

Importance: TypeAlias = Literal[
    "outputs",
    "activations",
    "scale",
    "l1",
    "l2",
    "gradient",
    "taylor",
    "fisher",
    "median",
    "random",
    "supernet",
]
OBSERVED = frozenset({"outputs", "activations"})
"""Kinds that look at what layers read."""
_STEPS = 32
"""Units of a wide layer go so many parts at a time: one by one takes too long, and says no more."""


class Worth:
    """Puts the units of widths in order, the least worth first.

    found: the layers that read each width; seen: the moments of what they read, for the kinds OBSERVED.
    """

    def __init__(
        self,
        graph: Graph,
        importance: Importance,
        found: Mapping[str, Sequence[Read]],
        seen: Mapping[tuple[str, int], Moments],
        context: Context,
    ) -> None:
        self.skipped: list[Skip] = []
        self._graph = graph
        self._importance = importance
        self._found = found
        self._seen = seen
        self._context = context

    def orders(self, widths: Sequence[Width], samples: Calibration | None) -> dict[str, Order]:
        """The order of each width; one of which nothing is known is left, with the reason.

        samples: for gradients. Raises MethodError where they are missing, or the order of a supernet is;
        Unavailable without PyTorch.
        """
        gradients = self._gradients(widths, samples)
        made = {}
        for width in widths:
            known = self._importance == "supernet"
            order = self._remembered(width) if known else self._order(width, gradients)
            if order is None:
                reason = self._unknown(width)
                self.skipped.append(Skip(name=width.name, op_type=width.parts[0].op_type, reason=reason))
            else:
                made[width.name] = order
        return made

    def _order(self, width: Width, gradients: Mapping[str, Array]) -> Order | None:
        if self._importance in OBSERVED:
            return self._observed(width)
        if self._importance == "scale":
            own = [part for part in width.parts if part.op_type == "BatchNormalization"]
            rows = self._rows(width, [part for part in own if part.role == "factor"], {})
            return None if rows is None else _by(scores("l1", rows[0]))
        rows = self._rows(width, [part for part in width.parts if part.role != "term"], gradients)
        if rows is None:
            return None
        return _by(_scores(self._importance, *rows, seed=self._context.seed))

    def _observed(self, width: Width) -> Order | None:
        found = self._found[width.name]
        if not found or self._unseen(width):
            return None
        seen = [(read, self._seen[read.key]) for read in found]
        if self._importance == "outputs":
            readers = [reader(self._graph, width, read, moments) for read, moments in seen]
            return order_of_removal(readers, len(width), max(1, len(width) // _STEPS))
        return _by(np.sum([_loudness(width, read, moments) for read, moments in seen], axis=0))

    def _unseen(self, width: Width) -> Read | None:
        """A layer of whose inputs nothing is known, so that it cannot be told what it needs."""
        return next((read for read in self._found[width.name] if read.key not in self._seen), None)

    def _unknown(self, width: Width) -> str:
        """Why there is no order of its units."""
        unseen = self._unseen(width) if self._importance in OBSERVED else None
        if unseen is not None:
            return f"what {unseen.name} reads is empty or not finite on the calibration samples"
        return f"importance by {self._importance} says nothing of its channels"

    def _remembered(self, width: Width) -> Order | None:
        """As ``train_supernet`` trained them to go; what is lost by it nobody says."""
        known = nested.remembered(self._graph)
        if not known:
            reason = "the model keeps no order of its channels; train it with train_supernet"
            raise MethodError(f"importance by supernet: {reason}")
        units = known.get(width.name)
        if units is None or not nested.fits(units, len(width)):
            return None
        return Order(np.array(units, np.intp), np.arange(len(units) + 1) / len(width))

    def _rows(
        self, width: Width, parts: Sequence[Part], gradients: Mapping[str, Array]
    ) -> tuple[Array, Array] | None:
        """The weights of each unit in a row, and their gradients."""
        weights, slopes = [], []
        for part in {(part.weight, part.axis): part for part in parts}.values():
            array = constant(self._graph.weights[part.weight])
            assert array is not None
            slope = gradients.get(part.weight, np.zeros_like(array))
            weights.append(_by_unit(width, part, array))
            slopes.append(_by_unit(width, part, slope))
        return (np.concatenate(weights, axis=1), np.concatenate(slopes, axis=1)) if weights else None

    def _gradients(self, widths: Sequence[Width], samples: Calibration | None) -> dict[str, Array]:
        loss: Literal["norm", "error"] | None = None
        if self._importance in NEED_GRADIENTS:
            loss = "norm"
        elif self._importance in NEED_SQUARES:
            loss = "error"
        if loss is None:
            return {}
        if samples is None:
            raise MethodError(f"importance by {self._importance} needs samples; give --data")
        names = sorted({part.weight for width in widths for part in width.parts if part.role != "term"})
        return weight_gradients(self._graph, names, samples, self._context, loss)


def _scores(kind: Importance, weights: Array, gradients: Array, seed: int) -> Array:
    assert kind not in {"outputs", "activations", "scale", "supernet"}
    named: OfWeights = kind  # type: ignore[assignment]  # narrowed by the assertion
    given = {"gradients": gradients} if kind in NEED_GRADIENTS else {"squared_gradients": gradients}
    return scores(named, weights, seed=seed, **given)


def _by_unit(width: Width, part: Part, array: Array) -> Array:
    """A row for each unit of all its entries along the part's axis."""
    rows = np.moveaxis(array, part.axis, 0).reshape(array.shape[part.axis], -1)
    order = np.argsort(part.units, kind="stable")
    held = order[np.isin(part.units[order], width.units)]
    if len(held) % len(width) or np.ptp(np.unique(part.units[held], return_counts=True)[1]):
        return np.zeros((len(width), 0))  # some lie here more often than others: no row of each
    by_number = np.argsort(np.argsort(width.units))
    return rows[held].reshape(len(width), -1)[by_number]


def _loudness(width: Width, read: Read, moments: Moments) -> Array:
    """The mean square of each unit's values."""
    power = np.diagonal(moments.second[0])
    return np.array([power[read.part.units == unit].sum() for unit in width.units.tolist()])


def _by(worth: Array) -> Order:
    """Least first; what is lost is that much of the sum."""
    order = np.argsort(worth, kind="stable")[:-1]
    total = float(worth.sum()) or 1.0
    return Order(order.astype(np.intp), np.concatenate([[0.0], np.cumsum(worth[order])]) / total)
