"""Scales moved from layer to layer so that weights and activations quantize better, nothing else changed.

A channel that a layer makes is divided by a factor, and the weights of all layers that read it are multiplied
by the factor. Where everything in between lets factors pass, the graph computes the same function with other
weights: cross-layer equalization, SmoothQuant, and the scaling of AWQ are three ways to choose the factors.

Sources: Nagel et al. 2019, "Data-Free Quantization Through Weight Equalization and Bias Correction", section
4.1; Xiao et al. 2023, "SmoothQuant: Accurate and Efficient Post-Training Quantization for Large Language
Models", section 4; Lin et al. 2023, "AWQ: Activation-aware Weight Quantization for LLM Compression and
Acceleration", section 3.2.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import Annotated, Literal

import numpy as np
import onnx_ir as ir
import onnx_ir.passes.common as passes
from pydantic import ConfigDict, Field, model_validator
from pydantic.dataclasses import dataclass

from hasten.core.data import Array
from hasten.core.errors import MethodError
from hasten.core.record import Site, Skip
from hasten.graph import Graph
from hasten.graph.channels import Resolved
from hasten.graph.editor import Editor
from hasten.graph.feeds import feeds_to_try
from hasten.graph.names import layer_name, name_nodes, skip
from hasten.methods import Change, Context, Facts
from hasten.methods._equal.layers import LAYERS
from hasten.methods._equal.loud import leave_unobservable, scales_for_codes
from hasten.methods._equal.moving import MOVING
from hasten.methods._equal.pointwise import POINTWISE
from hasten.methods._equal.trace import Part, Reader, Trace
from hasten.methods._observe.moments import observe
from hasten.methods._observe.samples import observed
from hasten.numerics.affine import Grid
from hasten.numerics.equalization import Values, Weight, accumulate, add_squares, equalize, scaled, smooth
from hasten.numerics.scaling import Rounding
from hasten.rewrites.equality import Equality

FACTS = Facts(
    summary="scales moved between layers so that they quantize better, the same function",
    exact=True,
)

_EVEN = 0.5
"""With this strength both sides end with the same ranges."""
_RULES = {**LAYERS, **MOVING, **POINTWISE}


@dataclass(frozen=True, kw_only=True, config=ConfigDict(extra="forbid"))
class Params:
    """Hyper-parameters of ``equalize``.

    by: what is balanced with the weights that read a channel: the ``weights`` that make it (cross-layer
        equalization, without data), or its ``activations`` on calibration samples (SmoothQuant). By ``codes``
        loud channels get more of the grid that only the weights behind them are rounded on (AWQ).
    strength: how much of the differences is moved into the weights that read: 0 evens these out alone, 1 what
        they are balanced with alone; by codes 0 moves nothing and 1 makes channels alike in loudness. None:
        half of it by weights; otherwise what loses least in each place, and nothing where that loses more.
    bits, group, symmetric: of the codes of weights in that loss, as the step behind has them; the last two by
        codes only. group: weights of a channel that share a scale, None: all. symmetric: no zero points.
    residuals: also scale values that go on through sums, with one factor a channel for all that is summed.
    rounds: how often all layers are gone through at most, by weights. samples: at most this many calibrate.
    exclude: names of nodes that keep their constants.
    """

    by: Literal["weights", "activations", "codes"] = "weights"
    strength: Annotated[float, Field(ge=0.0, le=1.0)] | None = None
    bits: Annotated[int, Field(ge=2, le=8)] = 8
    group: Annotated[int, Field(ge=2)] | None = None
    symmetric: bool = True
    residuals: bool = False
    rounds: Annotated[int, Field(ge=1)] = 20
    samples: Annotated[int, Field(ge=1)] = 200
    exclude: tuple[str, ...] = ()

    @model_validator(mode="after")
    def _of_the_rule(self) -> Params:
        """Refuse what the rule would ignore."""
        ignored = {"group": self.group is not None, "symmetric": not self.symmetric}
        for name, given in ignored.items():
            if given and self.by != "codes":
                raise ValueError(f"{name} is nothing that by: {self.by} has; leave it out")
        return self


def apply(graph: Graph, params: Params, context: Context) -> Change:
    """Move the scales of all channels that have someone to take them in on both sides.

    Raises MethodError without samples where ``by`` needs them, and when the graph cannot be run on them.
    """
    if params.by != "weights" and not context.calibration:
        raise MethodError(f"equalize by {params.by} has no samples to calibrate on; give --data")
    changed = graph.copy()
    name_nodes(changed)
    passes.LiftConstantsToInitializersPass()(changed.ir_model)
    trace = Trace(changed, _RULES, frozenset(params.exclude), residuals=params.residuals)
    if params.by == "codes":
        leave_unobservable(trace)
    found = trace.channels.resolve()
    scales, told = _scales(graph, trace, found, params, context)
    sites = list(_write(Editor(changed), trace.parts, found, scales))
    skipped = _left(trace, found, {site.name for site in sites}, params)
    notes = (*told, *_unknown(changed, params))
    problem = _problem(graph, changed, context) if sites else None
    if problem is not None:
        reason = f"undone: {problem}"
        return Change(graph, skipped=(Skip(name="graph", op_type="graph", reason=reason),), notes=notes)
    return Change(changed if sites else graph, tuple(sites), tuple(skipped), notes)


def _scales(
    graph: Graph, trace: Trace, found: Resolved, params: Params, context: Context
) -> tuple[Array, tuple[str, ...]]:
    """The scale of each channel by the rule that is asked for, and what is to be said of them."""
    if params.by == "codes":
        assert context.calibration is not None
        samples = context.calibration.take(params.samples)
        rounding = Rounding(Grid(params.bits, signed=params.symmetric), params.group)
        observed = partial(observe, graph, samples=samples, context=context)
        scales, told = scales_for_codes(trace, found, rounding, params.strength, observed)
        return scales, (told,)
    weights = list(_weights(trace.parts, found))
    if params.by == "weights":
        strength = _EVEN if params.strength is None else params.strength
        return equalize(weights, found.count, strength=strength, rounds=params.rounds), ()
    values = _values(graph, trace.readers, found, params, context)
    return smooth(weights, values, strength=params.strength, bits=params.bits), ()


def _weights(parts: list[Part], found: Resolved) -> Iterator[Weight]:
    """The magnitudes of what gives channels their size or reads them."""
    for part in parts:
        made, read = found.numbers(part.made), found.numbers(part.read)
        if part.role != "term" and (made.any() or read.any()):
            yield Weight(np.abs(part.array), made, read)


def _values(graph: Graph, readers: list[Reader], found: Resolved, params: Params, context: Context) -> Values:
    """What each channel holds where layers read it."""
    assert context.calibration is not None
    samples = context.calibration.take(params.samples)
    wanted = {str(r.value.name): found.numbers(r.labels) for r in readers if found.numbers(r.labels).any()}
    largest, squares, counts = np.zeros(found.count), np.zeros(found.count), np.zeros(found.count)
    for names, arrays in observed(graph, list(wanted), samples, context, doing="looking at channels"):
        for name in names:
            accumulate(largest, np.abs(arrays[name]), wanted[name])
            add_squares(squares, counts, arrays[name], wanted[name])
    return Values(largest, squares / np.maximum(counts, 1))


def _write(editor: Editor, parts: list[Part], found: Resolved, scales: Array) -> Iterator[Site]:
    """Change the constants; a weight that layers share stays one."""
    moved: dict[ir.Node, list[tuple[Array, Array]]] = {}
    for part in parts:
        made, read = scales[found.numbers(part.made)], scales[found.numbers(part.read)]
        if np.all(made == 1.0) and np.all(read == 1.0):
            continue
        array = scaled(part.array, made, read).astype(part.array.dtype)
        value = part.node.inputs[part.index]
        if part.role == "weight" and value is not None:
            value.const_value = ir.tensor(array, name=value.name)
        else:
            editor.set_input(part.node, part.index, array)
        moved.setdefault(part.node, []).append((made, read))
    for node, factors in moved.items():
        made, read = (
            np.concatenate([side.reshape(-1) for side in sides]) for sides in zip(*factors, strict=True)
        )
        told = [_told(read, "what it reads is multiplied by"), _told(made, "what it makes is divided by")]
        yield Site(name=layer_name(node), op_type=node.op_type, what="; ".join(filter(None, told)))


def _told(factors: Array, what: str) -> str:
    return "" if np.all(factors == 1.0) else f"{what} {factors.min():.3g} to {factors.max():.3g}"


def _left(trace: Trace, found: Resolved, changed: set[str], params: Params) -> list[Skip]:
    """The layers that keep all of their constants, with what keeps them from being scaled.

    That of their outputs; by codes, where only what layers read counts, that of their inputs.
    """
    reasons: dict[ir.Node, str] = {}
    layers = {part.node: part for part in trace.parts if part.role != "term" and part.node.op_type in LAYERS}
    for node in trace.nodes:
        labels = trace.outputs.get(node)
        if layer_name(node) in params.exclude:
            reasons[node] = "excluded by the recipe"
        elif node not in layers or layer_name(node) in changed:
            continue
        elif params.by == "codes" and layers[node].role == "weight":
            reasons[node] = _unread(node, layers[node], found)
        elif params.by != "codes" and labels is not None:
            reasons[node] = found.reason(labels) or "its channels are even already"
    return [skip(node, reason) for node, reason in reasons.items()]


def _unread(node: ir.Node, part: Part, found: Resolved) -> str:
    """Why nothing that the layer reads was scaled."""
    if found.numbers(part.read).any():
        return "no factors make it round better on the samples"
    if part.read.any():
        return found.reason(part.read) or ""
    value = node.inputs[0]
    producer = None if value is None else value.producer()
    if producer is None:
        return "it reads an input of the graph"
    return f"it reads what {producer.op_type} {layer_name(producer)} makes, which nothing can scale"


def _unknown(graph: Graph, params: Params) -> tuple[str, ...]:
    known = {layer_name(node) for node in graph.ir_model.graph}
    return tuple(f"exclude names nothing in the graph: {n}" for n in sorted(set(params.exclude) - known))


def _problem(graph: Graph, changed: Graph, context: Context) -> str | None:
    """How the graphs differ on the first inputs they run on: a sample, or random ones without samples."""
    if context.calibration:
        samples: list[dict[str, Array]] = [
            next(context.calibration.batches_for(graph.inputs, context.batch)).feeds(graph.inputs)
        ]
    else:
        samples = list(feeds_to_try(graph.inputs, context.seed))
    for feeds in samples:
        try:
            equality = Equality(graph, [feeds], threads=context.threads)
        except MethodError:
            continue
        return equality.difference(changed)
    return None
