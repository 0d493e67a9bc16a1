"""A scale of the plot: from data units to per cent, with ticks at round values."""

from __future__ import annotations

import math
from dataclasses import dataclass


@dataclass(frozen=True)
class Axis:
    """A scale from ``low`` to ``high`` (data units, low < high) onto 0 to ``span`` per cent.

    log: logarithmic; ``low`` is then positive.
    """

    low: float
    high: float
    log: bool = False
    span: float = 100.0

    def at(self, value: float) -> float:
        """Position in per cent, held inside the scale."""
        low, high, v = self.low, self.high, min(max(value, self.low), self.high)
        if self.log:
            low, high, v = math.log(low), math.log(high), math.log(v)
        return round(self.span * (v - low) / (high - low), 3)

    def ticks(self) -> list[float]:
        """Round values inside the scale: steps of 1-2-5, at most eight of them."""
        if self.log:
            exponents = range(math.floor(math.log10(self.low)), math.ceil(math.log10(self.high)) + 1)
            for mantissas in ((1, 2, 5), (1, 1.5, 2, 3, 5, 7), (1,)):
                every = [m * 10.0**e for e in exponents for m in mantissas]
                inside = [t for t in every if self.low <= t <= self.high]
                if 3 <= len(inside) <= 8:
                    return inside
        raw = (self.high - self.low) / 5
        power = 10.0 ** math.floor(math.log10(raw))
        step = next(m * power for m in (1, 2, 5, 10) if raw <= m * power * 1.0001)
        first, last = math.ceil(self.low / step - 1e-9), math.floor(self.high / step + 1e-9)
        return [i * step for i in range(first, last + 1)]


def tick(value: float) -> str:
    """A tick's text: no more digits than it needs."""
    return f"{round(value, 9) + 0.0:.6g}".replace("-", "\N{MINUS SIGN}")
