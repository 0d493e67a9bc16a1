"""The cheaper operators that a convolution can become, as forms with a number: what each costs and loses.

``separable``: a depthwise convolution of a multiplier, and a pointwise one. ``smaller``: the same convolution
with a smaller kernel. ``stacked``: two smaller kernels one behind the other, with so many channels between.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from itertools import product
from math import prod
from typing import Literal, TypeAlias

import numpy as np

from hasten.methods._factors.forms import Cost, Factor, Form, Positions
from hasten.methods._factors.layers import Factorable
from hasten.numerics.decoupled import Decoupled, Windowed
from hasten.numerics.low_rank import Parts, Separable, Target

Kind: TypeAlias = Literal["separable", "smaller_kernel", "activation"]


class SeparableForm(Form):
    """A kernel of its own for each channel, ``rank`` times, and a 1×1 convolution of what they give."""

    name = "separable"
    multiplier = 0
    """The most that is offered; 0: all."""

    @cached_property
    def _decoupled(self) -> Decoupled:
        return Decoupled(self.target, self._inputs)

    @property
    def largest(self) -> int:
        """As many kernels of a channel as they have taps, or outputs where these are fewer."""
        return min(prod(self.layer.kernel), self._outputs)

    @cached_property
    def ranks(self) -> list[int]:
        """The multipliers that are offered."""
        return [rank for rank in super().ranks if not self.multiplier or rank <= self.multiplier]

    def costs(self, rank: int) -> tuple[Cost, ...]:
        """Both work at the positions that are made."""
        channels = rank * self._inputs
        made = self._positions.made
        return self._cost(channels, prod(self.layer.kernel), made), self._cost(self._outputs, channels, made)

    def lost(self, rank: int) -> float:
        """See ``Decoupled.lost``."""
        return self._decoupled.lost(rank)

    def factors(self, rank: int) -> list[Factor]:
        """(rank·channels, 1, *kernel), copy after copy of all channels, then (outputs, rank·channels)."""
        kernels, behind = self._decoupled.factors(rank)
        width = rank * self._inputs
        depthwise = kernels.reshape(width, 1, *self.layer.kernel)
        ones = [1] * len(self._axes)
        return [
            Factor(depthwise, self._axes, {"group": width}, copies=rank),
            Factor(behind.reshape(self._outputs, width, *ones)),
        ]

    def told(self, rank: int) -> str:
        """The multiplier, as ``layers`` takes it."""
        return f"separable:{rank}"


class Smaller(Form):
    """A smaller kernel; the number counts windows within the old one, those of fewest taps first."""

    name = "smaller"

    def __init__(self, layer: Factorable, target: Target, positions: Positions, align: int = 1) -> None:
        super().__init__(layer, target, positions, align)
        self._windowed: dict[int, Windowed] = {}

    @cached_property
    def _sizes(self) -> list[tuple[int, ...]]:
        """Windows in the middle that the pads allow."""
        found = [
            size
            for size in product(*(range(2 - n % 2, n + 1, 2) for n in self.layer.kernel))
            if min(self._pads(size)) >= 0
        ]
        return sorted(found, key=prod)

    @property
    def largest(self) -> int:
        """The last window is the whole kernel."""
        return len(self._sizes)

    @cached_property
    def ranks(self) -> list[int]:
        """The windows that make it cheaper by enough."""
        return super().ranks if self.largest else []

    def costs(self, rank: int) -> tuple[Cost, ...]:
        """What the kernel costs."""
        taps = self.layer.array.shape[1] * prod(self._sizes[rank - 1])
        return (self._cost(self._outputs, taps, self._positions.made),)

    def _solved(self, rank: int) -> Windowed:
        if rank not in self._windowed:
            size = self._sizes[rank - 1]
            taps = np.zeros(self.layer.kernel, dtype=bool)
            taps[tuple(slice(a, a + n) for a, n in zip(self._cut(size), size, strict=True))] = True
            channels = self.layer.array.shape[1]
            kept = np.flatnonzero(np.tile(taps.reshape(-1), channels))
            self._windowed[rank] = Windowed(self.target, kept)
        return self._windowed[rank]

    def lost(self, rank: int) -> float:
        """See ``Windowed``."""
        return self._solved(rank).lost

    def factors(self, rank: int) -> list[Factor]:
        """The one kernel, within pads that leave its taps where they were."""
        size = self._sizes[rank - 1]
        rows = self._solved(rank).weight.reshape(self._outputs, self.layer.array.shape[1], *size)
        cut = [(gone, gone) for gone in self._cut(size)]
        return [Factor(rows, self._axes, {"pads": self._pads(size)}, cut=cut)]

    def told(self, rank: int) -> str:
        """The size, as ``layers`` takes it."""
        return "smaller:" + "x".join(map(str, self._sizes[rank - 1]))

    def _cut(self, size: Sequence[int]) -> list[int]:
        """Taps that are gone on each side."""
        return [(whole - part) // 2 for whole, part in zip(self.layer.kernel, size, strict=True)]

    def _pads(self, size: Sequence[int]) -> list[int]:
        """Of the window; negative where it would have to read less than there is."""
        attributes, axes = self.layer.node.attributes, len(self.layer.kernel)
        pads = attributes.get_ints("pads", [0] * (2 * axes))
        dilations = attributes.get_ints("dilations", [1] * axes)
        cut = [d * gone for d, gone in zip(dilations, self._cut(size), strict=True)]
        return [pad - less for pad, less in zip(pads, [*cut, *cut], strict=True)]


class Stacked(Form):
    """Two kernels one behind the other that reach as far together, with ``rank`` channels between.

    The first keeps all pads and the second all strides, so that together they are one convolution.
    """

    name = "stacked"

    def __init__(self, layer: Factorable, target: Target, positions: Positions, align: int = 1) -> None:
        super().__init__(layer, target, positions, align)
        self._behind = tuple(3 if n > 3 else 1 for n in layer.kernel)
        self._first = tuple(n - m + 1 for n, m in zip(layer.kernel, self._behind, strict=True))
        self._solved: tuple[int, Separable] | None = None

    @property
    def largest(self) -> int:
        """As many as make no more of the second kernel's inputs than the window has."""
        return self.layer.inputs // prod(self._behind)

    @cached_property
    def ranks(self) -> list[int]:
        """Those that make it cheaper by enough; none where the kernel is not larger than 3."""
        return super().ranks if prod(self._behind) > 1 else []

    def _separable(self, rank: int) -> Separable:
        if self._solved is None or self._solved[0] < rank:
            most = max([rank, *self.ranks])
            inputs = np.arange(self.layer.inputs).reshape(self._inputs, *self.layer.kernel)
            parts = [
                inputs[(slice(None), *(slice(a, a + n) for a, n in zip(at, self._first, strict=True)))]
                for at in np.ndindex(*self._behind)
            ]
            order = np.concatenate([part.reshape(-1) for part in parts])
            self._solved = most, Separable(Parts(self.target, order, len(parts)), most)
        return self._solved[1]

    def costs(self, rank: int) -> tuple[Cost, ...]:
        """The first works at every position that the second reads."""
        attributes, axes = self.layer.node.attributes, len(self.layer.kernel)
        pads = attributes.get_ints("pads", [0] * (2 * axes))
        dilations = attributes.get_ints("dilations", [1] * axes)
        read = [
            max(1, size + pads[axis] + pads[axis + axes] - dilations[axis] * (self._first[axis] - 1))
            for axis, size in enumerate(self._positions.read)
        ]
        first = self._cost(rank, self._inputs * prod(self._first), read)
        return first, self._cost(self._outputs, rank * prod(self._behind), self._positions.made)

    def lost(self, rank: int) -> float:
        """See ``Separable.lost``."""
        return self._separable(rank).lost(rank)

    def factors(self, rank: int) -> list[Factor]:
        """(rank, inputs, *kernel), then (outputs, rank, *kernel)."""
        first, second = self._separable(rank).factors(rank)
        axes = len(self._axes)
        return [
            Factor(first.reshape(rank, self._inputs, *self._first), self._axes, {"strides": [1] * axes}),
            Factor(
                second.swapaxes(1, 2).reshape(self._outputs, rank, *self._behind),
                self._axes,
                {"pads": [0] * (2 * axes)},
            ),
        ]

    def told(self, rank: int) -> str:
        """The channels between, as ``layers`` takes them."""
        return f"stacked:{rank}"


def forms_of(
    layer: Factorable, target: Target, positions: Positions, kinds: Sequence[Kind], multiplier: int
) -> list[Form]:
    """The forms of these kinds that a layer has; multiplier: the largest offered."""
    made: list[Form] = []
    if max(layer.kernel, default=1) == 1 or layer.automatic:
        return made
    plain = layer.groups == 1
    if "separable" in kinds and plain and layer.array.shape[1] > 1:
        form = SeparableForm(layer, target, positions)
        form.multiplier = multiplier
        made.append(form)
    if "smaller_kernel" in kinds:
        made.append(Smaller(layer, target, positions))
        if plain and max(layer.kernel) > 3:
            made.append(Stacked(layer, target, positions, align=8))
    return made
