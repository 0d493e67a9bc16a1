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

from collections.abc import Mapping, Sequence
from dataclasses import field
from functools import cached_property
from typing import Annotated, Literal, TypeAlias

import onnx_ir.passes.common as passes
from pydantic import ConfigDict, Field, model_validator
from pydantic.dataclasses import dataclass

from hasten.core.errors import MethodError
from hasten.core.record import Site, Skip
from hasten.graph import Graph
from hasten.graph.cost import total_macs
from hasten.graph.editor import Editor
from hasten.graph.names import layer_name, name_nodes, skip
from hasten.methods import Amount, Change, Context, Facts, Times
from hasten.methods._factors.choice import Choice, Shared, by_energy, by_ratio, given, offers
from hasten.methods._factors.clock import Clock
from hasten.methods._factors.forms import Form, FormName, Positions, forms_of
from hasten.methods._factors.harm import SAMPLES, Harm
from hasten.methods._factors.layers import Factorable, Unfit, find_layers
from hasten.methods._factors.solve import LARGEST, Solved, Solver, run_once
from hasten.methods._factors.write import write
from hasten.methods._observe.moments import Importance, observe
from hasten.methods._observe.samples import apart
from hasten.numerics.low_rank import Target
from hasten.numerics.rounding import Moments

FACTS = Facts(
    summary="fewer multiply-accumulates: weights as products of thinner ones that keep the outputs",
    exact=False,
    amount=Amount(parameter="keep", says="left", given={"rank": "macs"}),
)

