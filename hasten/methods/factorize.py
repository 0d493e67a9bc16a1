"""Low rank: a layer's weight as a product of thinner ones, chosen to keep what the layer computes.

Products become two, convolutions two or three: to fewer channels and back, along one axis of the kernel and
then along the others, or both of Tucker's. The factors keep most of the layer's outputs on calibration
samples, not of its weights; a bias keeps their mean. A layer is changed only where that saves
multiply-accumulates and weights. Whether time is saved is for a measurement to say.

Sources: Jaderberg et al. 2014, "Speeding up Convolutional Neural Networks with Low Rank Expansions"; Zhang et
al. 2016, "Accelerating Very Deep Convolutional Networks for Classification and Detection", section 3.1; Kim
et al. 2016, "Compression of Deep Convolutional Neural Networks for Fast and Low Power Mobile Applications",
section 3; what is computed is in ``hasten.numerics.low_rank``.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import field
from math import prod
from typing import Annotated, Literal, NamedTuple, TypeAlias

import numpy as np
import onnx_ir.passes.common as passes
from pydantic import ConfigDict, Field, model_validator
from pydantic.dataclasses import dataclass

from hasten.core.data import Array
from hasten.core.errors import MethodError
from hasten.core.record import Site
from hasten.graph import Graph
from hasten.graph.cost import total_macs
from hasten.graph.editor import Editor
from hasten.graph.feeds import feeds_to_try
from hasten.graph.names import layer_name, name_nodes
from hasten.graph.shapes import observed_shapes
from hasten.methods import Change, Context, Facts
from hasten.methods._factors.choice import Choice, by_energy, by_ratio, given, offers, together
from hasten.methods._factors.forms import Form, FormName, Positions, composed, forms_of
from hasten.methods._factors.layers import Layer, Unfit, find_layers, skip
from hasten.methods._factors.write import write
from hasten.methods._observe.moments import Importance, moments_of, observe
from hasten.methods._observe.samples import spread
from hasten.numerics.low_rank import Target, shrunk
from hasten.numerics.rounding import Moments

FACTS = Facts(
    summary="fewer multiply-accumulates: weights as products of thinner ones that keep the outputs",
    exact=False,
)

Rule: TypeAlias = Literal["energy", "ratio", "macs", "given"]
_Shapes: TypeAlias = Mapping[str, tuple[int, ...]]
_KEEP = {"energy": 0.99, "ratio": 0.5, "macs": 0.75, "given": 1.0}
"""How much of it is kept unless it is said."""
_LARGEST = 4608
"""Inputs of an output at most, as many as 512 channels under a kernel of 3×3 have: 162 MiB of moments."""
_MOMENTS_BYTES = 512 << 20
"""About how much moments may take at once; further layers are observed behind these."""


@dataclass(frozen=True, kw_only=True, config=ConfigDict(extra="forbid"))
class Params:
    """Hyper-parameters of ``factorize``.

    rank: how the ranks are found. ``energy``: each layer keeps at least ``keep`` of the squares of its
        outputs (about their mean). ``ratio``: each keeps at most ``keep`` of its multiply-accumulates (MACs).
        ``macs``: all of the model together, ranks shared out so that the layers' relative errors are least
        in sum. ``given``: only the layers in ``ranks``.
    keep: see ``rank``; None: 0.99 of the outputs, 0.5 of a layer's MACs, or 0.75 of the model's.
    ranks: the ranks of single layers, by name, whatever ``rank`` says.
    align: ranks are multiples of this, which kernels compute best with.
    by: what is to be kept: ``outputs`` on calibration samples, or ``weights``, without samples.
    importance: of the positions (pixels, tokens) of a layer's outputs: ``equal``, or by the model's
        ``gradients`` there, so that padding does not count; needs PyTorch.
    forms: of convolutions, those that may be used. samples: at most this many calibrate.
    exclude: names of layers to leave.
    """

    rank: Rule = "energy"
    keep: Annotated[float, Field(gt=0.0, le=1.0)] | None = None
    ranks: Mapping[str, Annotated[int, Field(ge=1)]] = field(default_factory=dict, hash=False)
    align: Annotated[int, Field(ge=1)] = 8
    by: Literal["outputs", "weights"] = "outputs"
    importance: Importance = "equal"
    forms: tuple[FormName, ...] = ("channel", "spatial", "tucker")
    samples: Annotated[int, Field(ge=1)] = 200
    exclude: tuple[str, ...] = ()

    @model_validator(mode="after")
    def _used(self) -> Params:
        """Refuse what would be ignored."""
        if self.importance != "equal" and self.by != "outputs":
            raise ValueError("importance only matters by: outputs; leave it out")
        if self.keep is not None and self.rank == "given":
            raise ValueError("keep is nothing that rank: given has; leave it out")
        if not self.forms:
            raise ValueError("forms is empty; leave it out or name some")
        return self

    @property
    def kept(self) -> float:
        """``keep``, or what it is by default."""
        return _KEEP[self.rank] if self.keep is None else self.keep


def apply(graph: Graph, params: Params, context: Context) -> Change:
    """Factorize every layer that gets cheaper and keeps enough.

    Raises MethodError without samples where ``by`` needs them, and when the graph cannot be run on them.
    """
    if params.by == "outputs" and not context.calibration:
        raise MethodError("factorize has no samples to look at outputs on; give --data, or set by: weights")
    changed = graph.copy()
    name_nodes(changed)
    passes.LiftConstantsToInitializersPass()(changed.ir_model)
    work = _Work(graph, changed, params, context)
    work.run()
    if not work.sites:
        return Change(graph, skipped=tuple(work.skipped), notes=tuple(work.unknown()))
    passes.RemoveUnusedNodesPass()(changed.ir_model)
    return Change(changed, tuple(work.sites), tuple(work.skipped), (*work.notes(changed), *work.unknown()))


class _Solved(NamedTuple):
    """A layer, the forms it can take, and the moments by which they were solved (None: by weights)."""

    layer: Layer
    forms: list[Form]
    moments: Moments | None


class _Work:
    """One application. original: the graph that was given; graph: its copy, which is changed."""

    def __init__(self, original: Graph, graph: Graph, params: Params, context: Context) -> None:
        self.sites: list[Site] = []
        self._original = original
        self._params = params
        self._context = context
        self._editor = Editor(graph)
        self._known = {layer_name(node) for owner in graph.ir_model.graphs() for node in owner}
        layers, self.skipped = find_layers(self._editor.main, frozenset(params.exclude))
        self._layers = [x for x in layers if params.rank != "given" or x.name in params.ranks]
        self._feeds, self._shapes = _run_once(original, context)
        self._total = total_macs(original, self._feeds, threads=context.threads)
        self._short = False

    def run(self) -> None:
        """Choose and write the factors of every layer: where they share a budget, in a second pass."""
        offered: dict[str, list[Choice]] = {}
        whole: dict[str, int] = {}
        saved = 0
        for solved in self._solved(self._layers):
            name = solved.layer.name
            try:
                if not solved.forms:
                    raise Unfit(
                        "its kernel reaches along one axis only, which no form that is allowed splits"
                    )
                if name in self._params.ranks:
                    chosen = given(solved.forms, self._params.ranks[name])
                    saved += solved.forms[0].whole.macs - chosen.macs
                elif self._params.rank == "macs":
                    offered[name] = offers(solved.forms)
                    whole[name] = solved.forms[0].whole.macs
                    continue
                else:
                    rule = by_energy if self._params.rank == "energy" else by_ratio
                    chosen = rule(solved.forms, self._params.kept)
                self._write(solved, chosen)
            except Unfit as unfit:
                self.skipped.append(skip(solved.layer.node, str(unfit)))
        if offered:
            self._share(offered, whole, self._params.kept * self._total - (self._total - saved))

    def _share(self, offered: Mapping[str, Sequence[Choice]], whole: Mapping[str, int], more: float) -> None:
        """Choose for all layers together. more: MACs that they may take more than as they are."""
        allowed = sum(whole.values()) + more
        chosen = together(offered, whole, allowed)
        takes = sum(chosen[name].macs if name in chosen else whole[name] for name in whole)
        self._short = takes > allowed
        left = [layer for layer in self._layers if layer.name in offered and layer.name not in chosen]
        reason = "other layers lose less of their outputs for the multiply-accumulates to be saved"
        self.skipped += [skip(layer.node, reason) for layer in left]
        for solved in self._solved([layer for layer in self._layers if layer.name in chosen]):
            self._write(solved, chosen[solved.layer.name])

    def _solved(self, layers: Sequence[Layer]) -> Iterator[_Solved]:
        """The layers with their forms, few at a time, since moments take memory."""
        done = 0
        for part in _parts(layers):
            found = self._observed(part)
            for layer in part:
                self._context.progress(f"factors of {layer.name}", done / len(layers))
                done += 1
                moments = None if found is None else moments_of(found, layer)
                reason = None if found is None else _unsolvable(layer, moments)
                if reason is None:
                    yield self._solve(layer, moments)
                else:
                    self.skipped.append(skip(layer.node, reason))

    def _observed(self, layers: Sequence[Layer]) -> dict[str, Moments] | None:
        if self._params.by == "weights":
            return None
        assert self._context.calibration is not None
        samples = spread(self._context.calibration, self._params.samples)
        return observe(
            self._original, layers, samples, self._context, self._params.importance, largest=_LARGEST
        )

    def _solve(self, layer: Layer, moments: Moments | None) -> _Solved:
        moment = None if moments is None else shrunk(_about(layer, moments), moments.count)
        target = Target(layer.rows, moment)
        positions = _positions(layer, self._shapes)
        forms = [
            made(layer, target, positions, self._params.align) for made in forms_of(layer, self._params.forms)
        ]
        return _Solved(layer, forms, moments)

    def _write(self, solved: _Solved, chosen: Choice) -> None:
        layer = solved.layer
        form = next(form for form in solved.forms if form.name == chosen.form)
        factors = form.factors(chosen.rank)
        write(self._editor, layer, factors)
        if solved.moments is not None:
            layer.shift(self._editor, (layer.rows - composed(factors)) @ solved.moments.mean[0])
        what = f"{form.told(chosen.rank)}, {chosen.macs / form.whole.macs:.0%} of its MACs, " + (
            f"keeps {1 - chosen.lost:.1%} of its {'outputs' if solved.moments is not None else 'weights'}"
        )
        if len(factors) == 3 or layer.kernel.count(1) != len(layer.kernel):
            what = f"{form.name}: {what}"
        self.sites.append(Site(name=layer.name, op_type=layer.node.op_type, what=what))

    def notes(self, changed: Graph) -> list[str]:
        """What became of the whole model."""
        macs = total_macs(changed, self._feeds, threads=self._context.threads)
        told = [
            f"factorize: {macs / self._total:.1%} of the multiply-accumulates and "
            f"{changed.parameters / self._original.parameters:.1%} of the parameters are left"
        ]
        if self._short:
            told.append(
                f"factorize: no ranks leave as few as {self._params.kept:.1%}; these leave the fewest"
            )
        return told

    def unknown(self) -> list[str]:
        """Names in the parameters that are no node's."""
        named = {"exclude": self._params.exclude, "ranks": self._params.ranks}
        return [
            f"{parameter} names nothing in the graph: {name}"
            for parameter, names in named.items()
            for name in sorted(set(names) - self._known)
        ]


