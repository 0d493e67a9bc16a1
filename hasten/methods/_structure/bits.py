"""Bits as a part of the structure: which layers compute in 8 bits, decided together with all else."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial

import numpy as np

from hasten import methods
from hasten.core.data import Array, Calibration
from hasten.core.recipe import Json, Recipe, Step
from hasten.graph import Graph
from hasten.graph.layer import OPERATORS
from hasten.graph.names import layer_name
from hasten.graph.switches import Switchboard
from hasten.methods import Change, Context, Times
from hasten.methods._factors.write import factored_from
from hasten.methods._observe.outputs import Outputs
from hasten.methods._structure.decisions import Decision
from hasten.numerics.latency import taken

METHOD = "quantize_static"
Quantize = Mapping[str, Json]
"""Hyper-parameters of ``quantize_static``, without the layers it leaves."""
_FLOAT, _INT8 = 32, 8
_SHARE = _INT8 / _FLOAT
"""Of what a layer costs: a product of numbers of fewer bits counts by their width where no time is known."""
_SAMPLES = 32
"""By which layers in 8 bits are judged, one by one."""


def decisions(graph: Graph, samples: Calibration, quantize: Quantize, context: Context) -> Iterator[Decision]:
    """One for each layer that can compute in 8 bits, with what that alone does to the outputs."""
    step = methods.comparable(Step(METHOD, quantize))
    change = methods.apply(Recipe([step]), graph, replace(context, calibration=samples))
    layers = {layer_name(node) for node in graph.ir_model.graph if node.op_type in OPERATORS}
    changed = layers & {site.name for site in change.sites}
    if not changed:
        return
    board = Switchboard(graph, {METHOD: change.graph}, {METHOD: changed})
    evaluator = board.open(threads=context.threads)
    wanted = [spec.name for spec in graph.outputs]
    outputs = Outputs(graph, samples.take(_SAMPLES), context)

    def answer(name: str, feeds: Mapping[str, Array]) -> Mapping[str, Array]:
        return evaluator.run(board.feeds(feeds, {name: METHOD}), wanted)

    for name in board.layers:
        harm = outputs.wrong(partial(answer, name))
        if np.isfinite(harm):
            yield Decision("bits", name, (_FLOAT, _INT8), (0.0, harm), shares=(1.0, _SHARE))


def priced(decisions: Sequence[Decision], times: Times, in_int8: Times) -> tuple[Decision, ...]:
    """The decisions with what layers take in 8 bits over what they take; the usual of it where not known."""
    whole, narrow = ({name: taken(time) for name, time in each.items()} for each in (times, in_int8))
    known = {name: narrow[name] / whole[name] for name in narrow.keys() & whole.keys() if whole[name] > 0}
    if not known:
        return tuple(decisions)
    usual = float(np.median(list(known.values())))
    return tuple(
        replace(d, shares=(1.0, known.get(d.name, usual))) if d.kind == "bits" else d for d in decisions
    )


def in_bits(structure: Change, names: Collection[str], quantize: Quantize, context: Context) -> Change:
    """A structure that was made, with the layers of these names, or what became of them, in 8 bits."""
    layers = [layer_name(node) for node in structure.graph.ir_model.graph if node.op_type in OPERATORS]
    kept: list[Json] = [name for name in layers if factored_from(name) not in names]
    step = Step(METHOD, {**quantize, "exclude": kept})
    change = methods.apply(Recipe([step]), structure.graph, context)
    # That a layer was to stay as it is says the search, and better.
    skipped = tuple(skip for skip in change.skipped if skip.name not in kept)
    return replace(
        change,
        sites=structure.sites + change.sites,
        skipped=structure.skipped + skipped,
        notes=structure.notes + change.notes,
    )
