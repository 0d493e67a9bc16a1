"""Widths, heads, depth and ranks chosen together: the structure that harms the outputs least for its time.

What each decision alone does to the model's outputs is measured: every width at a few of its sizes, every
residual branch left out, every layer at a few ranks. What each would save is told by a latency model that is
fitted to the layers' measured times. An evolutionary search over both finds structures that take no more than
they may; the best few are really made, each left part solved for the original's outputs, and that whose
outputs are closest is kept. What one kind alone can do is always among them: harms do not quite add up.

Sources: Cai et al. 2020, "Once-for-All: Train One Network and Specialize it for Efficient Deployment",
section 3.4 (evolutionary search over predictors of quality and latency); Kurtic et al. 2023, "ZipLM",
section 3 (inference-aware structured pruning); what is measured and how parts are removed:
``prune_channels``, ``prune_heads``, ``prune_layers``, ``factorize``; times: ``hasten.numerics.latency``.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import field, replace
from typing import Annotated, Self

from pydantic import ConfigDict, Field, field_validator, model_validator
from pydantic.dataclasses import dataclass

from hasten import methods
from hasten.core.data import Calibration
from hasten.core.errors import MethodError, RecipeError
from hasten.core.recipe import Json, Step
from hasten.core.record import Skip
from hasten.graph import Graph
from hasten.graph.coupling import prepare
from hasten.graph.names import layer_name
from hasten.methods import Amount, Change, Context, Facts, Times
from hasten.methods._observe.outputs import Outputs
from hasten.methods._observe.samples import apart
from hasten.methods._structure.bits import METHOD, priced
from hasten.methods._structure.decisions import STRUCTURE, Choice, Kind, Scope, harm
from hasten.methods._structure.evolve import Evolution
from hasten.methods._structure.make import made
from hasten.methods._structure.measure import JUDGES, measured
from hasten.methods._structure.prices import Prices

FACTS = Facts(
    summary="widths, heads, depth and ranks searched together for the least harm at a share of the time",
    exact=False,
    needs=frozenset({"calibration"}),
    amount=Amount(parameter="left", says="left"),
)

_WORDS: Mapping[Kind, tuple[str, str]] = {
    "channels": ("narrower width", "narrower widths"),
    "heads": ("layer with fewer heads", "layers with fewer heads"),
    "branches": ("branch less", "branches less"),
    "ranks": ("layer of lower rank", "layers of lower rank"),
    "bits": ("layer in 8 bits", "layers in 8 bits"),
}
"""One, and several."""


@dataclass(frozen=True, kw_only=True, config=ConfigDict(extra="forbid"))
class Params:
    """Hyper-parameters of ``search_structure``.

    left: share of the layers' times (or, without ``times``, of their multiply-accumulates) that is left at
        most.
    times: what layers take where the model will run, by name and in any one unit. A model fitted to them
        (an overhead, a time for each multiply-accumulate, one for each number moved) says what they would
        take at other widths.
    among: what may change: ``channels``, attention ``heads``, residual ``branches``, ``ranks`` of weights,
        and the ``bits`` that layers compute in, 8 or those of floats; the graph is then quantized.
    in_int8: what layers take in 8 bits, by name and in the unit of ``times``; without, a quarter.
    quantize: how they become 8 bits, hyper-parameters of ``quantize_static``.
    tries: structures that are made and compared by their outputs; of more than one, the second is the best
        that one kind alone can do.
    population, generations: of the search, which makes nothing.
    align: widths and ranks are multiples of it. least: share of each width that is left at least.
    samples: at most this many are looked at. exclude: names of widths, branches and layers that stay.
    """

    left: Annotated[float, Field(gt=0, le=1)] = 0.7
    times: Times = field(default_factory=dict, hash=False)
    among: tuple[Kind, ...] = STRUCTURE
    in_int8: Times = field(default_factory=dict, hash=False)
    quantize: Mapping[str, Json] = field(default_factory=dict, hash=False)
    tries: Annotated[int, Field(ge=1)] = 3
    population: Annotated[int, Field(ge=2)] = 32
    generations: Annotated[int, Field(ge=0)] = 40
    align: Annotated[int, Field(ge=1)] = 8
    least: Annotated[float, Field(gt=0, le=1)] = 0.1
    samples: Annotated[int, Field(ge=1)] = 200
    exclude: tuple[str, ...] = ()

    @field_validator("quantize")
    @classmethod
    def _quantizes(cls, params: Mapping[str, Json]) -> Mapping[str, Json]:
        """Refuse what quantizing would refuse."""
        if "exclude" in params:
            raise ValueError("which layers are quantized is what is searched; leave exclude out")
        try:
            methods.parameters(Step(METHOD, params), "quantize")
        except RecipeError as error:
            raise ValueError(str(error)) from error
        return params

    @model_validator(mode="after")
    def _used(self) -> Self:
        """Refuse what would be ignored."""
        if (self.in_int8 or self.quantize) and "bits" not in self.among:
            raise ValueError(
                "in_int8 and quantize say how layers become 8 bits: put bits among what may change"
            )
        if self.in_int8 and not self.times:
            raise ValueError("in_int8 is compared with times, and there are none; give both or none")
        return self


def apply(graph: Graph, params: Params, context: Context) -> Change:
    """Search a structure and make it.

    Raises MethodError without samples, for times of layers that the graph does not have, and where it does
    not run.
    """
    if not context.calibration:
        raise MethodError("search_structure has no samples to measure on; give --data")
    return _Work(graph, params, context, context.calibration).change()


class _Work:
    """One application."""

    def __init__(self, graph: Graph, params: Params, context: Context, calibration: Calibration) -> None:
        self._graph = graph
        self._params = params
        self._context = context
        self._calibration = calibration
        self._scope = Scope(
            kinds=params.among,
            align=params.align,
            least=params.least,
            samples=params.samples,
            quantize={"samples": params.samples, **params.quantize},
        )
        found = measured(graph, calibration, self._scope, context)
        found = priced(found, params.times, params.in_int8)
        self._decisions = tuple(d for d in found if d.name not in params.exclude)
        self._excluded = {decision.name for decision in found} & {*params.exclude}
        self._prices = Prices.of_graph(graph, self._decisions, context, params.times)

    def change(self) -> Change:
        """Search, make the best few, and keep the closest."""
        params, prices = self._params, self._prices
        if not self._decisions or not prices.whole:
            return Change(
                self._graph, skipped=self._skipped(frozenset(), "nothing in it costs what could go")
            )
        evolution = Evolution(self._decisions, prices, params.left * prices.whole, self._context.seed)
        choices = evolution.best(params.tries, params.population, params.generations)
        if not any(any(choice) for choice in choices):
            reason = "nothing has to go" if choices else f"no structure takes as little as {params.left:.0%}"
            return Change(self._graph, skipped=self._skipped(frozenset(), reason))
        judges, rest = apart(self._calibration, JUDGES)
        outputs = Outputs(self._graph, judges, self._context)
        tried = [self._made(number, choice, rest) for number, choice in enumerate(choices)]
        errors = [outputs.error(change.graph) for change in tried]
        best = min(range(len(tried)), key=errors.__getitem__)
        left = prices.of(choices[best]) / prices.whole
        noun = "layers' times" if params.times else "multiply-accumulates"
        told = [f"search_structure: {left:.1%} of the {noun} are left, as far as the model says"]
        for number, (choice, error) in enumerate(zip(choices, errors, strict=True)):
            told.append(
                f"search_structure: structure {number + 1} ({self._taken(choice)}): outputs' error "
                f"{error:.3g} of their variance, {harm(self._decisions, choice):.3g} expected"
                f"{', kept' if number == best else ''}"
            )
        change = self._made(params.tries, choices[best], self._calibration)
        changed = frozenset(site.name for site in change.sites)
        skipped = self._skipped(changed, "others harm the outputs less for what they save")
        return replace(change, skipped=skipped, notes=(*told, *change.notes), left=left)

    def _made(self, number: int, choice: Choice, samples: Calibration) -> Change:
        """The structure, solved for these samples. number: ``tries`` for the one that is kept."""
        count, told = self._params.tries, self._context.progress
        which = f"structure {number + 1}" if number < count else "the best structure"
        context = replace(
            self._context,
            calibration=samples,
            progress=lambda what, done: told(f"{which}: {what}", (number + done) / (count + 1)),
        )
        return made(self._graph, self._decisions, choice, self._scope, context)

    def _skipped(self, changed: frozenset[str], reason: str) -> tuple[Skip, ...]:
        """What could have changed and did not."""
        whole = prepare(self._graph)
        types = {layer_name(node): node.op_type for node in whole.ir_model.graph}
        reasons = dict.fromkeys((decision.name for decision in self._decisions), reason)
        reasons |= dict.fromkeys(sorted(self._excluded), "excluded by the recipe")
        return tuple(
            Skip(name=name, op_type=types.get(name, "Graph"), reason=why)
            for name, why in reasons.items()
            if name not in changed
        ) or (Skip(name="graph", op_type="Graph", reason=reason),)

    def _taken(self, choice: Choice) -> str:
        """How much of each kind goes, in words."""
        counts = Counter(d.kind for d, option in zip(self._decisions, choice, strict=True) if option)
        return ", ".join(f"{count} {_WORDS[kind][count > 1]}" for kind, count in counts.items())
