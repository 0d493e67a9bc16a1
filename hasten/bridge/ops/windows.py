"""How do windows slide? Paddings of convolutions and pools, from attributes and sizes."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor
from torch.nn import functional

from hasten.bridge.operator import Call

Sizes = tuple[int, ...]


@dataclass(frozen=True)
class Window:
    """Strides, dilations and padding of a node, as its attributes give them.

    Attributes that are not given are empty: the rank is then only known at run time, and torch takes one
    number for all axes. ``auto_pad`` is NOTSET, VALID, SAME_UPPER or SAME_LOWER; ``pads`` holds the
    beginnings of all axes, then the ends.
    """

    strides: Sizes
    dilations: Sizes
    pads: Sizes
    auto_pad: str
    ceil: bool

    @staticmethod
    def of(call: Call) -> Window:
        """Read the attributes; raises ModelError for an unknown ``auto_pad``."""
        auto_pad = call.text("auto_pad", "NOTSET")
        if auto_pad not in ("NOTSET", "VALID", "SAME_UPPER", "SAME_LOWER"):
            raise call.wrong(f"has an unknown auto_pad {auto_pad!r}")
        pads = call.integers("pads", ()) if auto_pad == "NOTSET" else ()
        return Window(
            strides=call.integers("strides", ()),
            dilations=call.integers("dilations", ()),
            pads=pads,
            auto_pad=auto_pad,
            ceil=bool(call.integer("ceil_mode", 0)) and not auto_pad.startswith("SAME"),
        )

    @property
    def is_fixed(self) -> bool:
        """Whether the padding does not depend on sizes."""
        return not self.auto_pad.startswith("SAME")

    @property
    def symmetric(self) -> Sizes | None:
        """The padding of each axis where both sides have the same, else None; (0,) for none at all."""
        if not self.is_fixed:
            return None
        if not any(self.pads):
            return (0,)
        half = len(self.pads) // 2
        first, last = self.pads[:half], self.pads[half:]
        return first if first == last and min(first) >= 0 else None

    def over(self, rank: int) -> tuple[Sizes, Sizes]:
        """Strides and dilations of ``rank`` axes."""
        return self.strides or (1,) * rank, self.dilations or (1,) * rank

    def padding(self, sizes: Sequence[int], kernel: Sequence[int]) -> tuple[Sizes, Sizes]:
        """Padding before and after each axis of these sizes (ONNX, AveragePool, ``auto_pad``)."""
        rank = len(sizes)
        if self.is_fixed:
            pads = self.pads or (0,) * (2 * rank)
            return pads[:rank], pads[rank:]
        strides, dilations = self.over(rank)
        total = [
            max(0, (math.ceil(n / s) - 1) * s + (k - 1) * d + 1 - n)
            for n, s, d, k in zip(sizes, strides, dilations, kernel, strict=True)
        ]
        less, more = tuple(t // 2 for t in total), tuple(t - t // 2 for t in total)
        return (less, more) if self.auto_pad == "SAME_UPPER" else (more, less)

    def overhang(self, sizes: Sequence[int], kernel: Sequence[int]) -> Sizes:
        """How far, with ``ceil_mode``, the last window reaches beyond the padded end of each axis.

        A last window that would begin in the padding at the end is left out (ONNX, MaxPool).
        """
        if not self.ceil:
            return (0,) * len(sizes)
        before, after = self.padding(sizes, kernel)
        strides, dilations = self.over(len(sizes))
        found = []
        for n, s, d, k, b, a in zip(sizes, strides, dilations, kernel, before, after, strict=True):
            reach = (k - 1) * d + 1
            last = math.ceil((n + b + a - reach) / s)
            last -= last * s >= n + b
            found.append(max(0, last * s + reach - (n + b + a)))
        return tuple(found)


def pad(x: Tensor, before: Sequence[int], after: Sequence[int], value: float = 0.0) -> Tensor:
    """Pad (or, where negative, crop) the last axes."""
    if not any(before) and not any(after):
        return x
    sides = [p for b, a in zip(reversed(before), reversed(after), strict=True) for p in (b, a)]
    return functional.pad(x, sides, value=value)
