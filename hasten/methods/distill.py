"""Distillation: the graph as it was changed so far learns to answer as the original does, without labels.

Class scores are compared as softened distributions, embeddings by direction and by how samples relate to each
other, other outputs by their squared error; inner values may be learned too.

Sources: Hinton, Vinyals and Dean 2015, "Distilling the Knowledge in a Neural Network", section 2; Park, Kim,
Lu and Cho 2019, "Relational Knowledge Distillation"; Romero et al. 2015, "FitNets", eq. 3; Zagoruyko and
Komodakis 2017, "Paying More Attention to Attention", eq. 2.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Annotated, Literal

from pydantic import ConfigDict, Field
from pydantic.dataclasses import dataclass

from hasten import loaders, train
from hasten.core.errors import InputError, MethodError
from hasten.core.record import Skip
from hasten.graph import Graph
from hasten.methods import Change, Context, Facts
from hasten.train.settings import Hyperparameters

FACTS = Facts(
    summary="all float weights trained to answer as the original does; no labels needed",
    exact=False,
    needs=frozenset({"calibration", "gradients"}),
    needs_float=False,
)
_ORIGINAL = "original"


@dataclass(frozen=True, kw_only=True, config=ConfigDict(extra="forbid"))
class Params(Hyperparameters):
    """Hyper-parameters of ``distill``: those of every training, and these.

    teacher: ``original``, the model as it was before the recipe, or the path of another model that takes the
    same inputs.
    temperature: T that softens class scores. alpha: share of the labels' loss; 0 needs no labels.
    features: names of inner values to learn, or ``matched``: of the same name and shape in both graphs.
    feature_weight: how much they count. attention: compare their maps of attention instead of the values.
    normalize: put a batch normalization behind each convolution that has none, and fold it back in the end.
        The rates at which a network with normalizations learns, 0.05 for ``sgd``, are too high without.
    """

    teacher: str = _ORIGINAL
    temperature: Annotated[float, Field(gt=0)] = 4.0
    alpha: Annotated[float, Field(ge=0, lt=1)] = 0.0
    features: Literal["matched"] | tuple[str, ...] = ()
    feature_weight: Annotated[float, Field(ge=0)] = 1.0
    attention: bool = False
    normalize: bool = False


def apply(graph: Graph, params: Params, context: Context) -> Change:
    """Train the graph on what the teacher answers on the calibration samples.

    Raises MethodError when the teacher does not fit, or for operators without a gradient; Unavailable when
    PyTorch or accelerate is missing.
    """
    data = context.calibration
    if data is None or not len(data):
        raise MethodError("distill has no samples to learn on; give --data")
    if params.alpha > 0 and not data.has_labels:
        raise MethodError("distill: the data have no labels; set alpha to 0")
    teacher = _teacher(graph, params, context)
    if not params.alpha and teacher.fingerprint == graph.fingerprint:
        reason = "the model is still the teacher: put distill after the method that changes it"
        return Change(graph, skipped=(Skip(name="the model", op_type="Graph", reason=reason),))
    fitted = train.learn(
        graph,
        data,
        params,
        teacher=teacher,
        progress=partial(context.progress, "learning from the original"),
        seed=context.seed,
        threads=context.threads,
    )
    sites, skipped = train.changed(graph, fitted)
    if not sites or fitted.graph is None:
        return Change(graph, skipped=skipped, notes=fitted.notes)
    return Change(fitted.graph, sites, skipped, (*fitted.notes, f"distill: {fitted.why}"))


def _teacher(graph: Graph, params: Params, context: Context) -> Graph:
    if params.teacher == _ORIGINAL:
        return context.original or graph
    try:
        return loaders.read(Path(params.teacher)).graph
    except InputError as error:
        raise MethodError(f"distill: {error}") from error
