"""The forms that a layer can take: what each costs at a rank, what it keeps, and its weights."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from math import prod
from typing import Literal, TypeAlias

import numpy as np

from hasten.core.data import Array
from hasten.methods._factors.layers import Factorable
from hasten.numerics.low_rank import Parts, Product, Separable, Target, Tucker

FormName: TypeAlias = Literal["channel", "spatial", "tucker"]

LEAST_SAVED = 0.1
"""Share of a layer's multiply-accumulates that must be saved: two operators take longer to start than one."""


@dataclass(frozen=True)
class Positions:
    """How often a layer multiplies: positions (pixels, tokens; of all samples) it reads and makes.

    read, made: along each axis of the picture; of a product one number, the same. batch: pictures.
    """

    read: tuple[int, ...]
    made: tuple[int, ...]
    batch: int = 1


@dataclass(frozen=True)
class Cost:
    """Multiply-accumulates of one inference, numbers in weights, and numbers made, by so many operators."""

    macs: int
    parameters: int
    made: int
    operators: int = 1

    def __add__(self, other: Cost) -> Cost:
        return Cost(
            self.macs + other.macs,
            self.parameters + other.parameters,
            self.made + other.made,
            self.operators + other.operators,
        )

    def saves(self, whole: Cost, least: float = 0.0) -> bool:
        """Whether it is less than the whole layer in both."""
        return self.macs < whole.macs * (1 - least) and self.parameters < whole.parameters


@dataclass(frozen=True)
class Factor:
    """One of the weights. axes: of the kernel that it reaches along, and so strides and pads along.

    rows: (outputs, inputs) for a product, a kernel (outputs, inputs of a group, …) for a convolution.
    window: attributes of the convolution other than those that follow from the axes. copies: how often it
    reads its channels, one copy after the other. cut: taps that are gone before and behind it, of each axis.
    """

    rows: Array
    axes: tuple[int, ...] = ()
    window: Mapping[str, int | list[int]] = field(default_factory=dict)
    copies: int = 1
    cut: Sequence[tuple[int, int]] = ()


