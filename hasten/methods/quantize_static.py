"""Linear integer quantization after training, with ranges of activations measured on calibration samples.

Weights are stored as int8 (or in 4 bits); quantize/dequantize pairs mark the activations that integer
kernels read. The pairs stand where ONNX Runtime and OpenVINO really replace float kernels by integer ones; a
layer that cannot run that way, or would break, stays in float and is reported with the reason.

Sources: Jacob et al. 2018, "Quantization and Training of Neural Networks for Efficient
Integer-Arithmetic-Only Inference", sections 2.1–2.4; Krishnamoorthi 2018, "Quantizing deep convolutional
networks for efficient inference", section 3; Nagel et al. 2021, "A White Paper on Neural Network
Quantization", sections 2 and 3; ONNX operator specification, QuantizeLinear and DequantizeLinear.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import field
from typing import Annotated, Literal, TypeAlias

import numpy as np
import onnx_ir as ir
import onnx_ir.passes.common as passes
from pydantic import ConfigDict, Field
from pydantic.dataclasses import dataclass

from hasten.core.errors import MethodError
from hasten.core.record import Site, Skip
from hasten.core.target import sums_saturate
from hasten.graph import Graph
from hasten.graph.editor import Editor
from hasten.graph.names import layer_name, name_nodes, skip
from hasten.methods import Change, Context, Facts
from hasten.methods._observe.moments import Importance, observe, solvable
from hasten.methods._observe.outputs import broken
from hasten.methods._qdq.biases import absorb_biases
from hasten.methods._qdq.calibrate import collect
from hasten.methods._qdq.insert import WeightWriter, erased_channels, insert
from hasten.methods._qdq.layers import IntegerLayer, find_layers
from hasten.methods._qdq.lookup import LookupWriter, find_lookups
from hasten.methods._qdq.placement import LAYOUTS, Keep, Plan, make_plan, must_round
from hasten.methods._qdq.ranges import ActivationType, Ranges, Rule
from hasten.methods._qdq.saturation import Rounded, saturation
from hasten.numerics.affine import Affine, Grid
from hasten.numerics.ranges import Histogram
from hasten.numerics.rounding import Moments
from hasten.rewrites import merge_transposes, pointwise, share_duplicates

FACTS = Facts(
    summary="int8 weights and activations, with ranges from calibration samples",
    exact=False,
    needs=frozenset({"calibration"}),
    yields=frozenset({"int8"}),
    moves="products",
)

OLDEST_OPSET = {"int8": 13, "int4": 21, "uint16": 21}
"""The first operator set whose DequantizeLinear takes a scale for each channel, and that which has the types
of 4 and 16 bits."""

WeightType: TypeAlias = Literal["int8", "int4"]


@dataclass(frozen=True, kw_only=True, config=ConfigDict(extra="forbid"))
class Params:
    """Hyper-parameters of ``quantize_static``.

    weights: ``int8`` or ``int4``, symmetric; 4 bits need operator set 21, are stored in half the bytes, with
        the scales of least squared error, and no CPU kernel computes with them: what is gained is size.
    weights_of: the same for single layers, by name, where it differs.
    activations: ``uint8``, asymmetric (what x86 kernels prefer), ``int8``, symmetric where a value takes
        both signs, or ``uint16``, asymmetric, which NPUs compute with and CPUs only store; it needs operator
        set 21.
    range: what part of the calibrated values the integers cover: all (``minmax``), the averages of each
        batch's extremes (``moving``), all but the outermost (``percentile``), the part with the least
        squared error of rounding (``mse``), or whose rounded distribution tells most of the original
        (``entropy``), the mean ± ``sigmas`` (``sigma``), or of these, for each activation by itself, what
        changes the outputs of the layers that read it least (``outputs``).
    rounding: how weights become integers: each to the ``nearest``, or all of a layer together so that its
        ``outputs`` on the calibration samples are nearest the original's; biases keep the mean.
    importance: for ``rounding: outputs``, of the positions (pixels, tokens) of a layer's outputs: ``equal``,
        or by the model's ``gradients`` there, so that padding does not count; needs PyTorch.
    percentile: per cent of values covered by ``percentile``. samples: at most this many calibrate.
    per_channel: a scale for each output channel of a weight instead of one for all of it.
    reduce_range: 7-bit weights, for CPUs that add pairs of 8-bit products in 16 bits and saturate; None:
        decided by this CPU's instructions.
    layout: ``both``: the pairs stand where both runtimes compute in integers; ``openvino``: functions and
        sums behind a convolution are left to OpenVINO's kernels, which compute them in float and round
        once; ONNX Runtime runs such convolutions in float.
    products: products with constant matrices are ``kept``, or become ``convolutions`` with kernels of one
        place, of which both runtimes have the better integer kernels on x86 CPUs without VNNI.
    embeddings: also store the tables that are looked up as int8, which saves bytes and no time.
    exclude: names of layers to leave in float.
    """

    weights: WeightType = "int8"
    weights_of: Mapping[str, WeightType] = field(default_factory=dict, hash=False)
    activations: ActivationType = "uint8"
    range: Rule = "minmax"
    rounding: Literal["nearest", "outputs"] = "nearest"
    importance: Importance = "equal"
    percentile: Annotated[float, Field(gt=50.0, le=100.0)] = 99.999
    sigmas: Annotated[float, Field(gt=0.0)] = 6.0
    samples: Annotated[int, Field(ge=1)] = 200
    per_channel: bool = True
    reduce_range: bool | None = None
    layout: Literal["both", "openvino"] = "both"
    products: Literal["kept", "convolutions"] = "kept"
    embeddings: bool = True
    exclude: tuple[str, ...] = ()


def apply(graph: Graph, params: Params, context: Context) -> Change:
    """Quantize every layer that qualifies.

    Raises MethodError for an operator set that is too old, without calibration samples, and when the
    graph, before or after, cannot be run on them.
    """
    types = {"int8", params.weights, *params.weights_of.values(), params.activations} & OLDEST_OPSET.keys()
    newest = max(types, key=lambda name: OLDEST_OPSET[name])
    if graph.opset < OLDEST_OPSET[newest]:
        raise MethodError(
            f"the graph has operator set {graph.opset} and {newest} needs {OLDEST_OPSET[newest]}; "
            "put optimize_graph before quantize_static"
        )
    if context.calibration is None or not len(context.calibration):
        raise MethodError("quantize_static has no samples to calibrate on; give --data")
    start = _convolved(graph) if params.products == "convolutions" else graph
    changed = start.copy()
    name_nodes(changed)
    passes.LiftConstantsToInitializersPass()(changed.ir_model)
    work = _Work(start, changed, params, context)
    plan, lookups = work.plan(), work.lookups()
    if not plan.layers and not lookups:
        return Change(graph, skipped=tuple(work.skipped), notes=tuple(work.notes()))
    work.write(plan, lookups)
    work.look_for_saturation()
    passes.RemoveUnusedNodesPass()(changed.ir_model)
    _check(start, changed, context)
    return Change(changed, tuple(work.sites), tuple(work.skipped), tuple(work.notes()))


class _Work:
    """One application. original: the graph that was given; graph: its copy, which is changed."""

    def __init__(self, original: Graph, graph: Graph, params: Params, context: Context) -> None:
        self.sites: list[Site] = []
        self.skipped: list[Skip] = []
        self._original = original
        self._graph = graph
        self._params = params
        self._context = context
        self._exclude = frozenset(params.exclude)
        self._editor = Editor(graph)
        self._reduced = sums_saturate() if params.reduce_range is None else params.reduce_range
        self._quantizers: dict[ir.Value, Affine] = {}
        self._rounded: list[Rounded] = []
        self._saturation: dict[str, float] = {}
        self._bits: set[int] = set()

    def plan(self) -> Plan:
        """Where to round; layers whose activations cannot be rounded are left out, until all can."""
        assert self._context.calibration is not None
        samples = self._context.calibration.take(self._params.samples)
        layout = LAYOUTS[self._params.layout]
        asked = self._params
        ranges = Ranges(asked.activations, asked.range, asked.percentile, asked.sigmas)
        main = self._editor.main
        absorb_biases(self._graph, self._editor, self._exclude, whole=layout.whole_biases)
        layers, self.skipped = find_layers(main, layout.layers, self._exclude)
        layers = [layer for layer in layers if self._keeps_channels(layer)]
        broken: dict[ir.Value, str] = {}
        while True:
            plan = make_plan(main, layers, layout, Keep(frozenset(broken), self._exclude))
            if not plan.points:
                return plan
            names = [str(value.name) for value in plan.points]
            seen = collect(self._original, names, samples, self._context)
            found = _broken(plan, seen)
            if not found:
                self._quantizers = ranges.quantizers(plan, seen, self._original, samples, self._context)
                plan.keep_clips(self._quantizers)
                return plan
            broken |= found
            layers = [layer for layer in layers if self._can_round(must_round(layer, layout), layer, broken)]

    def lookups(self) -> list[ir.Node]:
        """The nodes that look up rows of a table that can be stored as integers."""
        if not self._params.embeddings:
            return []
        found, skipped = find_lookups(self._editor.main, self._exclude)
        self.skipped += skipped
        return found

    def _stored(self, layer: IntegerLayer) -> WeightType:
        return self._params.weights_of.get(layer.name, self._params.weights)

    def _grid(self, layer: IntegerLayer) -> Grid:
        return Grid(bits=4 if self._stored(layer) == "int4" else 7 if self._reduced else 8)

    def _keeps_channels(self, layer: IntegerLayer) -> bool:
        erased = 0 if self._params.per_channel else erased_channels(layer, self._grid(layer))
        if erased:
            self.skipped.append(
                skip(layer.node, f"one scale for all its channels would erase {erased} of them (per_channel)")
            )
        return not erased

    def _can_round(self, values: list[ir.Value], layer: IntegerLayer, broken: Mapping[ir.Value, str]) -> bool:
        problem = next((broken[value] for value in values if value in broken), None)
        if problem:
            self.skipped.append(skip(layer.node, problem))
        return problem is None

    def write(self, plan: Plan, lookups: list[ir.Node]) -> None:
        """Change the graph."""
        scale = "per channel" if self._params.per_channel else "per tensor"
        for layer in plan.layers:
            weights = f"{self._stored(layer)} weights ({self._grid(layer).bits} bits, {scale})"
            what = f"{weights}, {self._params.activations} activations"
            self.sites.append(Site(name=layer.name, op_type=layer.node.op_type, what=what))
            self._bits.add(self._grid(layer).bits)
        writer = WeightWriter(
            self._editor, self._grid, per_channel=self._params.per_channel, moments=self._moments(plan)
        )
        for layer in filter(solvable, plan.layers):
            quantizer = self._quantizers[plan.group(layer.activation)]
            self._rounded.append(Rounded(layer, str(layer.activation.name), quantizer))
        insert(self._editor, plan, self._quantizers, writer)
        tables = LookupWriter(self._editor, per_row=self._params.per_channel)
        scale = "a scale for each row" if self._params.per_channel else "one scale"
        for node in lookups:
            what = f"int8 table ({scale}), multiplied when looked up"
            self.sites.append(Site(name=layer_name(node), op_type=node.op_type, what=what))
            tables.write(node)

    def look_for_saturation(self) -> None:
        """Find the layers whose 16-bit sums would overflow where this model may also run."""
        if 8 in self._bits and self._params.activations == "uint8":
            assert self._context.calibration is not None
            self._saturation = saturation(
                self._original, self._rounded, self._context.calibration, self._context
            )

    def _moments(self, plan: Plan) -> Mapping[str, Moments]:
        if self._params.rounding == "nearest":
            return {}
        assert self._context.calibration is not None
        samples = self._context.calibration.take(self._params.samples)
        return observe(self._original, plan.layers, samples, self._context, self._params.importance)

    def notes(self) -> list[str]:
        """What the reader should know besides the sites."""
        known = {site.name for site in self.sites} | {skipped.name for skipped in self.skipped}
        known |= {layer_name(node) for node in self._editor.main}
        notes = [f"exclude names nothing in the graph: {name}" for name in sorted(self._exclude - known)]
        strange = sorted(self._params.weights_of.keys() - known)
        notes += [f"weights_of names nothing in the graph: {name}" for name in strange]
        if 4 in self._bits:
            notes.append("4-bit weights are unpacked to float when they are read: smaller, not faster")
        if self._saturation:
            worst = max(self._saturation, key=lambda name: self._saturation[name])
            notes.append(
                f"on x86 CPUs without VNNI {len(self._saturation)} of its layers would saturate, {worst} in "
                f"{self._saturation[worst]:.2%} of its outputs: less exact there; reduce_range avoids it"
            )
        if 7 in self._bits:
            reason = "asked for" if self._params.reduce_range else "this CPU has no VNNI and would saturate"
            notes.append(f"weights use 7 bits: {reason}")
        return notes


def _convolved(graph: Graph) -> Graph:
    """A copy whose products with constant matrices are convolutions, by the same names.

    Products that read one value, as those in front of an attention do, read one transposed value.
    """
    copy = graph.copy()
    name_nodes(copy)
    passes.LiftConstantsToInitializersPass()(copy.ir_model)
    for rewrite in (pointwise, share_duplicates, merge_transposes):
        rewrite.apply(copy)
    return copy


def _check(graph: Graph, changed: Graph, context: Context) -> None:
    """Run both graphs on a batch; raises MethodError where integers made an output that is not finite."""
    assert context.calibration is not None
    output = broken(graph, changed, context.calibration, context)
    if output is not None:
        raise MethodError(f"output {output!r} is not finite once its layers compute in int8; exclude them")


def _broken(plan: Plan, seen: Mapping[str, Histogram]) -> dict[ir.Value, str]:
    """The points that integers cannot stand for, with the reason; a group stands or falls together."""
    broken: dict[ir.Value, str] = {}
    for values in plan.groups().values():
        problem = _problem([seen[str(value.name)] for value in values])
        if problem:
            broken |= dict.fromkeys(values, f"on the calibration samples its activation {problem}")
    return broken


def _problem(histograms: list[Histogram]) -> str | None:
    if not all(h.finite for h in histograms):
        return "takes values that are not finite"
    if not any(h.count for h in histograms):
        return "is empty"
    low, high = min(h.low for h in histograms), max(h.high for h in histograms)
    if low == high == 0.0:
        return "is zero throughout"
    if high - low > float(np.finfo(np.float32).max):
        return "spans a range that exceeds float32"
    return None
