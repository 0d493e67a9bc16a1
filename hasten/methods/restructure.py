"""Cheaper operators: separable convolutions, smaller kernels, and activations that take less time.

Each replacement is solved in closed form for what the layer reads on calibration samples, and judged by the
error that it alone makes at the model's outputs. Of all together those are made that leave so many
multiply-accumulates and do the least harm; then their last weights are fitted to the original's outputs, in
the order of the graph. Training behind it wins back more.

Sources: Guo et al. 2018, "Network Decoupling: From Regular to Depthwise Separable Convolutions", section 3;
He et al. 2017, "Channel Pruning for Accelerating Very Deep Neural Networks", section 3.2 (fitting in order);
what is computed is in ``hasten.numerics.decoupled`` and ``hasten.numerics.low_rank``.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass as record
from dataclasses import field, replace
from typing import Annotated

import numpy as np
import onnx_ir.passes.common as passes
from pydantic import ConfigDict, Field, field_validator, model_validator
from pydantic.dataclasses import dataclass

from hasten.core.data import Array
from hasten.core.errors import MethodError
from hasten.core.record import Site, Skip
from hasten.graph import Graph
from hasten.graph.cost import total_macs
from hasten.graph.editor import Editor
from hasten.graph.names import layer_name, name_nodes, skip
from hasten.graph.shapes import refresh
from hasten.methods import Change, Context, Facts, Times
from hasten.methods._factors.choice import Choice, offers
from hasten.methods._factors.choice import choice as chosen_form
from hasten.methods._factors.clock import Clock
from hasten.methods._factors.forms import Factor, Form, Positions
from hasten.methods._factors.harm import SAMPLES, Harm
from hasten.methods._factors.layers import Factorable, Unfit, find_layers
from hasten.methods._factors.solve import LARGEST, Solved, Solver, run_once
from hasten.methods._factors.write import write
from hasten.methods._observe.fit import fit
from hasten.methods._observe.moments import observe
from hasten.methods._observe.samples import apart
from hasten.methods._substitutes.activations import Activation, Cheaper, cheaper, find_activations, seen_by
from hasten.methods._substitutes.forms import Kind, forms_of
from hasten.numerics.knapsack import Option, cheapest_choice
from hasten.numerics.low_rank import Target
from hasten.numerics.rounding import Moments

FACTS = Facts(
    summary="cheaper operators: separable convolutions, smaller kernels, cheaper activations",
    exact=False,
    needs=frozenset({"calibration"}),
)

_LABEL = r"^(separable:\d+|stacked:\d+|smaller:\d+(x\d+)*|HardSigmoid|HardSwish|Swish)$"
_AS_IT_IS = "as it is"
_LOOKED_AT = 16
"""Samples on which activations are seen."""


@dataclass(frozen=True, kw_only=True, config=ConfigDict(extra="forbid"))
class Params:
    """Hyper-parameters of ``restructure``.

    replace: what is replaced. ``separable``: convolutions by depthwise and pointwise ones.
        ``smaller_kernel``: kernels by smaller ones, or by two that reach as far. ``activation``: Mish, Swish
        and Sigmoid by cheaper ones.
    macs: share of the model's multiply-accumulates (MACs) that is left at most; None: 0.75, or where
        ``layers`` names some, whatever these leave.
    layers: what single layers become, by name, whatever it costs: ``separable:2`` (the multiplier),
        ``smaller:3x3``, ``stacked:32`` (the channels between), or the name of an activation.
    times: what layers take where the model will run, by name and in any one unit. Where some are given, a
        layer counts by its time, what stands for it by what a model fitted to them says, and ``macs`` is the
        share of the time that is left.
    multiplier: the largest multiplier of depthwise convolutions that is tried.
    harm: the largest squared error of the model's outputs, over their variance, that a replacement alone may
        make.
    fit: whether the last weights are fitted to the original's outputs at the end, where that helps.
    samples: at most this many calibrate. exclude: names of layers to leave.
    """

    replace: tuple[Kind, ...] = ("separable", "smaller_kernel")
    macs: Annotated[float, Field(gt=0.0, le=1.0)] | None = None
    layers: Mapping[str, Annotated[str, Field(pattern=_LABEL)]] = field(default_factory=dict, hash=False)
    times: Times = field(default_factory=dict, hash=False)
    multiplier: Annotated[int, Field(ge=1)] = 3
    harm: Annotated[float, Field(gt=0.0)] = 0.5
    fit: bool = True
    samples: Annotated[int, Field(ge=1)] = 200
    exclude: tuple[str, ...] = ()

    @field_validator("replace")
    @classmethod
    def _some(cls, kinds: tuple[Kind, ...]) -> tuple[Kind, ...]:
        if not kinds:
            raise ValueError("replace is empty; leave it out or name some")
        return kinds

    @model_validator(mode="after")
    def _used(self) -> Params:
        """Refuse what would be ignored."""
        if self.macs is not None and set(self.replace) == {"activation"}:
            raise ValueError("macs says nothing about activations; leave it out, or replace more")
        if self.times and set(self.replace) == {"activation"}:
            raise ValueError("times say nothing about activations; leave them out, or replace more")
        return self

    @property
    def left(self) -> float:
        """``macs``, or what it is by default."""
        return self.macs if self.macs is not None else 1.0 if self.layers else 0.75


@record(frozen=True, eq=False)
class _Offer:
    """A replacement of a convolution: what it costs, the error that it alone makes, and its weights."""

    cost: float
    harm: float
    told: str
    factors: Sequence[Factor]
    mean: Array | None


def apply(graph: Graph, params: Params, context: Context) -> Change:
    """Replace what is worth replacing.

    Raises MethodError without samples, and when the graph cannot be run on them.
    """
    if not context.calibration:
        raise MethodError("restructure has no samples to solve replacements on; give --data")
    changed = graph.copy()
    name_nodes(changed)
    passes.LiftConstantsToInitializersPass()(changed.ir_model)
    work = _Work(graph, changed, params, context)
    work.run()
    if not work.sites:
        return Change(graph, skipped=tuple(work.skipped), notes=tuple(work.unknown()))
    passes.RemoveUnusedNodesPass()(changed.ir_model)
    return Change(changed, tuple(work.sites), tuple(work.skipped), (*work.notes(), *work.unknown()))


class _Work:
    """One application. whole: as it was given, with names; graph: its copy, which is changed."""

    def __init__(self, original: Graph, graph: Graph, params: Params, context: Context) -> None:
        assert context.calibration is not None
        self.sites: list[Site] = []
        self.skipped: list[Skip] = []
        self._original = original
        self._whole = graph.copy()
        self._graph = graph
        self._params = params
        self._context = context
        judges, rest = apart(context.calibration, SAMPLES)
        self._samples = rest.take(params.samples)
        self._harm = Harm(self._whole, judges, context)
        self._feeds, self._shapes = run_once(original, context)
        self._macs = total_macs(original, self._feeds, threads=context.threads)
        self._clock = Clock(graph, self._shapes, params.times) if params.times else None
        self._total: float = self._clock.total if self._clock else self._macs
        self._known = {layer_name(node) for owner in graph.ir_model.graphs() for node in owner}
        self._short = False
        self._error = 0.0
        self._fitted = ""

    def run(self) -> None:
        """Replace convolutions, then activations, and fit what was replaced to the original's outputs."""
        kinds = set(self._params.replace)
        replaced = self._convolutions() if kinds - {"activation"} or self._params.layers else []
        if "activation" in kinds or self._params.layers:
            self._activations(every="activation" in kinds)
        self._error = self._harm.outputs.error(self._graph)
        if self._params.fit and replaced:
            self._fit(replaced)

    def _fit(self, names: Sequence[str]) -> None:
        """Fit these layers to the original's outputs, unless too few samples make that worse on others."""
        fitted = self._graph.copy()
        fit(self._whole, fitted, names, self._samples, self._context)
        error = self._harm.outputs.error(fitted)
        self._fitted = f", {self._error:.2g} before the last weights were fitted"
        if error < self._error:
            self._graph.ir_model = fitted.ir_model
            self._error = error
        else:
            self._fitted = "; fitting the last weights did not lower that"

    def _convolutions(self) -> list[str]:
        """Returns the names of those that were replaced."""
        only = None if self._params.left < 1 else frozenset(self._params.layers)
        main = self._graph.ir_model.graph
        layers, skipped = find_layers(main, frozenset(self._params.exclude), only, grouped=True)
        self.skipped += skipped
        layers = [layer for layer in layers if self._fits(layer)]
        solver = Solver(self._observed, self._shapes, self._forms, self._clock)
        wished = [layer for layer in layers if layer.name in self._params.layers]
        replaced = []
        saved = 0.0
        for solved in solver.solve(wished):
            try:
                chosen = _named(solved.forms, self._params.layers[solved.layer.name])
            except Unfit as unfit:
                self.skipped.append(skip(solved.layer.node, str(unfit)))
                continue
            saved += solved.forms[0].whole_price - chosen.cost
            self._write(solved.layer, self._offer(solved, chosen))
            replaced.append(solved.layer.name)
        if self._params.left < 1:
            others = [layer for layer in layers if layer not in wished]
            replaced += self._share(solver, others, (1 - self._params.left) * self._total - saved)
        self.skipped += solver.skipped
        return replaced

    def _fits(self, layer: Factorable) -> bool:
        reason = None
        if max(layer.kernel, default=1) == 1:
            reason = "it has no kernel that could be smaller"
        elif layer.automatic:
            reason = "it pads automatically, so that what it reads cannot be observed"
        elif layer.inputs > LARGEST:
            reason = f"its outputs have {layer.inputs} inputs each, too many to observe"
        if reason is not None:
            self.skipped.append(skip(layer.node, reason))
        return reason is None

    def _forms(self, layer: Factorable, target: Target, positions: Positions) -> list[Form]:
        named = layer.name in self._params.layers
        kinds: tuple[Kind, ...] = ("separable", "smaller_kernel") if named else self._params.replace
        return forms_of(layer, target, positions, kinds, self._params.multiplier)

    def _observed(self, layers: Sequence[Factorable]) -> Mapping[str, Moments]:
        return observe(self._original, layers, self._samples, self._context, largest=LARGEST)

    def _share(self, solver: Solver, layers: Sequence[Factorable], save: float) -> list[str]:
        """Replace those that do the least harm together. save: how much of the cost has to go."""
        items: dict[str, dict[str, Option]] = {}
        offered: dict[str, list[_Offer]] = {}
        for done, solved in enumerate(solver.solve(layers)):
            name = solved.layer.name
            self._context.progress(f"what could stand for {name}", done / len(layers))
            try:
                offered[name] = self._measured(solved)
            except Unfit as unfit:
                self.skipped.append(skip(solved.layer.node, str(unfit)))
                continue
            items[name] = {_AS_IT_IS: Option(solved.forms[0].whole_price, 0.0)}
            items[name] |= {str(i): Option(each.cost, each.harm) for i, each in enumerate(offered[name])}
        whole = sum(options[_AS_IT_IS].weight for options in items.values())
        chosen = cheapest_choice(items, whole - save)
        self._short = sum(items[name][kind].weight for name, kind in chosen.items()) > whole - save
        taken = {name: offered[name][int(kind)] for name, kind in chosen.items() if kind != _AS_IT_IS}
        noun = "the time" if self._clock else "the multiply-accumulates"
        reason = f"other replacements do less harm for {noun} to be saved"
        left = [layer for layer in layers if layer.name in items and layer.name not in taken]
        self.skipped += [skip(layer.node, reason) for layer in left]
        for layer in (layer for layer in layers if layer.name in taken):
            self._write(layer, taken[layer.name])
        return list(taken)

    def _measured(self, solved: Solved) -> list[_Offer]:
        """The layer's offers that do little enough harm; raises Unfit where there are none."""
        if not any(form.ranks for form in solved.forms):
            raise Unfit(
                "nothing that may stand for it takes a tenth fewer multiply-accumulates and less time"
            )
        found = [self._offer(solved, chosen) for chosen in offers(solved.forms)]
        least = min(offer.harm for offer in found)
        if least > self._params.harm:
            raise Unfit(f"any replacement alone makes an error of {least:.2f} of the outputs' variance")
        return [offer for offer in found if offer.harm <= self._params.harm]

    def _offer(self, solved: Solved, chosen: Choice) -> _Offer:
        form = solved.form(chosen)
        harm = self._harm.alone(solved, chosen)
        costs = form.whole, form.cost(chosen.rank)
        whole, left = (cost.macs / form.pictures / 1e6 for cost in costs)
        told = (
            f"{form.told(chosen.rank)}, {whole:.3g} M MACs become {left:.3g} M; "
            f"alone it keeps {1 - chosen.lost:.1%} of its outputs and changes the model's by {harm:.2g}"
        )
        # In the precision that they are stored in, since those of all layers are held at once.
        factors = [replace(f, rows=f.rows.astype(np.float32)) for f in solved.factors(chosen)]
        return _Offer(chosen.cost, harm, told, factors, solved.mean)

    def _write(self, layer: Factorable, offer: _Offer) -> None:
        write(Editor(self._graph), layer, offer.factors, offer.mean)
        self.sites.append(Site(name=layer.name, op_type=layer.node.op_type, what=offer.told))

    def _activations(self, *, every: bool) -> None:
        """Replace activations; every: also those that ``layers`` does not name."""
        refresh(self._graph)
        refresh(self._whole)
        wanted = []
        for found in find_activations(self._graph.ir_model.graph):
            if not every and found.name not in self._params.layers:
                continue
            if found.name in self._params.exclude:
                self.skipped.append(skip(found.node, "excluded by the recipe"))
            else:
                wanted.append(found)
        there = {found.name: found for found in find_activations(self._whole.ir_model.graph)}
        samples = self._samples.take(_LOOKED_AT)
        seen = seen_by(self._whole, [there[found.name] for found in wanted], samples, self._context)
        for done, name in enumerate(found.name for found in wanted):
            self._context.progress(f"what could stand for {name}", done / len(wanted))
            # Looked up anew: what it reads may be what stands for another by now.
            found = _activation(self._graph, name)
            try:
                made, harm = self._best(found, cheaper(found, seen[found.name], self._graph.opset))
            except Unfit as unfit:
                self.skipped.append(skip(found.node, str(unfit)))
                continue
            op_type = found.node.op_type
            made.write(Editor(self._graph), found)
            what = f"{made} in place of {found.kind}; alone it changes the model's outputs by {harm:.2g}"
            self.sites.append(Site(name=found.name, op_type=op_type, what=what))

    def _best(self, found: Activation, options: Sequence[Cheaper]) -> tuple[Cheaper, float]:
        """What changes the model's outputs least, and by how much; raises Unfit."""
        label = self._params.layers.get(found.name)
        allowed = [option for option in options if label in (None, option.name)]
        if not allowed:
            raise Unfit(f"{label or 'nothing cheaper'} cannot stand for {found.kind} here")
        harms = [self._without(found.name, option) for option in allowed]
        best = int(np.argmin(harms))
        if label is None and harms[best] > self._params.harm:
            raise Unfit(f"any replacement alone makes an error of {harms[best]:.2f} of the outputs' variance")
        return allowed[best], harms[best]

    def _without(self, name: str, option: Cheaper) -> float:
        """The error of the model's outputs with this in place of one activation."""
        trial = self._whole.copy()
        refresh(trial)
        option.write(Editor(trial), _activation(trial, name))
        return self._harm.outputs.error(trial)

    def notes(self) -> Iterator[str]:
        """What became of the whole model."""
        macs = total_macs(self._graph, self._feeds, threads=self._context.threads)
        yield (
            f"restructure: {macs / self._macs if self._macs else 1.0:.1%} of the multiply-accumulates and "
            f"{self._graph.parameters / max(1, self._original.parameters):.1%} of the parameters are left; "
            f"the outputs are wrong by {self._error:.2g} of their variance{self._fitted}"
        )
        if self._short:
            yield f"restructure: nothing leaves as few as {self._params.left:.1%}; these leave the fewest"

    def unknown(self) -> list[str]:
        """Names in the parameters that are no node's."""
        named = {"exclude": self._params.exclude, "layers": self._params.layers}
        return [
            f"{parameter} names nothing in the graph: {name}"
            for parameter, names in named.items()
            for name in sorted(set(names) - self._known)
        ]


def _activation(graph: Graph, name: str) -> Activation:
    return next(found for found in find_activations(graph.ir_model.graph) if found.name == name)


def _named(forms: Sequence[Form], label: str) -> Choice:
    """The form that ``layers`` calls so; raises Unfit."""
    known = {form.told(rank): (form, rank) for form in forms for rank in range(1, form.largest + 1)}
    if label not in known:
        few = [form.told(rank) for form in forms for rank in (1, form.largest)]
        raise Unfit(
            f"it cannot become {label}; it can become what lies between {' and '.join(few) or 'nothing'}"
        )
    form, rank = known[label]
    if not form.cost(rank).saves(form.whole):
        raise Unfit(f"as {label} it would not be cheaper than it is")
    return chosen_form(form, rank)
