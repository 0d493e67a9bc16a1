"""Fine-tuning: all weights that are stored as floats learn from labels.

The graph is trained as it is: folded normalizations stay folded, weights behind a rounding learn through it,
integers stay what they are.

Sources: Goodfellow, Bengio and Courville 2016, "Deep Learning", section 6.2.2 (cross entropy); Loshchilov and
Hutter 2019, "Decoupled Weight Decay Regularization", algorithm 2; Loshchilov and Hutter 2017, "SGDR", eq. 5.
"""

from __future__ import annotations

from functools import partial
from typing import Annotated, Literal

from pydantic import ConfigDict, Field
from pydantic.dataclasses import dataclass

from hasten import train
from hasten.core.errors import MethodError
from hasten.graph import Graph
from hasten.methods import Change, Context, Facts

FACTS = Facts(
    summary="all float weights trained on labels",
    exact=False,
    needs=frozenset({"calibration", "labels", "gradients"}),
    needs_float=False,
)


@dataclass(frozen=True, kw_only=True, config=ConfigDict(extra="forbid"))
class Params:
    """Hyper-parameters of ``finetune``.

    epochs: passes over the calibration samples. batch_size: samples of an optimizer step. learning_rate:
    after a warm-up of a twentieth of the steps; it falls along a cosine. weight_decay: not of biases.
    ema: decay of the moving average of the weights, or null. augment: what is done to pictures.
    trainable: pattern of the names of the weights to train, or null for all. held_back: share of the samples
    that only choose the best weights. patience: epochs without a better one after which it stops, or null.
    precision: of the arithmetic. device: ``auto`` takes a GPU where there is one.
    """

    epochs: Annotated[float, Field(gt=0)] = 3.0
    batch_size: Annotated[int, Field(ge=1)] = 32
    learning_rate: Annotated[float, Field(gt=0)] = 1e-4
    optimizer: Literal["adamw", "sgd"] = "adamw"
    weight_decay: Annotated[float, Field(ge=0)] = 0.0
    ema: Annotated[float, Field(gt=0, lt=1)] | None = None
    augment: tuple[Literal["flip", "crop"], ...] = ()
    trainable: str | None = None
    held_back: Annotated[float, Field(ge=0, le=0.5)] = 0.1
    patience: Annotated[int, Field(ge=1)] | None = None
    precision: Literal["float32", "bfloat16", "float16"] = "float32"
    device: Literal["auto", "cpu", "cuda"] = "auto"


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
