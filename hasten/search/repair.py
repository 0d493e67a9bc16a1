"""Which layers should stay as they were when a recipe loses too much quality, or gains no time in some?

Left out are those whose time is saved least for the harm they do: a knapsack of measured damages and measured
times of each layer, on the target, in both forms.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from hasten import methods
from hasten.core.recipe import Json, Recipe
from hasten.core.record import Kernel, LayerError, Site
from hasten.search.build import Built, Workshop


@dataclass(frozen=True)
class Choice:
    """The layers to leave as they were, most harmful first, and the error of the outputs before and after."""

    layers: tuple[str, ...]
    error_before: float
    error_after: float


def choose_layers(
    workshop: Workshop,
    recipe: Recipe,
    fraction: float,
    saved_us: Mapping[str, float],
    time_limit_s: float,
) -> Choice | None:
    """The layers to leave out of the recipe's last step so that the error falls to ``fraction`` of itself.

    saved_us: the time that each layer saves by being changed; of what is missing nothing is known. Returns
    None when no choice achieves it. Raises TrialError when the method fails.
    """
    before, after = workshop.apply(Recipe(recipe.steps[:-1])), workshop.apply(recipe)
    answer = workshop.ask(
        "sensitivity:choose_in_child",
        {
            **workshop.place(before),
            "aim": {
                "changed": str(after.path),
                "names": [site.name for site in _new_sites(before, after)],
                "costs": dict(saved_us),
                "fraction": fraction,
                "time_limit_s": time_limit_s,
            },
        },
    )
    return Choice(**{**answer, "layers": tuple(answer["layers"])}) if answer else None


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


def saved_us(before: tuple[Kernel, ...], after: tuple[Kernel, ...]) -> dict[str, float]:
    """The time each layer saves in the second form; below zero where it is slower."""
    slow, fast = _times_us(before), _times_us(after)
    return {name: slow[name] - fast[name] for name in slow if name in fast}


def _times_us(kernels: tuple[Kernel, ...]) -> dict[str, float]:
    """The time of each node of the graph; a kernel's time counts for every node it stands for."""
    found: dict[str, float] = {}
    for kernel in kernels:
        for name in kernel.layers if kernel.time_us is not None else ():
            found[name] = found.get(name, 0.0) + (kernel.time_us or 0.0)
    return found


def _new_sites(before: Built, after: Built) -> tuple[Site, ...]:
    return after.sites[len(before.sites) :]