Rule: TypeAlias = Literal["energy", "ratio", "macs", "given"]
_KEEP = {"energy": 0.99, "ratio": 0.5, "macs": 0.75, "given": 1.0}
"""How much of it is kept unless it is said."""


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
    times: what layers take where the model will run, by name and in any one unit. Where some are given, a
        layer counts by its time, what stands for it by what a model fitted to them says, and shares are of
        time.
    forms: of convolutions, those that may be used. samples: at most this many calibrate.
    exclude: names of layers to leave.
    """

    rank: Rule = "energy"
    keep: Annotated[float, Field(gt=0.0, le=1.0)] | None = None
    ranks: Mapping[str, Annotated[int, Field(ge=1)]] = field(default_factory=dict, hash=False)
    times: Times = field(default_factory=dict, hash=False)
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
        if self.times and self.rank == "given":
            raise ValueError("times choose no rank where all are given; leave them out")
        if not self.forms:
            raise ValueError("forms is empty; leave it out or name some")
        return self

    @property
    def kept(self) -> float:
        """``keep``, or what it is by default."""
        return _KEEP[self.rank] if self.keep is None else self.keep


def apply(graph: Graph, params: Params, context: Context) -> Change:
    """Factorize every layer that gets cheaper and keeps enough.

    Raises MethodError without samples where ``by`` needs them, for times of layers that the graph does not
    have, and when the graph cannot be run on the samples.
    """
    if params.by == "outputs" and not context.calibration:
        raise MethodError("factorize has no samples to look at outputs on; give --data, or set by: weights")
    changed = graph.copy()
    name_nodes(changed)
    passes.LiftConstantsToInitializersPass()(changed.ir_model)
    work = _Work(graph, changed, params, context)
    work.run()
    if not work.sites:
        return Change(graph, skipped=work.skipped, notes=tuple(work.unknown()))
    passes.RemoveUnusedNodesPass()(changed.ir_model)
    notes = (*work.notes(changed), *work.unknown())
    left = work.left(changed) if params.rank == "macs" else None
    return Change(changed, tuple(work.sites), work.skipped, notes, left)


class _Work:
    """One application. original: the graph that was given; graph: its copy, which is changed."""

    def __init__(self, original: Graph, graph: Graph, params: Params, context: Context) -> None:
        self.sites: list[Site] = []
        self._original = original
        self._params = params
        self._context = context
        self._editor = Editor(graph)
        self._known = {layer_name(node) for owner in graph.ir_model.graphs() for node in owner}
        only = params.ranks if params.rank == "given" else None
        self._layers, self._skipped = find_layers(self._editor.main, frozenset(params.exclude), only)
        self._feeds, shapes = run_once(original, context)
        self._macs = total_macs(original, self._feeds, threads=context.threads)
        self._clock = Clock(graph, shapes, params.times) if params.times else None
        self._total: float = self._clock.total if self._clock else self._macs
        self._saved = 0.0
        self._samples, self._judges = context.calibration, context.calibration
        if params.rank == "macs" and context.calibration is not None:
            self._judges, self._samples = apart(context.calibration, SAMPLES)
        observed = self._observed if params.by == "outputs" else None
        self._solver = Solver(observed, shapes, self._forms, self._clock)
        self._short = False

    @property
    def skipped(self) -> tuple[Skip, ...]:
        """The layers that stay, with the reasons."""
        return (*self._skipped, *self._solver.skipped)

    def run(self) -> None:
        """Choose and write the factors of every layer; where all share a budget, in a second pass."""
        shared = Shared()
        for done, solved in enumerate(self._solver.solve(self._layers)):
            name = solved.layer.name
            self._context.progress(f"factors of {name}", done / len(self._layers))
            try:
                if not solved.forms:
                    raise Unfit("none of the forms that are allowed splits a kernel along one axis")
                if name in self._params.ranks:
                    chosen = given(solved.forms, self._params.ranks[name])
                    self._saved += solved.forms[0].whole_price - chosen.cost
                elif self._params.rank == "macs":
                    self._offer(solved, shared)
                    continue
                else:
                    rule = by_energy if self._params.rank == "energy" else by_ratio
                    chosen = rule(solved.forms, self._params.kept)
                self._write(solved, chosen)
            except Unfit as unfit:
                self._skipped.append(skip(solved.layer.node, str(unfit)))
        if shared.offered:
            self._share(shared, (1 - self._params.kept) * self._total - self._saved)

    def _forms(self, layer: Factorable, target: Target, positions: Positions) -> list[Form]:
        kinds = forms_of(layer, self._params.forms)
        return [kind(layer, target, positions, self._params.align) for kind in kinds]

    def _offer(self, solved: Solved, shared: Shared) -> None:
        offered = offers(solved.forms)
        harm = 1.0 if self._harm is None else self._harm.weight(solved, offered)
        shared.add(solved.layer.name, solved.forms[0].whole_price, offered, harm)

    @cached_property
    def _harm(self) -> Harm | None:
        """What weighs the layers' errors; by weights they count alike."""
        if self._params.by == "weights":
            return None
        assert self._judges is not None
        return Harm(self._editor.graph.copy(), self._judges, self._context)

    def _share(self, shared: Shared, save: float) -> None:
        """Choose for all layers together. save: how much of the cost has to go."""
        chosen = shared.choose(save)
        saved = shared.saved(chosen)
        self._short, self._saved = saved < save, self._saved + saved
        left = [layer for layer in self._layers if layer.name in shared.offered and layer.name not in chosen]
        reason = f"other layers lose less for {self._noun} to be saved"
        self._skipped += [skip(layer.node, reason) for layer in left]
        for solved in self._solver.solve([layer for layer in self._layers if layer.name in chosen]):
            self._write(solved, chosen[solved.layer.name])

    def _observed(self, layers: Sequence[Factorable]) -> Mapping[str, Moments]:
        assert self._samples is not None
        samples = self._samples.take(self._params.samples)
        importance = self._params.importance
        return observe(self._original, layers, samples, self._context, importance, largest=LARGEST)

    def _write(self, solved: Solved, chosen: Choice) -> None:
        layer, form = solved.layer, solved.form(chosen)
        write(self._editor, layer, solved.factors(chosen), solved.mean)
        kept = f"{1 - chosen.lost:.1%} of its {'weights' if solved.mean is None else 'outputs'}"
        macs = f"{form.cost(chosen.rank).macs / form.whole.macs:.0%} of its MACs"
        which = f"{form.name}: " if set(layer.kernel) - {1} else ""
        what = f"{which}{form.told(chosen.rank)}, {macs}, keeps {kept}"
        self.sites.append(Site(name=layer.name, op_type=layer.node.op_type, what=what))

    @property
    def _noun(self) -> str:
        return "the time" if self._clock else "the multiply-accumulates"

    def _macs_left(self, changed: Graph) -> float:
        return total_macs(changed, self._feeds, threads=self._context.threads) / self._macs

    def left(self, changed: Graph) -> float:
        """The share of what counts: multiply-accumulates, or time."""
        return 1 - self._saved / self._total if self._clock else self._macs_left(changed)

    def notes(self, changed: Graph) -> list[str]:
        """What became of the whole model."""
        told = [
            f"factorize: {self._macs_left(changed):.1%} of the multiply-accumulates and "
            f"{changed.parameters / self._original.parameters:.1%} of the parameters are left"
        ]
        if self._clock and self._params.rank == "macs":
            told.append(f"factorize: {self.left(changed):.1%} of the layers' times, as far as the model says")
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
