"""Fine-tuning: all weights that are stored as floats learn from labels.

The graph is trained as it is: folded normalizations stay folded (unless ``normalize`` puts new ones there for
the time), weights behind a rounding learn through it, integers stay what they are.

Sources: Goodfellow, Bengio and Courville 2016, "Deep Learning", section 6.2.2 (cross entropy); Loshchilov and
Hutter 2019, "Decoupled Weight Decay Regularization", algorithm 2; Loshchilov and Hutter 2017, "SGDR", eq. 5.
"""

from __future__ import annotations

from functools import partial

from pydantic import ConfigDict
from pydantic.dataclasses import dataclass

from hasten import train
from hasten.core.errors import MethodError
from hasten.graph import Graph
from hasten.methods import Change, Context, Facts
from hasten.train.settings import Hyperparameters

FACTS = Facts(
    summary="all float weights trained on labels",
    exact=False,
    needs=frozenset({"calibration", "labels", "gradients"}),
    needs_float=False,
)


@dataclass(frozen=True, kw_only=True, config=ConfigDict(extra="forbid"))
class Params(Hyperparameters):
    """Hyper-parameters of ``finetune``: those of every training, and this one.

    normalize: put a batch normalization behind each convolution that has none, and fold it back in the end.
        The rates at which a network with normalizations learns, 0.05 for ``sgd``, are too high without.
    """

    normalize: bool = False


def apply(graph: Graph, params: Params, context: Context) -> Change:
    """Train the graph on the labels of the calibration samples.

    Raises MethodError when there are no labels or they fit no output, or for operators without a gradient;
    Unavailable when PyTorch or accelerate is missing.
    """
    data = context.calibration
    if data is None or not data.has_labels:
        raise MethodError("finetune learns from labels, and the data have none; use distill")
    fitted = train.learn(
        graph,
        data,
        params,
        progress=partial(context.progress, "training on labels"),
        seed=context.seed,
        threads=context.threads,
    )
    sites, skipped = train.changed(graph, fitted)
    if not sites or fitted.graph is None:
        return Change(graph, skipped=skipped, notes=fitted.notes)
    return Change(fitted.graph, sites, skipped, (*fitted.notes, f"finetune: {fitted.why}"))
