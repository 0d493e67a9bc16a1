"""One training for many widths: a network whose narrower parts, in the same weights, answer as it does.

Which channels (or heads) stand or fall together, and in which order those of each width go, is found as
``hasten.methods._narrow`` finds it. In each optimizer step the whole network learns from the original, or
from labels; the narrowest part of it, and some drawn between the two, learn what the whole answers. The order
is kept in the model, so that a pruning with ``importance: supernet`` takes out, in seconds and without
training, any of the parts: one training, a front of speed and quality.

Sources: Yu and Huang 2019, "Universally Slimmable Networks and Improved Training Techniques", sections 3.2
(sandwich rule) and 3.3 (inplace distillation); Cai et al. 2020, "Once-for-All: Train One Network and
Specialize it for Efficient Deployment", section 3.2 (channels sorted by importance, every layer its width).
"""

from __future__ import annotations

from functools import partial
from typing import Annotated, Literal

from pydantic import ConfigDict, Field
from pydantic.dataclasses import dataclass

from hasten import train
from hasten.core.errors import MethodError
from hasten.core.record import Site
from hasten.graph import Graph
from hasten.methods import Change, Context, Facts
from hasten.methods._narrow import nested
from hasten.methods._narrow.work import Aim, ordered
from hasten.methods._narrow.worth import Importance
from hasten.methods._supernet.parts import Parts
from hasten.train.settings import Basics

FACTS = Facts(
    summary="trained once so that any narrower part of it, cut out afterwards, answers as the whole does",
    exact=False,
    needs=frozenset({"calibration", "gradients"}),
)
_ALIGN = {"channels": 8, "heads": 1}


@dataclass(frozen=True, kw_only=True, config=ConfigDict(extra="forbid"))
class Params(Basics):
    """Hyper-parameters of ``train_supernet``: those of every training, and these.

    of: what narrower parts have fewer of, whole ``channels`` or attention ``heads``, for ``prune_channels``
        and ``prune_heads`` to cut.
    least: share of each width that the narrowest part has.
    between: parts of other widths, drawn anew in each step, that learn besides the whole and the narrowest.
    importance: what the least of goes first, as of ``prune_channels``. align: what is left of each width is a
        multiple of it; None: 8 channels, any number of heads. samples: at most this many tell the order.
    temperature: T that softens class scores. alpha: share of the labels' loss; 0 needs no labels.
    exclude: names of widths that every part has whole.
    """

    of: Literal["channels", "heads"] = "channels"
    least: Annotated[float, Field(gt=0, lt=1)] = 0.5
    between: Annotated[int, Field(ge=0)] = 1
    importance: Importance = "outputs"
    align: Annotated[int, Field(ge=1)] | None = None
    samples: Annotated[int, Field(ge=1)] = 200
    temperature: Annotated[float, Field(gt=0)] = 4.0
    alpha: Annotated[float, Field(ge=0, lt=1)] = 0.0
    exclude: tuple[str, ...] = ()
    epochs: Annotated[float, Field(gt=0, allow_inf_nan=False)] = 5.0
    learning_rate: Annotated[float, Field(gt=0, allow_inf_nan=False)] = 3e-4


def apply(graph: Graph, params: Params, context: Context) -> Change:
    """Train the graph and its parts.

    Raises MethodError without samples or what to learn from, for names in ``exclude`` that the graph does not
    have, and for operators without a gradient; Unavailable when PyTorch or accelerate is missing.
    """
    data = context.calibration
    if data is None or not len(data):
        raise MethodError("train_supernet has no samples to learn on; give --data")
    if params.alpha > 0 and not data.has_labels:
        raise MethodError("train_supernet: the data have no labels; set alpha to 0")
    found = ordered(graph, _aim(params), context)
    parts = Parts(found, least=params.least, between=params.between, seed=context.seed)
    if not any(parts.narrowest.values()):
        return Change(graph, skipped=found.skipped)
    fitted = train.learn(
        found.graph,
        data,
        params,
        teacher=context.original or graph,
        subnetworks=parts,
        progress=partial(context.progress, "learning at many widths"),
        seed=context.seed,
        threads=context.threads,
    )
    assert fitted.graph is not None
    sites, skipped = train.changed(found.graph, fitted)
    # What no part went without, nobody has learned to do without.
    learned = {name: found.orders[name].units[:count].tolist() for name, count in parts.narrowest.items()}
    nested.remember(fitted.graph, learned)
    noun = "heads" if params.of == "heads" else "channels"
    own = []
    for width in found.chooser.widths:
        fewest = len(width) - parts.narrowest[width.name]
        if fewest < len(width):
            what = f"{len(width)} {noun}, trained to do with {fewest} of them"
            own.append(Site(name=width.name, op_type=width.parts[0].op_type, what=what))
    share = found.chooser.left(parts.narrowest)
    notes = (
        *fitted.notes,
        f"train_supernet: the narrowest part has {share:.1%} of the multiply-accumulates",
        f"train_supernet: {fitted.why}",
    )
    return Change(fitted.graph, (*own, *sites), (*found.skipped, *skipped), notes)


def _aim(params: Params) -> Aim:
    return Aim(
        attended=params.of == "heads",
        side="outer",
        by="macs",
        left=1.0,
        widths={},
        importance=params.importance,
        scope="global",
        align=params.align or _ALIGN[params.of],
        least=params.least,
        fit=False,
        samples=params.samples,
        exclude=params.exclude,
    )
