"""What ranks of single layers would save, and what each would do to the model's outputs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import onnx_ir.passes.common as passes

from hasten.core.data import Calibration
from hasten.graph import Graph
from hasten.graph.names import name_nodes
from hasten.methods import Context
from hasten.methods._factors.choice import Choice, offers
from hasten.methods._factors.forms import Cost, Form, Positions, forms_of
from hasten.methods._factors.harm import SAMPLES, Harm
from hasten.methods._factors.layers import Factorable, Unfit, find_layers
from hasten.methods._factors.solve import LARGEST, Solved, Solver, run_once
from hasten.methods._observe.moments import observe
from hasten.methods._observe.samples import apart
from hasten.numerics.low_rank import Target
from hasten.numerics.rounding import Moments


@dataclass(frozen=True)
class Offer:
    """A rank of a layer.

    first, last: of the factor that reads what the layer reads, and of that which makes what it makes. whole:
        of the layer. axis: of its outputs in its weight. harm: the error of the model's outputs, over their
        variance.
    """

    rank: int
    first: Cost
    last: Cost
    whole: Cost
    axis: int
    harm: float


def offered(
    graph: Graph,
    samples: Calibration,
    context: Context,
    *,
    form: Literal["channel", "spatial"],
    align: int,
) -> dict[str, list[Offer]]:
    """A handful of ranks of each layer that gets cheaper, from the highest on; raises MethodError.

    form: of convolutions, one of two factors. align: ranks are multiples of it.
    """
    copy = graph.copy()
    name_nodes(copy)
    passes.LiftConstantsToInitializersPass()(copy.ir_model)
    layers, _ = find_layers(copy.ir_model.graph, frozenset())

    judges, rest = apart(samples, SAMPLES)

    def observed(some: Sequence[Factorable]) -> Mapping[str, Moments]:
        return observe(graph, some, rest, context, largest=LARGEST)

    def forms(layer: Factorable, target: Target, positions: Positions) -> list[Form]:
        return [kind(layer, target, positions, align) for kind in forms_of(layer, (form,))]

    harm = Harm(copy, judges, context)
    found: dict[str, list[Offer]] = {}
    for done, solved in enumerate(Solver(observed, run_once(graph, context)[1], forms).solve(layers)):
        context.progress(f"factors of {solved.layer.name}", done / len(layers))
        try:
            choices = offers(solved.forms) if solved.forms else []
            weight = harm.weight(solved, choices) if choices else 0.0
        except Unfit:
            continue
        if choices:
            choices.sort(key=lambda choice: -choice.cost)
            found[solved.layer.name] = [_offer(solved, choice, weight) for choice in choices]
    return found


def _offer(solved: Solved, choice: Choice, weight: float) -> Offer:
    form = solved.form(choice)
    first, last = form.costs(choice.rank)
    return Offer(choice.rank, first, last, form.whole, solved.layer.axis, weight * choice.lost)
