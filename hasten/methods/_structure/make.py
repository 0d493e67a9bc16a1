"""A choice made true: the steps of other methods that it stands for, applied."""

from __future__ import annotations

from collections.abc import Sequence

from hasten import methods
from hasten.core.recipe import Json, Recipe, Step
from hasten.graph import Graph
from hasten.methods import Change, Context
from hasten.methods._structure.decisions import FORM, KINDS, Choice, Decision, Kind


def recipe(decisions: Sequence[Decision], choice: Choice, samples: int) -> Recipe:
    """The steps. samples: at most this many are looked at."""
    taken: dict[Kind, dict[str, int]] = {kind: {} for kind in KINDS}
    for decision, option in zip(decisions, choice, strict=True):
        if option:
            taken[decision.kind][decision.name] = decision.values[option]
    steps: dict[Kind, tuple[str, dict[str, Json]]] = {
        "channels": ("prune_channels", {"widths": dict(taken["channels"]), "samples": samples}),
        "heads": ("prune_heads", {"widths": dict(taken["heads"]), "samples": samples}),
        "branches": ("prune_layers", {"drop": list(taken["branches"])}),
        "ranks": (
            "factorize",
            {"rank": "given", "ranks": dict(taken["ranks"]), "forms": [FORM], "samples": samples},
        ),
    }
    return Recipe(tuple(Step(*steps[kind]) for kind in KINDS if taken[kind]))


def made(
    graph: Graph, decisions: Sequence[Decision], choice: Choice, samples: int, context: Context
) -> Change:
    """The graph of a choice; raises MethodError."""
    return methods.apply(recipe(decisions, choice, samples), graph, context)
