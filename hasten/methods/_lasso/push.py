"""What is pushed in one training, by which penalty, and how far it has come."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from hasten.core.record import Site, Skip
from hasten.graph import Graph
from hasten.graph.coupling import prepare
from hasten.methods import Context
from hasten.methods._lasso.groups import by_unit, smallest, taken_over
from hasten.methods._lasso.penalty import GroupLasso, Lasso
from hasten.methods._narrow.work import Aim, choose

if TYPE_CHECKING:
    from torch import Tensor

_GONE = 0.01
"""Of its length at the start, below which a group counts as gone."""


class Units:
    """Channels or heads, those that ``aim`` would have removed; penalty: None where there are none.

    graph: the one to train, in which layers have biases of their own.
    """

    def __init__(self, graph: Graph, aim: Aim, strength: float, context: Context) -> None:
        chosen = choose(graph, aim, context)
        self.graph = chosen.graph
        self._pushed, members = by_unit(chosen.graph, chosen.coupling, chosen.gone)
        count = sum(len(each.groups) for each in self._pushed)
        instead = taken_over(chosen.graph, chosen.coupling, chosen.gone, chosen.narrow)
        self._lasso = GroupLasso(members, count, strength, instead)
        self.penalty = self._lasso if count else None
        self.skipped: Sequence[Skip] = chosen.skipped
        what = "the MACs" if aim.by == "macs" else "the heads"
        self.notes: tuple[str, ...] = (f"without what is pushed {chosen.share:.1%} of {what} are left",)
        self._noun = "heads" if aim.attended else "channels"

    def told(self, weights: Mapping[str, Tensor]) -> tuple[Site, ...]:
        """A site a width."""
        now, start = self._lasso.lengths(weights)
        left = np.divide(now, start, out=np.zeros_like(now), where=start > 0)
        return tuple(
            Site(
                name=each.name,
                op_type=each.op_type,
                what=f"{len(each.groups)} of {each.of} {self._noun} pushed, "
                f"{int((left[each.groups] < _GONE).sum())} of them gone; "
                f"{left[each.groups].mean():.1%} of their length left",
            )
            for each in self._pushed
        )


class Single:
    """The smallest weights of each layer; penalty: None where there are none."""

    notes: tuple[str, ...] = ()

    def __init__(self, graph: Graph, left: float, exclude: Sequence[str], strength: float) -> None:
        self.graph = prepare(graph)
        self._small, self.skipped = smallest(self.graph, left, exclude)
        self.penalty = Lasso(self._small, strength) if self._small else None

    def told(self, weights: Mapping[str, Tensor]) -> tuple[Site, ...]:
        """A site a layer."""
        found = []
        for each in self._small:
            if each.weight not in weights:
                continue
            pushed = each.start > 0
            now = np.abs(weights[each.weight].detach().cpu().numpy()[pushed])
            gone = int((now < _GONE * each.start[pushed]).sum())
            what = f"{int(pushed.sum())} of {pushed.size} weights pushed, {gone} of them gone"
            found.append(Site(name=each.layer, op_type=each.op_type, what=what))
        return tuple(found)
