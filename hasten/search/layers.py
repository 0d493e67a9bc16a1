"""What does each layer of a candidate cost where it runs, how is it computed there, and how exactly?"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import TypeAlias

from hasten import methods
from hasten.core.executed import executed
from hasten.core.layers import Kernel, LayerCost, LayerError
from hasten.core.recipe import Json, Recipe, Step
from hasten.numerics.latency import Time, Work, beside
from hasten.search.build import Workshop
from hasten.search.candidate import Candidate
from hasten.search.forms import new_sites
from hasten.search.trial import Lab

Seen: TypeAlias = tuple[Iterable[LayerCost], Iterable[Kernel]]
"""The layers of a version, and the kernels that compute them."""


def saved(lab: Lab, left: Candidate, step: Step) -> dict[str, float]:
    """What each layer saves by this step behind the candidate's; below zero where it costs more.

    In bytes where size is the objective, otherwise in µs where the candidate runs. Raises TrialError.
    """
    changed = replace(left, recipe=Recipe((*left.recipe.steps, step)))
    if lab.budget.objective == "size":
        return difference(_bytes(lab.workshop, left), _bytes(lab.workshop, changed))
    return difference(*map(times_us, lab.kernels(lab.subject(left), lab.subject(changed))))


def _bytes(workshop: Workshop, candidate: Candidate) -> dict[str, float]:
    layers = workshop.cost(workshop.apply(candidate.recipe)).layers
    return {layer.name: float(layer.weight_bytes) for layer in layers}


def difference(before: Mapping[str, float], after: Mapping[str, float]) -> dict[str, float]:
    """Before minus after, of what both know."""
    return {name: before[name] - after[name] for name in before if name in after}


def times(version: Seen, narrower: Seen | None = None) -> dict[str, Time]:
    """What the layers of a version take, in µs, and what those of a narrower one do, if there is one."""
    works, took = _worked(version)
    if narrower is None:
        return dict(took)
    less, faster = _worked(narrower)
    return beside(works, took, {name: (less[name], us) for name, us in faster.items()})


def _worked(version: Seen) -> tuple[dict[str, Work], dict[str, float]]:
    layers, kernels = version
    macs = {layer.name: layer.macs for layer in layers}
    return {layer.name: Work(layer.macs, layer.moved) for layer in layers}, shared_us(kernels, macs)


def times_us(kernels: Iterable[Kernel]) -> dict[str, float]:
    """The time of each node of the graph; a kernel's time counts for every node it stands for."""
    found: dict[str, float] = {}
    for kernel in kernels:
        for name in kernel.layers if kernel.time_us is not None else ():
            found[name] = found.get(name, 0.0) + (kernel.time_us or 0.0)
    return found


def shared_us(kernels: Iterable[Kernel], macs: Mapping[str, int]) -> dict[str, float]:
    """The times of layers, each kernel's counted once: shared by multiply-accumulates among its layers.

    macs: of the layers that count; the first of a kernel's has all of its time where none has any.
    """
    found: dict[str, float] = {}
    for kernel in kernels:
        known = [name for name in kernel.layers if name in macs]
        total = sum(macs[name] for name in known)
        for number, name in enumerate(known if kernel.time_us is not None else ()):
            part = macs[name] / total if total else float(number == 0)
            if part:
                found[name] = found.get(name, 0.0) + part * (kernel.time_us or 0.0)
    return found


def fell_back(lab: Lab, candidate: Candidate) -> frozenset[str]:
    """The layers that the runtime computes in more bits than the graph says. Raises TrialError."""
    (kernels,) = lab.kernels(lab.subject(candidate))
    layers = lab.workshop.cost(lab.workshop.apply(candidate.recipe)).layers
    return frozenset(each.layer for each in executed(kernels, layers) if each.finding == "fell back")


def layer_errors(workshop: Workshop, recipe: Recipe) -> tuple[LayerError, ...]:
    """How far the layers that the recipe put into fewer bits are from what they were before, worst first.

    What was made smaller, or taught, before that has no layers of the original's to be compared with. Empty
    where no step yields other numbers. Raises TrialError when the graphs cannot be run.
    """
    yields = [bool(methods.find(step.method).FACTS.yields) for step in recipe.steps]
    if not any(yields):
        return ()
    before = workshop.apply(Recipe(recipe.steps[: yields.index(True)]))
    after = workshop.apply(Recipe(tuple(methods.comparable(step) for step in recipe.steps)))
    sites: dict[str, Json] = {site.name: site.what for site in new_sites(before, after)}
    place: dict[str, Json] = {**workshop.place(before), "changed": str(after.path), "sites": sites}
    found = [LayerError(**error) for error in workshop.ask("sensitivity:errors_in_child", place)]
    return tuple(sorted(found, key=lambda e: e.sqnr_db if e.sqnr_db is not None else float("inf")))