class Form(ABC):
    """A form of one layer, of any rank up to ``largest``, at which nothing is lost."""

    name: str
    clock: Callable[[Cost, Cost], float] | None = None
    """What operators take in place of the layer, where times count and not multiply-accumulates."""

    def __init__(self, layer: Factorable, target: Target, positions: Positions, align: int = 1) -> None:
        self.layer = layer
        self.target = target
        self.align = align
        self._positions = positions
        self._outputs: int = layer.array.shape[layer.axis]
        self._inputs: int = layer.array.shape[1 - layer.axis]
        self._axes = tuple(range(len(layer.kernel)))

    @property
    @abstractmethod
    def largest(self) -> int:
        """The rank of the whole layer."""

    @abstractmethod
    def costs(self, rank: int) -> tuple[Cost, ...]:
        """What each of the factors costs."""

    @abstractmethod
    def lost(self, rank: int) -> float:
        """The part of the outputs' squares that is lost."""

    @abstractmethod
    def factors(self, rank: int) -> list[Factor]:
        """The weights in the order they are applied."""

    def cost(self, rank: int) -> Cost:
        """What the factors cost together."""
        first, *others = self.costs(rank)
        return sum(others, first)

    @property
    def pictures(self) -> int:
        """Samples of one inference."""
        return self._positions.batch

    def price(self, rank: int) -> float:
        """What counts of the cost: multiply-accumulates, or time."""
        return self._price(self.cost(rank))

    @property
    def whole_price(self) -> float:
        """The same of the layer as it is."""
        return self._price(self.whole)

    def _price(self, cost: Cost) -> float:
        return cost.macs if self.clock is None else self.clock(cost, self.whole)

    def kept(self, rank: int) -> float:
        """The other part."""
        return 1.0 - self.lost(rank)

    def told(self, rank: int) -> str:
        """The rank in words."""
        return f"rank {rank} of {self.largest}"

    @cached_property
    def whole(self) -> Cost:
        """What the layer costs as it is."""
        return self._cost(self._outputs, self.layer.array.size // self._outputs, self._positions.made)

    @cached_property
    def ranks(self) -> list[int]:
        """The multiples of ``align`` that make it cheaper by enough, and faster where times are known."""
        tried = range(self.align, self.largest + 1, self.align)
        cheaper = (rank for rank in tried if self.cost(rank).saves(self.whole, LEAST_SAVED))
        return [rank for rank in cheaper if self.price(rank) < self.whole_price]

    def _cost(self, outputs: int, taps: int, positions: Sequence[int]) -> Cost:
        """Of a layer with so many weights for each of its outputs, which it makes at these positions."""
        made = outputs * prod(positions) * self._positions.batch
        return Cost(taps * made, outputs * taps, made)


class Channel(Form):
    """The layer with fewer outputs, and a product (a 1×1 convolution) that makes all of them."""

    name = "channel"

    @cached_property
    def _product(self) -> Product:
        return Product(self.target)

    @property
    def largest(self) -> int:
        """Outputs, or inputs of an output where they are fewer."""
        return min(self._outputs, int(self.target.weight.shape[1]))

    def costs(self, rank: int) -> tuple[Cost, ...]:
        """Both work at the positions that are made."""
        outputs, inputs = self.target.weight.shape
        made = self._positions.made
        return self._cost(rank, inputs, made), self._cost(outputs, rank, made)

    def lost(self, rank: int) -> float:
        """See ``Product.lost``."""
        return self._product.lost(rank)

    def factors(self, rank: int) -> list[Factor]:
        """(rank, inputs, *kernel), then (outputs, rank)."""
        first, second = self._product.factors(rank)
        if not self._axes:
            return [Factor(first), Factor(second)]
        kernel = self.layer.kernel
        ones = [1] * len(kernel)
        return [
            Factor(first.reshape(rank, self._inputs, *kernel), self._axes),
            Factor(second.reshape(self._outputs, rank, *ones)),
        ]


class Spatial(Form):
    """A kernel along one axis, with few outputs, then one along the others."""

    name = "spatial"

    def __init__(self, layer: Factorable, target: Target, positions: Positions, align: int = 1) -> None:
        super().__init__(layer, target, positions, align)
        self._solved: tuple[int, Separable] | None = None
        self._along = next(axis for axis, size in enumerate(layer.kernel) if size > 1)
        self._others = tuple(axis for axis in self._axes if axis != self._along)
        self._length = layer.kernel[self._along]
        self._behind = prod(layer.kernel) // self._length

    def _separable(self, rank: int) -> Separable:
        """Solved once for all ranks that make it cheaper."""
        if self._solved is None or self._solved[0] < rank:
            axes = (*(axis + 1 for axis in self._others), 0, self._along + 1)
            order = _order((self._inputs, *self.layer.kernel), axes)
            most = max([rank, *self.ranks])
            self._solved = most, Separable(Parts(self.target, order, self._behind), most)
        return self._solved[1]

    @property
    def largest(self) -> int:
        """Inputs times the kernel's length along the first axis, or outputs times the rest."""
        return min(self._inputs * self._length, self._outputs * self._behind)

    def costs(self, rank: int) -> tuple[Cost, ...]:
        """The first works at the positions made along its axis, and those read along the others."""
        made, read = self._positions.made, self._positions.read
        middle = [made[axis] if axis == self._along else read[axis] for axis in self._axes]
        first = self._cost(rank, self._inputs * self._length, middle)
        return first, self._cost(self._outputs, rank * self._behind, made)

    def lost(self, rank: int) -> float:
        """See ``Separable.lost``."""
        return self._separable(rank).lost(rank)

    def factors(self, rank: int) -> list[Factor]:
        """(rank, inputs, …, length, …), then (outputs, rank, *the others)."""
        first, second = self._separable(rank).factors(rank)
        along = [self._length if axis == self._along else 1 for axis in self._axes]
        others = [1 if axis == self._along else self.layer.kernel[axis] for axis in self._axes]
        return [
            Factor(first.reshape(rank, self._inputs, *along), (self._along,)),
            Factor(second.swapaxes(1, 2).reshape(self._outputs, rank, *others), self._others),
        ]


class TuckerForm(Form):
    """1×1 to fewer inputs, the kernel between few channels, 1×1 to all outputs."""

    name = "tucker"

    @cached_property
    def _tucker(self) -> Tucker:
        axes = (*(axis + 1 for axis in self._axes), 0)
        order = _order((self._inputs, *self.layer.kernel), axes)
        return Tucker(Parts(self.target, order, prod(self.layer.kernel)))

    @property
    def largest(self) -> int:
        """The rank counts the side with more channels; the other's is in proportion, and aligned too."""
        return max(self._inputs, self._outputs)

    def _both(self, rank: int) -> tuple[int, int]:
        def part(size: int) -> int:
            return min(size, -(-rank * size // (self.largest * self.align)) * self.align)

        return (
            rank if self._inputs == self.largest else part(self._inputs),
            rank if self._outputs == self.largest else part(self._outputs),
        )

    def costs(self, rank: int) -> tuple[Cost, ...]:
        """The first works at the positions that are read."""
        inputs, outputs = self._both(rank)
        made = self._positions.made
        return (
            self._cost(inputs, self._inputs, self._positions.read),
            self._cost(outputs, inputs * prod(self.layer.kernel), made),
            self._cost(self._outputs, outputs, made),
        )

    def lost(self, rank: int) -> float:
        """See ``Tucker.lost``."""
        return self._tucker.lost(*self._both(rank))

    def factors(self, rank: int) -> list[Factor]:
        """(q, inputs), (p, q, *kernel), (outputs, p)."""
        inputs, outputs = self._both(rank)
        first, core, last = self._tucker.factors(inputs, outputs)
        ones = [1] * len(self._axes)
        return [
            Factor(first.reshape(inputs, self._inputs, *ones)),
            Factor(core.swapaxes(1, 2).reshape(outputs, inputs, *self.layer.kernel), self._axes),
            Factor(last.reshape(self._outputs, outputs, *ones)),
        ]

    def told(self, rank: int) -> str:
        """Both ranks in words."""
        inputs, outputs = self._both(rank)
        return f"ranks {inputs} of {self._inputs} and {outputs} of {self._outputs}"


_FORMS: dict[FormName, type[Form]] = {"channel": Channel, "spatial": Spatial, "tucker": TuckerForm}


def forms_of(layer: Factorable, allowed: Sequence[FormName]) -> list[type[Form]]:
    """The forms that a layer has: of a product and a 1×1 convolution one, whatever is allowed."""
    reach = sum(size > 1 for size in layer.kernel)
    if not reach:
        return [Channel]
    return [_FORMS[name] for name in dict.fromkeys(allowed) if name != "spatial" or reach > 1]


def composed(factors: Sequence[Factor]) -> Array:
    """The weight that the factors make together, as (outputs, inputs of an output)."""
    if len(factors) == 1:
        whole = np.pad(factors[0].rows, [(0, 0), (0, 0), *factors[0].cut])
        return whole.reshape(len(whole), -1)
    made = _dense(factors[0])
    for factor in factors[1:]:
        made = _behind(factor.rows, made)
    return made.reshape(len(made), -1)


def _dense(factor: Factor) -> Array:
    """The kernel of a first factor without groups, where it may have as many as channels."""
    if "group" not in factor.window:
        return factor.rows
    outputs, channels = len(factor.rows), len(factor.rows) // factor.copies
    made = np.zeros((outputs, channels, *factor.rows.shape[2:]))
    made[np.arange(outputs), np.arange(outputs) % channels] = factor.rows[:, 0]
    return made


def _behind(rows: Array, made: Array) -> Array:
    """The kernel of a convolution of stride 1, ``made``, and another one behind it."""
    sizes = zip(made.shape[2:], rows.shape[2:], strict=True)
    both = np.zeros((len(rows), made.shape[1], *(first + second - 1 for first, second in sizes)))
    for at in np.ndindex(*rows.shape[2:]):
        where = tuple(slice(start, start + size) for start, size in zip(at, made.shape[2:], strict=True))
        both[(slice(None), slice(None), *where)] += np.tensordot(
            rows[(slice(None), slice(None), *at)], made, 1
        )
    return both


def _order(shape: tuple[int, ...], axes: tuple[int, ...]) -> Array:
    """Where the numbers of an array of this shape are once its axes are transposed."""
    return np.arange(prod(shape)).reshape(shape).transpose(axes).reshape(-1)
