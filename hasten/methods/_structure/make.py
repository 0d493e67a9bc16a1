"""A choice made true: the steps of other methods that it stands for, applied."""

from __future__ import annotations

from collections.abc import Sequence

from hasten import methods
from hasten.core.recipe import Json, Recipe, Step
from hasten.graph import Graph
from hasten.methods import Change, Context
from hasten.methods._structure.bits import in_bits
from hasten.methods._structure.decisions import FORM, KINDS, Choice, Decision, Kind, Scope


def _taken(decisions: Sequence[Decision], choice: Choice) -> dict[Kind, dict[str, int]]:
    """What is not left as it is, by kind and name."""
    taken: dict[Kind, dict[str, int]] = {kind: {} for kind in KINDS}
    for decision, option in zip(decisions, choice, strict=True):
        if option:
            taken[decision.kind][decision.name] = decision.values[option]
    return taken


def _recipe(taken: dict[Kind, dict[str, int]], samples: int) -> Recipe:
    """The steps but for the bits."""
    steps: dict[Kind, tuple[str, dict[str, Json]]] = {
        "channels": ("prune_channels", {"widths": dict(taken["channels"]), "samples": samples}),
        "heads": ("prune_heads", {"widths": dict(taken["heads"]), "samples": samples}),
        "branches": ("prune_layers", {"drop": list(taken["branches"])}),
        "ranks": (
            "factorize",
            {"rank": "given", "ranks": dict(taken["ranks"]), "forms": [FORM], "samples": samples},
        ),
    }
    return Recipe(tuple(Step(*steps[kind]) for kind in steps if taken[kind]))


def made(
    graph: Graph,
    decisions: Sequence[Decision],
    choice: Choice,
    scope: Scope,
    context: Context,
) -> Change:
    """The graph of a choice; raises MethodError."""
    taken = _taken(decisions, choice)
    change = methods.apply(_recipe(taken, scope.samples), graph, context)
    return in_bits(change, taken["bits"], scope.quantize, context) if taken["bits"] else change
