"""Weights stored as codes of 2 to 8 bits that the graph itself decodes; most schemes change nothing else.

The file gets smaller. Computing gets faster only where a runtime multiplies the codes themselves: linear
codes of matrix products. Everywhere else the weights are decoded to float32 when the model is opened, and
memory and time are those of the original; the note of each application says so.

Source: ONNX operator specification, DequantizeLinear-21, Gather-13 and Cast-21; Han et al. 2016, "Deep
Compression"; the schemes' own sources are in ``hasten.numerics``.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import field, replace
from functools import partial
from typing import Annotated, TypeAlias

import onnx_ir as ir
import onnx_ir.passes.common as passes
from pydantic import ConfigDict, Field, model_validator
from pydantic.dataclasses import dataclass

from hasten.core.errors import MethodError
from hasten.core.record import Site
from hasten.graph import Graph
from hasten.graph.editor import Editor
from hasten.graph.names import layer_name
from hasten.methods import Change, Context, Facts
from hasten.methods._observe.moments import Importance, observe
from hasten.methods._stored.decode import Decoder
from hasten.methods._stored.inputs import Inputs
from hasten.methods._stored.schemes import Request, Scheme, Stored, store
from hasten.methods._stored.solve import Goal, Range, Rounding
from hasten.methods._stored.weights import Unfit, Weight, read, slots
from hasten.numerics.codes import entropy_bits
from hasten.numerics.powers import Midpoint

FACTS = Facts(
    summary="a smaller file: weights as integers, powers of two, small floats, shared values of 2 to 8 bits",
    exact=False,
    yields=frozenset({"int8", "int4", "float8"}),
)

OLDEST_OPSET = 21
"""It brought types of 4 bits, and DequantizeLinear by blocks."""

_BITS = {"linear": 8, "mean_variance": 8, "log2": 4, "clusters": 4}
"""Schemes whose bits can be chosen, and what they have otherwise."""
_GROUPED = frozenset({"linear", "float8_e4m3", "float8_e5m2", "float4"})


Bits: TypeAlias = Annotated[int, Field(ge=2, le=8)]


@dataclass(frozen=True, kw_only=True, config=ConfigDict(extra="forbid"))
class Params:
    """Hyper-parameters of ``compress_weights``.

    scheme: how numbers are written, see the card. bits: of a code, for ``linear``, ``mean_variance``
        (8 unless set), ``log2`` and ``clusters`` (4); the float formats have their own. bits_of: the same for
        single layers, by name, where it differs; a weight that layers share takes the most.
    group: weights of a channel that share a scale (``linear``, ``float8_*``, ``float4``); None: all.
    symmetric: zero points are zero (``linear``). sigmas: standard deviations to each side of the mean that
        are kept (``mean_variance``); None: the best for normally distributed weights.
    range: of linear codes: all of a group (``minmax``), clipped where that lowers the squared error of its
        weights (``mse``) or of what they add to the ``outputs`` on calibration samples.
    rounding: of linear codes: each to the ``nearest``, or all of a layer together so that its ``outputs`` on
        calibration samples are nearest the original's. samples: at most this many calibrate.
    importance: of the positions (pixels, tokens) of a layer's outputs: ``equal``, or by the model's
        ``gradients`` there, so that padding does not count; needs PyTorch.
    midpoint: where rounding to powers of two changes (``log2``).
    min_elements: weights of fewer numbers stay as they are. exclude: names of layers to leave.
    """

    scheme: Scheme = "linear"
    bits: Bits | None = None
    bits_of: Mapping[str, Bits] = field(default_factory=dict, hash=False)
    group: Annotated[int, Field(ge=2)] | None = None
    symmetric: bool = True
    range: Range = "minmax"
    rounding: Rounding = "nearest"
    importance: Importance = "equal"
    samples: Annotated[int, Field(ge=1)] = 200
    sigmas: Annotated[float, Field(gt=0)] | None = None
    midpoint: Midpoint = "arithmetic"
    min_elements: Annotated[int, Field(ge=0)] = 1024
    exclude: tuple[str, ...] = ()

    @model_validator(mode="after")
    def _of_the_scheme(self) -> Params:
        """Refuse what the scheme would ignore."""
        ignored = {
            "bits": self.bits is not None and self.scheme not in _BITS,
            "bits_of": bool(self.bits_of) and self.scheme not in _BITS,
            "group": self.group is not None and self.scheme not in _GROUPED,
            "symmetric": not self.symmetric and self.scheme != "linear",
            "range": self.range != "minmax" and self.scheme != "linear",
            "rounding": self.rounding != "nearest" and self.scheme != "linear",
            "importance": self.importance != "equal" and self.scheme != "linear",
            "sigmas": self.sigmas is not None and self.scheme != "mean_variance",
            "midpoint": self.midpoint != "arithmetic" and self.scheme != "log2",
        }
        for name, given in ignored.items():
            if given:
                raise ValueError(f"{name} is nothing that scheme {self.scheme} has; leave it out")
        if self.importance != "equal" and not self.observes:
            raise ValueError("importance only matters to range: outputs or rounding: outputs; leave it out")
        return self

    @property
    def observes(self) -> bool:
        """Whether calibration samples are needed."""
        return "outputs" in {self.range, self.rounding}


def apply(graph: Graph, params: Params, context: Context) -> Change:
    """Store every weight that qualifies.

    Raises MethodError for an operator set that is too old, and without samples where parameters need them.
    """
    if graph.opset < OLDEST_OPSET:
        raise MethodError(
            f"the graph has operator set {graph.opset} and this needs {OLDEST_OPSET}; "
            "apply optimize_graph first"
        )
    if params.observes and (context.calibration is None or not len(context.calibration)):
        raise MethodError("compress_weights has no samples to look at outputs on; give --data")
    changed = graph.copy()
    passes.LiftConstantsToInitializersPass()(changed.ir_model)
    work = _Work(Editor(changed), params)
    weights = work.find()
    if params.observes and context.calibration is not None:
        samples = context.calibration.take(params.samples)
        observed = partial(observe, graph, samples=samples, context=context, importance=params.importance)
        work.inputs = Inputs(observed, work.editor.main, weights)
    for done, weight in enumerate(weights):
        context.progress(weight.name, done / len(weights))
        work.compress(weight)
    skipped = tuple(work.editor.findings.skipped)
    if not work.stored:
        return Change(graph, skipped=skipped, notes=tuple(work.unknown()))
    passes.RemoveUnusedNodesPass()(changed.ir_model)
    return Change(changed, tuple(work.sites()), skipped, (*work.notes(), *work.unknown()))


class _Work:
    """One application: finds the weights, and lets each be stored and decoded."""

    def __init__(self, editor: Editor, params: Params) -> None:
        self.editor = editor
        self.stored: dict[ir.Node, list[str]] = {}
        self.inputs: Inputs | None = None
        self._params = params
        bits = params.bits or _BITS.get(params.scheme, 8)
        self._request = Request(
            params.scheme, bits, params.group, params.symmetric, params.sigmas, params.midpoint
        )
        self._decoder = Decoder(editor)
        self._layers: set[str] = set()
        self._kept = self._decoded = 0

    def find(self) -> list[Weight]:
        """The weights that can be stored, each once with all its layers; records those that cannot."""
        found: dict[ir.Value, Weight] = {}
        refused: dict[ir.Value, str] = {}
        for node in self.editor.nodes():
            for index, axis, product in slots(node):
                self._layers.add(layer_name(node))
                value = node.inputs[index] if index < len(node.inputs) else None
                try:
                    if layer_name(node) in self._params.exclude:
                        raise Unfit("excluded by the recipe")
                    weight = read(node, index, axis, product=product)
                    weight.release()
                    if weight.size < self._params.min_elements:
                        raise Unfit(f"its {weight.size} numbers are fewer than min_elements")
                except Unfit as unfit:
                    self.editor.refused(node, str(unfit))
                    if value is not None:
                        refused[value] = layer_name(node)
                    continue
                weight = found.setdefault(weight.value, weight)
                weight.product = weight.product and product
                weight.users.append(node)
        for value in found.keys() & refused.keys():
            for user in found.pop(value).users:
                self.editor.refused(user, f"it shares its weight with {refused[value]}, which is left")
        return list(found.values())

    def compress(self, weight: Weight) -> None:
        """Store one weight, or record why not."""
        try:
            stored = store(weight, self._asked(weight), self._goal(weight))
            kept, size = self._decoder.write(weight, stored)
        except Unfit as unfit:
            for user in weight.users:
                self.editor.refused(user, str(unfit))
            return
        finally:
            weight.release()
        self._kept, self._decoded = self._kept + kept, self._decoded + (not kept)
        for user in weight.users:
            self.stored.setdefault(user, []).append(_what(weight, stored, size, kept=kept))

    def _asked(self, weight: Weight) -> Request:
        usual = self._request.bits
        bits = max(self._params.bits_of.get(layer_name(user), usual) for user in weight.users)
        return replace(self._request, bits=bits)

    def _goal(self, weight: Weight) -> Goal:
        seen = None if self.inputs is None else self.inputs.of(weight)
        return Goal(self._params.range, self._params.rounding, seen)

    def sites(self) -> list[Site]:
        """One for each layer, in the order of the graph."""
        return [
            Site(name=layer_name(node), op_type=node.op_type, what="; ".join(dict.fromkeys(what)))
            for node, what in self.stored.items()
        ]

    def notes(self) -> list[str]:
        """What the file's size must not be taken for."""
        notes = []
        if self._decoded:
            total = self._decoded + self._kept
            linear = "; OpenVINO keeps linear codes of products" if self._params.scheme == "linear" else ""
            notes.append(
                f"stored smaller, not computed faster: {self._decoded} of {total} weights are decoded to "
                f"float32 once, when the model is opened{linear}"
            )
        if self._kept:
            notes.append(
                f"{self._kept} matrix products keep their codes in memory: the runtime multiplies them as "
                "integers, and rounds their activations to 8 bits for it"
            )
        return notes

    def unknown(self) -> list[str]:
        """Names in the parameters that are no layer's."""
        named = {"exclude": self._params.exclude, "bits_of": self._params.bits_of}
        return [
            f"{parameter} names no layer: {name}"
            for parameter, names in named.items()
            for name in sorted(set(names) - self._layers)
        ]


def _what(weight: Weight, stored: Stored, size: int, *, kept: bool) -> str:
    codes = stored.codes if stored.codes.dtype.kind in "iu" else stored.codes.view("u1")
    each = 8 * size / weight.size
    how = "multiplied as integers" if kept else "decoded when the model is opened"
    return f"{stored.what}: {each:.2f} bits a weight ({entropy_bits(codes):.2f} of entropy), {how}"
