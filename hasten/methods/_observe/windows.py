"""What a convolution's windows cut out of its input, at some of their positions.

Only the places that these windows read are gathered: most inputs are much larger than what is looked at.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from hasten.core.data import Array


@dataclass(frozen=True)
class Axis:
    """The window along one axis of space; before, after: how much padding there is."""

    kernel: int
    stride: int
    dilation: int
    before: int
    after: int

    def count(self, size: int) -> int:
        """Positions of the window on an input of this size."""
        reach = self.dilation * (self.kernel - 1) + 1
        return max(0, (size + self.before + self.after - reach) // self.stride + 1)

    def read(self, positions: Array) -> Array:
        """The coordinates that the window reads there, of shape (positions, kernel); padding lies outside."""
        starts = positions * self.stride - self.before
        return np.asarray(starts[:, None] + np.arange(self.kernel) * self.dilation)


def axes_of(node: ir.Node, kernel: Sequence[int]) -> list[Axis]:
    """The axes of a convolution whose padding is given."""

    def told(name: str, default: int, count: int) -> list[int]:
        return list(node.attributes.get_ints(name, [default] * count))

    count = len(kernel)
    pads = told("pads", 0, 2 * count)
    rows = zip(
        kernel,
        told("strides", 1, count),
        told("dilations", 1, count),
        pads[:count],
        pads[count:],
        strict=True,
    )
    return [Axis(*row) for row in rows]


def windows(values: Array, axes: Sequence[Axis], choose: Callable[[int], Array]) -> Array:
    """What is cut out of values of shape (batch, channels, *space): (batch, channels, positions, kernel).

    choose: the positions looked at, given how many there are.
    """
    batch, channels, *space = values.shape
    counts = [axis.count(size) for axis, size in zip(axes, space, strict=True)]
    chosen = np.unravel_index(choose(int(np.prod(counts))), counts)
    place = np.zeros((len(chosen[0]), 1), dtype=np.int64)
    inside = np.ones_like(place, dtype=bool)
    for axis, size, positions in zip(axes, space, chosen, strict=True):
        along = axis.read(positions)[:, None, :]
        place = (place[:, :, None] * size + np.clip(along, 0, size - 1)).reshape(len(place), -1)
        inside = (inside[:, :, None] & (along >= 0) & (along < size)).reshape(place.shape)
    cut = values.reshape(batch, channels, -1)[:, :, place.reshape(-1)]
    cut = cut.reshape(batch, channels, *place.shape)
    return cut if inside.all() else np.where(inside, cut, np.zeros((), values.dtype))
