"""Attention heads removed, or what lies inside them, whose absence the rest makes up for best.

A head is one unit of the coupling analysis: its rows of the queries', keys' and values' weights and its
columns of the projection behind. It is judged by what its removal costs the outputs of that projection when
the other heads stand in for it as well as they can, and by how much the model's outputs, measured, need the
layer's heads.

Sources: Michel, Levy and Neubig 2019, "Are Sixteen Heads Really Better than One?", sections 3 and 4; Kurtic
et al. 2023, "ZipLM: Inference-Aware Structured Pruning of Language Models", section 3.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import field
from typing import Annotated

from pydantic import ConfigDict, Field
from pydantic.dataclasses import dataclass

from hasten.graph import Graph
from hasten.methods import Amount, Change, Context, Facts
from hasten.methods._narrow.work import Aim, Scope, narrow
from hasten.methods._narrow.worth import Importance

FACTS = Facts(
    summary="attention heads removed, and what is left solved to give the same outputs",
    exact=False,
    needs=frozenset({"calibration"}),
    amount=Amount(parameter="heads", says="left"),
)

_Width = Annotated[int, Field(ge=1)]


@dataclass(frozen=True, kw_only=True, config=ConfigDict(extra="forbid"))
class Params:
    """Hyper-parameters of ``prune_heads``.

    heads: share of all heads that is left at most.
    widths: how many heads to keep of single layers, by the name of the first layer that makes them; all
        others then stay as they are, and ``heads`` says nothing.
    inside: do not remove heads but what lies inside each, the same places in all heads of a layer.
    importance, scope, fit, samples, exclude: as of ``prune_channels``.
    least: share of each layer's heads that is left at least. align: what is left is a multiple of it.
    """

    heads: Annotated[float, Field(gt=0, le=1)] = 0.75
    widths: Mapping[str, _Width] = field(default_factory=dict, hash=False)
    inside: bool = False
    importance: Importance = "outputs"
    scope: Scope = "global"
    align: Annotated[int, Field(ge=1)] = 1
    least: Annotated[float, Field(gt=0, le=1)] = 0.1
    fit: bool = True
    samples: Annotated[int, Field(ge=1)] = 200
    exclude: tuple[str, ...] = ()


def apply(graph: Graph, params: Params, context: Context) -> Change:
    """Remove heads.

    Raises MethodError without samples, for layers that the graph does not have, and where it does not run;
    Unavailable for gradients without PyTorch.
    """
    aim = Aim(
        attended=True,
        side="inner" if params.inside else "outer",
        by="units",
        left=params.heads,
        widths=params.widths,
        importance=params.importance,
        scope=params.scope,
        align=params.align,
        least=params.least,
        fit=params.fit,
        samples=params.samples,
        exclude=params.exclude,
    )
    return narrow(graph, aim, context)
