"""Which form should each layer have when a recipe loses too much quality, or gains nothing in some layers?

Each layer may stay as it was, or be changed in one of the forms a step knows. Chosen is what saves most for
the harm done: a knapsack of measured damages and, of each layer in each form, its time on the target or its
bytes.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

from hasten import methods
from hasten.core.recipe import Json, Recipe, Step
from hasten.core.record import LayerError, Site
from hasten.search.build import Built, Workshop

LEFT = "left"
"""The form of a layer that is as it was."""


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


def forms_of(step: Step) -> dict[str, Step]:
    """The step, and others that do the same at more bits; each stands for a form that layers may have."""
    bits = _BITS.get(step.method)
    if bits is None or step.params.get(bits.parameter) != bits.few:
        return {"changed": step}
    more = Step(step.method, {**step.params, bits.parameter: bits.more, bits.of_layers: {}})
    return {str(bits.few): step, str(bits.more): more}


def choose_forms(
    workshop: Workshop,
    before: Recipe,
    forms: Mapping[str, Step],
    saves: Mapping[str, Mapping[str, float]],
    fraction: float,
    time_limit_s: float,
) -> Choice | None:
    """The form of each layer for which the error of the first form falls to ``fraction`` of itself.

    before: the recipe without the step that the forms stand for. saves: what each form saves in each layer,
    in time or bytes; of what is missing nothing is known. Returns None when no choice achieves it. Raises
    TrialError when the method fails.
    """
    start = workshop.apply(before)
    made = {form: workshop.apply(Recipe((*before.steps, step))) for form, step in forms.items()}
    paths: dict[str, Json] = {form: str(built.path) for form, built in made.items()}
    names: dict[str, Json] = {f: [site.name for site in _new_sites(start, b)] for f, b in made.items()}
    aim: dict[str, Json] = {
        "forms": paths,
        "names": names,
        "saves": {form: dict(saved) for form, saved in saves.items()},
        "fraction": fraction,
        "time_limit_s": time_limit_s,
    }
    answer = workshop.ask("sensitivity:choose_in_child", {**workshop.place(start), "aim": aim})
    return Choice(**answer) if answer else None


def mixed(forms: Mapping[str, Step], choice: Choice) -> Step:
    """One step that gives every layer its form: the first unless it says otherwise."""
    first = next(iter(forms.values()))
    params: dict[str, Json] = dict(first.params)
    for form, step in list(forms.items())[1:]:
        bits = _BITS[step.method]
        named: Any = params.get(bits.of_layers) or {}
        others = dict.fromkeys(choice.layers(form), step.params[bits.parameter])
        params[bits.of_layers] = {**named, **others}
    return without(Step(first.method, params), choice.layers(LEFT))


def without(step: Step, layers: Collection[str]) -> Step:
    """The step with these layers, too, left out."""
    before: Any = step.params.get("exclude") or ()
    excluded: list[Json] = [*sorted({*layers, *before})]
    return Step(step.method, {**step.params, "exclude": excluded} if excluded else step.params)


def layer_errors(workshop: Workshop, recipe: Recipe) -> tuple[LayerError, ...]:
    """How far the layers that the recipe changed are from what its exact steps had made of them, worst first.

    Empty where all its steps are exact. Raises TrialError when the graphs cannot be run.
    """
    exact = [methods.find(step.method).FACTS.exact for step in recipe.steps]
    if all(exact):
        return ()
    before, after = workshop.apply(Recipe(recipe.steps[: exact.index(False)])), workshop.apply(recipe)
    sites: dict[str, Json] = {site.name: site.what for site in _new_sites(before, after)}
    place: dict[str, Json] = {**workshop.place(before), "changed": str(after.path), "sites": sites}
    found = [LayerError(**error) for error in workshop.ask("sensitivity:errors_in_child", place)]
    return tuple(sorted(found, key=lambda e: e.sqnr_db if e.sqnr_db is not None else float("inf")))


def _new_sites(before: Built, after: Built) -> tuple[Site, ...]:
    return after.sites[len(before.sites) :]
