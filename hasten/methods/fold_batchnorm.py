"""Batch normalizations and constant scales absorbed by the layers beside them, and nothing else changed.

Source: Ioffe & Szegedy 2015, "Batch Normalization", algorithm 2, in inference.
"""

from __future__ import annotations

from pydantic import ConfigDict
from pydantic.dataclasses import dataclass

from hasten.graph import Graph
from hasten.methods import Change, Context, Facts
from hasten.methods._exact.settle import rewritten
from hasten.rewrites import ALL

FACTS = Facts(
    summary="batch norms and constant scales absorbed by the layers beside them, nothing else changed",
    exact=True,
    needs_float=False,
)

_FOLDS = ("remove_unused", "fold_affine", "merge_affine", "fold_affine_before")


@dataclass(frozen=True, kw_only=True, config=ConfigDict(extra="forbid"))
class Params:
    """Hyper-parameters of ``fold_batchnorm``: there are none."""


def apply(graph: Graph, params: Params, context: Context) -> Change:
    """Fold in a copy of the graph. What could not be verified is left, as by ``optimize_graph``."""
    return rewritten(graph, {name: ALL[name] for name in _FOLDS}, context)
