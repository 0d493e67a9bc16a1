"""What a shape computation is made of: numbers, sizes and products of sizes."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Protocol, TypeAlias

import onnx_ir as ir

LONGEST = 16
"""Longer vectors are data, not shapes."""


@dataclass(frozen=True)
class Dim:
    """The size of a value along an axis counted from the front."""

    value: ir.Value
    axis: int


@dataclass(frozen=True)
class Named:
    """The size that the graph's signature calls by this name."""

    name: str


@dataclass(frozen=True)
class Product:
    """A number times sizes, each with how often it occurs; equal whatever the order it was computed in."""

    number: int
    sizes: frozenset[tuple[Dim | Named, int]]


Element: TypeAlias = int | Dim | Named | Product | None
"""A number, a size, a product of them, or None: unknown."""


def factors(elements: Iterable[Element]) -> tuple[int, Counter[Dim | Named]] | None:
    """The product of the elements, taken apart; None when one of them is unknown."""
    number, sizes = 1, Counter[Dim | Named]()
    for element in elements:
        if element is None:
            return None
        if isinstance(element, int):
            number *= element
        elif isinstance(element, Product):
            number *= element.number
            sizes.update(dict(element.sizes))
        else:
            sizes[element] += 1
    return number, sizes


def product(number: int, sizes: Counter[Dim | Named]) -> Element:
    """The number times the sizes, as the simplest element that says it."""
    if not sizes:
        return number
    [(only, times), *others] = sizes.items()
    if number == 1 and times == 1 and not others:
        return only
    return Product(number, frozenset(sizes.items()))


@dataclass(frozen=True)
class Vector:
    """The elements of an integer tensor of rank 1, or of rank 0 when ``scalar``."""

    elements: tuple[Element, ...]
    scalar: bool = False


class Tracer(Protocol):
    """What the rules ask of ``hasten.rewrites.dimensions.Dimensions``."""

    def size(self, value: ir.Value, axis: int) -> Element:
        """The size along an axis, traced back; None when it cannot be told apart from others."""

    def shape(self, value: ir.Value) -> tuple[Element, ...] | None:
        """All sizes of a value, or None when its rank is unknown."""

    def vector(self, value: ir.Value | None) -> Vector | None:
        """What is known of an integer tensor of rank 0 or 1; None when nothing is."""
