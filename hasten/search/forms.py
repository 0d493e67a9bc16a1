"""Which forms may the layers of a candidate have, and which candidate gives each layer its own?

Each layer may stay as it was, or be changed in one of the forms that steps stand for: integers, integers of
more bits, bfloat16. Chosen is what saves most for the harm done: a knapsack of measured damages and, of each
layer in each form, its time on the target or its bytes.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any

from hasten import methods
from hasten.core.recipe import Json, Recipe, Step
from hasten.core.record import Site
from hasten.graph.layer import ARITHMETIC
from hasten.search.build import Built, Workshop
from hasten.search.candidate import Candidate

LEFT = "left"
"""The form of a layer that is as it was."""
CHANGED = "changed"
"""The form that a step has which knows only one."""
NARROW = "bfloat16"

_CAST = Step("cast", {"dtype": "bfloat16", "what": "compute"})


@dataclass(frozen=True)
class Choice:
    """The form of each layer, most harmful first, and the error of the outputs before and after."""

    forms: Mapping[str, str]
    error_before: float
    error_after: float

    def layers(self, form: str) -> tuple[str, ...]:
        """The layers in this form."""
        return tuple(name for name, chosen in self.forms.items() if chosen == form)


@dataclass(frozen=True)
class _Bits:
    """The parameter of a method that says how many bits weights take, that for single layers, and values."""

    parameter: str
    of_layers: str
    few: Json
    more: Json


_BITS = {
    "quantize_static": _Bits("weights", "weights_of", "int4", "int8"),
    "compress_weights": _Bits("bits", "bits_of", 4, 8),
}


@dataclass(frozen=True)
class Forms:
    """left: the candidate without the steps that change layers; steps: what changes them, by form.

    now: the forms that layers have in the candidate, each that which it can have first.
    """

    left: Candidate
    steps: Mapping[str, Step]
    now: Sequence[str]

    def mixed(self, choice: Choice) -> Candidate:
        """The candidate that gives every layer its form."""
        steps = [*self.left.recipe.steps]
        integers = {form: step for form, step in self.steps.items() if form != NARROW}
        if integers:
            steps.append(_one_step(integers, choice))
        if NARROW in self.steps and choice.layers(NARROW):
            steps.append(without(self.steps[NARROW], choice.layers(LEFT)))
        return Candidate(Recipe(tuple(steps)), self.left.target, self.left.options)


def forms_of(candidate: Candidate, *, narrow: bool) -> Forms | None:
    """The forms that a candidate's layers have and may have; None where it has no step that changes layers.

    narrow: whether single layers may compute in bfloat16 where it runs. Such a candidate computes in float32
    what its graph does not say otherwise of: all of it in bfloat16 is an option of the runtime.
    """
    rest = list(candidate.recipe.steps)
    cast = rest.pop() if rest and _computes_narrow(rest[-1]) else None
    steps = _integers(rest[-1]) if rest else {}
    if steps:
        rest.pop()
    options = dict(candidate.options)
    everywhere = options.get("precision") == NARROW
    now = [*list(steps)[:1], *([NARROW] if everywhere or cast is not None else [])]
    if narrow or cast is not None:
        steps[NARROW] = cast or _CAST
        options.pop("precision", None)
    left = Candidate(Recipe(tuple(rest)), candidate.target, options)
    return Forms(left, steps, [form for form in now if form in steps]) if now and steps else None


def can_exclude(recipe: Recipe) -> bool:
    """Whether its last step can leave layers out; the original with other options has none."""
    last = recipe.steps[-1:]
    return any(f.name == "exclude" for step in last for f in fields(methods.find(step.method).Params))


def without(step: Step, layers: Collection[str]) -> Step:
    """The step with these layers, too, left out."""
    before: Any = step.params.get("exclude") or ()
    excluded: list[Json] = [*sorted({*layers, *before})]
    return Step(step.method, {**step.params, "exclude": excluded} if excluded else step.params)


def choose_forms(
    workshop: Workshop,
    forms: Forms,
    saves: Mapping[str, Mapping[str, float]],
    fraction: float,
    time_limit_s: float,
) -> Choice | None:
    """The form of each layer for which the error falls to ``fraction`` of what it is now.

    saves: what each form saves in each layer, in time or bytes; of what is missing nothing is known.
    Returns None when no choice achieves it. Raises TrialError when a method fails.
    """
    before = forms.left.recipe
    start = workshop.apply(before)
    made = {
        form: workshop.apply(Recipe((*before.steps, methods.comparable(step))))
        for form, step in forms.steps.items()
    }
    paths: dict[str, Json] = {form: str(built.path) for form, built in made.items()}
    names: dict[str, Json] = {form: [*_layers(form, start, built)] for form, built in made.items()}
    aim: dict[str, Json] = {
        "forms": paths,
        "names": names,
        "now": [*forms.now],
        "saves": {form: dict(saved) for form, saved in saves.items()},
        "fraction": fraction,
        "time_limit_s": time_limit_s,
    }
    answer = workshop.ask("sensitivity:choose_in_child", {**workshop.place(start), "aim": aim})
    return Choice(**answer) if answer else None


def new_sites(before: Built, after: Built) -> tuple[Site, ...]:
    """What the steps between the two changed."""
    return after.sites[len(before.sites) :]


def _computes_narrow(step: Step) -> bool:
    return step.method == _CAST.method and dict(_CAST.params).items() <= dict(step.params).items()


def _integers(step: Step) -> dict[str, Step]:
    """The step, and one that does the same at more bits; nothing where it cannot leave layers out."""
    bits = _BITS.get(step.method)
    if bits is None or step.params.get(bits.parameter) != bits.few:
        return {CHANGED: step} if can_exclude(Recipe((step,))) else {}
    more = Step(step.method, {**step.params, bits.parameter: bits.more, bits.of_layers: {}})
    return {str(bits.few): step, str(bits.more): more}


def _one_step(integers: Mapping[str, Step], choice: Choice) -> Step:
    """The step that gives layers their forms of integers: the first unless it says otherwise."""
    first = next(iter(integers.values()))
    params: dict[str, Json] = dict(first.params)
    for form, step in list(integers.items())[1:]:
        bits = _BITS[step.method]
        named: Any = params.get(bits.of_layers) or {}
        others = dict.fromkeys(choice.layers(form), step.params[bits.parameter])
        params[bits.of_layers] = {**named, **others}
    return without(Step(first.method, params), (*choice.layers(LEFT), *choice.layers(NARROW)))


def _layers(form: str, before: Built, after: Built) -> Sequence[str]:
    """The layers that are chosen for: what follows them takes the precision that they have."""
    sites = new_sites(before, after)
    return [site.name for site in sites if form != NARROW or site.op_type in ARITHMETIC]
