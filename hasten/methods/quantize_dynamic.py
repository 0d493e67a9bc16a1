"""int8 weights; activations are quantized while the model runs, by the range each of them has just then.

Nothing is calibrated, so no data are needed and no range can be wrong; the price is a pass over each
activation to find its range. It pays where the weights outweigh the activations: matrix products and LSTMs,
not convolutions.

Source: ONNX operator specification, DynamicQuantizeLinear and MatMulInteger; ONNX Runtime ContribOperators,
DynamicQuantizeLSTM; Krishnamoorthi 2018, "Quantizing deep convolutional networks for efficient inference",
sections 2 and 3 (weights per channel and symmetric).
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cached_property
from math import gcd
from typing import Annotated, Literal

import onnx_ir as ir
import onnx_ir.passes.common as passes
from pydantic import ConfigDict, Field
from pydantic.dataclasses import dataclass

from hasten.core.errors import MethodError
from hasten.core.record import Site
from hasten.core.target import sums_saturate
from hasten.graph import Graph
from hasten.graph.editor import Editor
from hasten.graph.names import layer_name
from hasten.graph.shapes import infer
from hasten.methods import Change, Context, Facts
from hasten.methods._dynamic import layers
from hasten.methods._dynamic.product import Unfit
from hasten.methods._dynamic.product import read as read_product
from hasten.methods._dynamic.weights import WeightStore
from hasten.numerics.affine import Grid

FACTS = Facts(
    summary="int8 weights, activations quantized while running: matrix products, LSTMs, embeddings",
    exact=False,
    yields=frozenset({"int8"}),
)

_PRODUCTS = frozenset({"MatMul", "Gemm"})
_RECURRENT = frozenset({"LSTM", "GRU", "RNN"})
_CONVOLUTIONS = frozenset({"Conv", "ConvTranspose"})
_OLDEST = {"integer": 11, "weights": 13}
"""Opsets that brought DynamicQuantizeLinear, and DequantizeLinear with an axis."""


@dataclass(frozen=True, kw_only=True, config=ConfigDict(extra="forbid"))
class Params:
    """Hyper-parameters of ``quantize_dynamic``.

    form: ``integer`` writes the integer arithmetic into the graph, as ONNX Runtime fuses it; ``weights``
        stores the weights only and leaves the activations to the runtime, as OpenVINO quantizes them.
    per_channel: a scale for each output channel of a weight (row of a table) instead of one for all of it.
    reduce_range: 7-bit weights, for CPUs that add pairs of 8-bit products in 16 bits and saturate; None:
        decided by this CPU's instructions. Only ``integer`` needs it.
    embeddings: also store looked-up tables as int8, which saves bytes and no time.
    min_elements: layers with fewer weights stay in float, since they would not get faster.
    exclude: names of layers to leave as they are.
    """

    form: Literal["integer", "weights"] = "integer"
    per_channel: bool = True
    reduce_range: bool | None = None
    embeddings: bool = True
    min_elements: Annotated[int, Field(ge=0)] = 8192
    exclude: tuple[str, ...] = ()


def apply(graph: Graph, params: Params, context: Context) -> Change:
    """Quantize every layer that qualifies; raises MethodError for an operator set that is too old."""
    oldest = _OLDEST[params.form]
    if graph.opset < oldest:
        raise MethodError(
            f"the graph has operator set {graph.opset} and this needs {oldest}; apply optimize_graph first"
        )
    changed = graph.copy()
    passes.LiftConstantsToInitializersPass()(changed.ir_model)
    # The stored shapes stay: they name dimensions that inference cannot, and runtimes fuse by them.
    work = _Work(graph, Editor(changed), params)
    for node in work.editor.nodes():
        work.visit(node)
    sites, skipped = work.editor.findings.sites, work.editor.findings.skipped
    if not sites:
        return Change(graph, skipped=tuple(skipped))
    passes.RemoveUnusedNodesPass()(changed.ir_model)
    return Change(changed, tuple(sites), tuple(skipped), tuple(work.notes()))


class _Work:
    """One application: goes through the nodes and lets each kind of layer be written anew."""

    def __init__(self, graph: Graph, editor: Editor, params: Params) -> None:
        self.editor = editor
        self._graph = graph
        self._params = params
        asked = params.reduce_range
        self._reduced = params.form == "integer" and (sums_saturate() if asked is None else asked)
        grid = Grid(bits=7 if self._reduced else 8)
        self._store = WeightStore(editor, grid, per_channel=params.per_channel)
        self._activations = layers.Activations(editor) if params.form == "integer" else None
        self._depths: list[int] = []
        self._unknown = set(params.exclude)

    @cached_property
    def _ranks(self) -> dict[str, int]:
        main = infer(self._graph).ir_model.graph
        values = (*main.inputs, *(value for node in main for value in node.outputs))
        return {str(value.name): len(value.shape) for value in values if value.shape is not None}

    def visit(self, node: ir.Node) -> None:
        """Rewrite the node if it is a layer that qualifies, and record what was done or why not."""
        change = self._kind(node)
        if change is None:
            return
        name, op_type = layer_name(node), node.op_type
        self._unknown.discard(name)
        try:
            if name in self._params.exclude:
                raise Unfit("excluded by the recipe")
            what = change(node)
        except Unfit as unfit:
            self.editor.refused(node, str(unfit))
        else:
            self.editor.findings.sites.append(Site(name=name, op_type=op_type, what=what))

    def notes(self) -> list[str]:
        """What the reader should know besides the sites."""
        notes = []
        if self._reduced:
            reason = "asked for" if self._params.reduce_range else "this CPU has no VNNI and would saturate"
            notes.append(f"weights use 7 bits: {reason}")
        common = gcd(*self._depths)
        if self._params.form == "weights" and common > 1:
            notes.append(
                f"the summed axes of all products are divisible by {common}, a group size for OpenVINO"
            )
        notes += [f"exclude names no layer: {name}" for name in sorted(self._unknown)]
        return notes

    def _kind(self, node: ir.Node) -> Callable[[ir.Node], str] | None:
        if node.op_type in _PRODUCTS:
            return self._product
        if node.op_type in _RECURRENT:
            return self._recurrent
        if node.op_type in _CONVOLUTIONS:
            return self._convolution
        if node.op_type == "Gather" and self._params.embeddings and layers.is_lookup(node):
            return self._embedding
        return None

    def _product(self, node: ir.Node) -> str:
        product = read_product(node, lambda value: self._ranks.get(str(value.name)))
        self._require(product.weight.size)
        layers.write_product(self.editor, node, product, self._store, self._activations)
        self._depths.append(product.weight.shape[0])
        return self._what("activations uint8 at run time" if self._activations else "activations as given")

    def _recurrent(self, node: ir.Node) -> str:
        weights = layers.read_recurrent(node)
        self._require(sum(array.size for array in weights))
        if self._activations is None:
            layers.write_stored(self.editor, node, weights, self._store)
            return self._what("computed in float")
        if node.op_type != "LSTM":
            raise Unfit(f"ONNX Runtime has no dynamically quantized {node.op_type}, only an LSTM")
        layers.write_lstm(self.editor, node, weights, self._store)
        return self._what("activations uint8 at run time")

    def _embedding(self, node: ir.Node) -> str:
        table = layers.read_embedding(node)
        self._require(table.size)
        layers.write_embedding(self.editor, node, table, self._store, per_channel=self._params.per_channel)
        return self._what("rows multiplied by their scale when looked up")

    def _convolution(self, node: ir.Node) -> str:
        if self._activations is None:
            raise Unfit("runtimes widen the weights of a convolution and compute it in float")
        raise Unfit("convolutions with activations quantized at run time are slower than in float")

    def _require(self, elements: int) -> None:
        if elements < self._params.min_elements:
            raise Unfit(f"its {elements} weights are too few to get faster (min_elements)")

    def _what(self, activations: str) -> str:
        bits = 7 if self._reduced else 8
        scale = "per channel" if self._params.per_channel else "per tensor"
        return f"int8 weights ({bits} bits, {scale}), {activations}"
