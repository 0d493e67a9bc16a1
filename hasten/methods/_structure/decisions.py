"""What can be decided about a structure, and what each decision alone would do to the outputs."""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Mapping, Sequence
from typing import Literal, TypeAlias

from pydantic import TypeAdapter
from pydantic.dataclasses import dataclass

from hasten.core.recipe import Json

Kind: TypeAlias = Literal["channels", "heads", "branches", "ranks", "bits"]
KINDS: tuple[Kind, ...] = ("channels", "heads", "branches", "ranks", "bits")
"""In the order in which they are applied: names of widths begin at layers that a later step may take away."""

STRUCTURE = KINDS[:-1]
"""What leaves a graph of floats."""

FORM: Literal["spatial"] = "spatial"
"""The form of factors that convolutions take (``factorize``): along one axis of the kernel, then others."""

Choice: TypeAlias = tuple[int, ...]
"""Of each decision the number of an option; 0 leaves it as it is."""


@dataclass(frozen=True)
class Factors:
    """Two in the place of a layer.

    macs, weights: the multiply-accumulates and the numbers in weights, over the layer's, of the one that
        reads what it reads and of the one that makes what it makes. between: numbers that the first makes.
    """

    macs: tuple[float, float]
    weights: tuple[float, float]
    between: int


@dataclass(frozen=True)
class Decision:
    """One number to choose.

    values: of the options, each taking more away than that before: units left of a width, 1 or 0 for a branch
        that stays or goes, the rank of a layer (0: whole), the bits it computes in. harms: the outputs' error
        with each alone, over their variance, 0 for the first.
    factors: for ranks, those of each option but the first. axis: of the layer's outputs in its weight.
    shares: for bits, what the layer costs, over its cost in floats.
    nodes: for a branch, those that go with it.
    """

    kind: Kind
    name: str
    values: tuple[int, ...]
    harms: tuple[float, ...]
    factors: tuple[Factors, ...] = ()
    axis: int = 0
    shares: tuple[float, ...] = ()
    nodes: tuple[str, ...] = ()


DECISIONS = TypeAdapter(tuple[Decision, ...])


def harm(decisions: Sequence[Decision], choice: Choice) -> float:
    """What a choice does to the outputs if single harms add up, as they do while they are small."""
    return sum(decision.harms[option] for decision, option in zip(decisions, choice, strict=True))


@dataclasses.dataclass(frozen=True, kw_only=True)
class Scope:
    """What is open to decision: see the parameters of ``search_structure``."""

    kinds: Collection[Kind]
    align: int
    least: float
    samples: int
    quantize: Mapping[str, Json] = dataclasses.field(default_factory=dict)
