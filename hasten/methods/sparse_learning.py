"""Sparse learning: what is to go is pushed to zero while the rest learns to do without it.

The channels (or heads, or single weights) that a pruning would take are found as ``hasten.methods._narrow``
finds them. Then the graph is trained to go on answering as the original, or on labels; after every optimizer
step all weights of such a channel, wherever in the graph they lie, shrink together by a proximal step of the
group lasso that grows, and the layers around take over as least squares says they can. The graph keeps its
shape: a pruning afterwards takes what is next to nothing.

Sources: Wen et al. 2016, "Learning Structured Sparsity in Deep Neural Networks", section 3.1; Parikh and Boyd
2014, "Proximal Algorithms", section 6.5; Wang et al. 2021, "Neural Pruning via Growing Regularization",
section 3; Fang et al. 2023, "DepGraph: Towards Any Structural Pruning", section 3.3 (coupled groups).
"""

from __future__ import annotations

from functools import partial
from typing import Annotated, Literal, Self

from pydantic import ConfigDict, Field, model_validator
from pydantic.dataclasses import dataclass

from hasten import train
from hasten.core.errors import MethodError
from hasten.graph import Graph
from hasten.methods import Change, Context, Facts
from hasten.methods._lasso.push import Single, Units
from hasten.methods._narrow.work import Aim, Scope
from hasten.methods._narrow.worth import Importance
from hasten.train.settings import Basics

FACTS = Facts(
    summary="what a pruning would take is pushed to zero while the rest learns to do without it",
    exact=False,
    needs=frozenset({"calibration", "gradients"}),
)
_ALIGN = {"channels": 8, "heads": 1}


@dataclass(frozen=True, kw_only=True, config=ConfigDict(extra="forbid"))
class Params(Basics):
    """Hyper-parameters of ``sparse_learning``: those of every training, and these.

    of: what is pushed to zero, whole ``channels`` or attention ``heads``, for ``prune_channels`` and
        ``prune_heads`` to take, or single ``weights``, for ``prune_weights``.
    left: share of the model's multiply-accumulates that is left without the channels that are pushed; share
        of the heads, or of each layer's weights, that are not pushed.
    strength: by how many times its length at the start a group shrinks in all, where no gradient holds it.
    importance: what the least of is pushed, as of ``prune_channels``; None: ``outputs``. scope: as there;
        None: ``global``. align: what is not pushed of each width is a multiple of it; None: 8 channels, any
        number of heads. Of single weights it is always the smallest of each layer.
    least: share of each width that is not pushed at least. samples: at most this many tell what is pushed.
    temperature: T that softens class scores. alpha: share of the labels' loss; 0 learns from the original
        alone, without labels, 1 from labels alone.
    exclude: names of widths, or of layers, of which nothing is pushed.
    """

    of: Literal["channels", "heads", "weights"] = "channels"
    left: Annotated[float, Field(gt=0, lt=1)] = 0.7
    strength: Annotated[float, Field(gt=0, allow_inf_nan=False)] = 2.0
    importance: Importance | None = None
    scope: Scope | None = None
    align: Annotated[int, Field(ge=1)] | None = None
    least: Annotated[float, Field(gt=0, le=1)] = 0.1
    samples: Annotated[int, Field(ge=1)] = 200
    temperature: Annotated[float, Field(gt=0)] = 4.0
    alpha: Annotated[float, Field(ge=0, le=1)] = 0.0
    exclude: tuple[str, ...] = ()
    epochs: Annotated[float, Field(gt=0, allow_inf_nan=False)] = 5.0
    learning_rate: Annotated[float, Field(gt=0, allow_inf_nan=False)] = 3e-4

    @model_validator(mode="after")
    def _used(self) -> Self:
        """Refuse what would be ignored."""
        given = {"importance": self.importance, "scope": self.scope, "align": self.align}
        for name, value in given.items():
            if self.of == "weights" and value is not None:
                raise ValueError(f"{name} says nothing of single weights; leave it out")
        return self


def apply(graph: Graph, params: Params, context: Context) -> Change:
    """Train the graph with the penalty.

    Raises MethodError without samples or what to learn from, for names in ``exclude`` that the graph does not
    have, and for operators without a gradient; Unavailable when PyTorch or accelerate is missing.
    """
    data = context.calibration
    if data is None or not len(data):
        raise MethodError("sparse_learning has no samples to learn on; give --data")
    if params.alpha > 0 and not data.has_labels:
        raise MethodError("sparse_learning: the data have no labels; set alpha to 0")
    push = _push(graph, params, context)
    if push.penalty is None:
        return Change(graph, skipped=tuple(push.skipped))
    fitted = train.learn(
        push.graph,
        data,
        params,
        teacher=(context.original or graph) if params.alpha < 1 else None,
        regularizer=push.penalty,
        progress=partial(context.progress, "learning to do without"),
        seed=context.seed,
        threads=context.threads,
    )
    assert fitted.graph is not None
    sites, skipped = train.changed(push.graph, fitted)
    if not sites:
        return Change(graph, skipped=(*push.skipped, *skipped), notes=fitted.notes)
    own = push.told(dict(fitted.module.named_parameters()))
    notes = (*fitted.notes, *push.notes, f"sparse_learning: {fitted.why}")
    return Change(fitted.graph, (*own, *sites), (*push.skipped, *skipped), notes)


def _push(graph: Graph, params: Params, context: Context) -> Units | Single:
    if params.of == "weights":
        return Single(graph, params.left, params.exclude, params.strength)
    aim = Aim(
        attended=params.of == "heads",
        side="outer",
        by="macs" if params.of == "channels" else "units",
        left=params.left,
        times={},
        widths={},
        importance=params.importance or "outputs",
        scope=params.scope or "global",
        align=params.align or _ALIGN[params.of],
        least=params.least,
        fit=True,
        samples=params.samples,
        exclude=params.exclude,
    )
    return Units(graph, aim, params.strength, context)