def _about(layer: Layer, moments: Moments) -> Array:
    """Second moments of what the layer reads, about the mean where a bias can keep it."""
    second, mean = moments.second[0], moments.mean[0]
    return np.asarray(second if layer.offset is None else second - np.outer(mean, mean))


def _unsolvable(layer: Layer, moments: Moments | None) -> str | None:
    """Why there is nothing to choose the layer's factors by; None where there is."""
    if moments is not None:
        varies = float(np.trace(_about(layer, moments))) > 0.0
        return None if varies else "what it reads does not vary on the calibration samples"
    inputs = prod(layer.array.shape) // layer.array.shape[layer.axis]
    if inputs > _LARGEST:
        return f"its outputs have {inputs} inputs each, too many to observe; by: weights needs no samples"
    if layer.automatic:
        return "it pads automatically, so that what it reads cannot be observed; by: weights can"
    return "what it reads is empty or not finite on the calibration samples"


def _parts(layers: Sequence[Layer]) -> Iterator[list[Layer]]:
    """The layers in order, as many at a time as have moments that fit into memory together."""
    part: list[Layer] = []
    held = 0
    for layer in layers:
        needed = 8 * (layer.array.size // layer.array.shape[layer.axis]) ** 2
        if part and held + needed > _MOMENTS_BYTES:
            yield part
            part, held = [], 0
        part.append(layer)
        held += needed
    if part:
        yield part


def _run_once(graph: Graph, context: Context) -> tuple[Mapping[str, Array] | None, _Shapes]:
    """Inputs of one inference and the shapes of all values in it.

    Without samples the inputs are random; where these do not fit, all positions count as one.
    """
    if context.calibration:
        feeds = next(iter(context.calibration.batches(1))).feeds(graph.inputs)
        return feeds, observed_shapes(graph, feeds, threads=context.threads)
    for feeds in feeds_to_try(graph.inputs, context.seed):
        try:
            return feeds, observed_shapes(graph, feeds, threads=context.threads)
        except MethodError:
            continue
    return None, {}


def _positions(layer: Layer, shapes: _Shapes) -> Positions:
    made = shapes.get(str(layer.node.outputs[0].name))
    read = shapes.get(str(layer.activation.name))
    if not made or not read:
        ones = (1,) * max(1, len(layer.kernel))
        return Positions(ones, ones)
    if layer.kernel:
        return Positions(read[2:], made[2:], made[0])
    rows = (prod(made[:-1]),)
    return Positions(rows, rows)
