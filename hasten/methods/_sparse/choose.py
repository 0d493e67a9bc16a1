"""How important each single weight is, and how many of each layer go."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, TypeAlias

import numpy as np

from hasten.core.data import Array
from hasten.methods._sparse.weights import Unfit, Weight
from hasten.numerics import importance
from hasten.numerics.rounding import Moments
from hasten.numerics.sparsity import Mask, all_but_smallest, all_but_smallest_of_row, largest_of_group

Importance: TypeAlias = Literal[
    "l1", "l2", "gradient", "taylor", "fisher", "median", "random", "wanda", "outputs"
]
OBSERVED = frozenset({"wanda", "outputs"})
"""Kinds that need to know what layers read."""


@dataclass(frozen=True)
class Scorer:
    """Importance of every weight of a layer, in the form of its rows.

    gradients: by the names of initializers, what the kind needs of them. seed: of random scores.
    """

    kind: Importance
    gradients: Mapping[str, Array]
    seed: int

    def of(self, weight: Weight, rows: Array, moments: Moments | None) -> Array:
        """Scores of the shape of ``rows``; weights that are zero have -1, so that they go first.

        Without ``moments`` the kinds in ``OBSERVED`` are the square of the weight. Raises Unfit where there
        are no gradients.
        """
        if self.kind in OBSERVED:
            found = np.square(rows.astype(np.float64))
            if moments is not None:
                found *= np.diagonal(moments.second, axis1=1, axis2=2)[:, None, :]
        else:
            found = self._plain(weight, rows)
        return np.where(rows == 0, -1.0, found)

    def _plain(self, weight: Weight, rows: Array) -> Array:
        kind: importance.Importance = self.kind  # type: ignore[assignment]
        given: dict[str, Array] = {}
        if kind in importance.NEED_GRADIENTS | importance.NEED_SQUARES:
            found = self.gradients.get(str(weight.value.name))
            if found is None:
                raise Unfit("its weight is none of those that training changes, so it has no gradient")
            column = weight.form.rows(found).reshape(-1, 1)
            given["gradients" if kind in importance.NEED_GRADIENTS else "squared_gradients"] = column
        flat = importance.scores(kind, rows.reshape(-1, 1), seed=self.seed + weight.number, **given)
        return flat.reshape(rows.shape)


def mask(kind: Importance, scores: Array, zeros: int, group: tuple[int, int] | None) -> Mask:
    """Which weights of a layer stay; scores: (groups, outputs, size), of weights by position for ``group``.

    zeros: how many of all go; wanda takes as many of each output, to the nearest whole number.
    """
    if group is not None:
        return largest_of_group(scores, *group)
    if kind == "wanda":
        return all_but_smallest_of_row(scores, round(zeros * scores.shape[-1] / scores.size))
    return all_but_smallest(scores, zeros)
