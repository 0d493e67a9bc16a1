"""What may be spent and what may be lost."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal

from hasten.core.errors import InputError

Objective = Literal["latency", "throughput", "size"]

_TIME_UNITS_S = {"s": 1.0, "m": 60.0, "h": 3600.0}


@dataclass(frozen=True, kw_only=True)
class Budget:
    """The constraints of a run.

    max_drop: largest loss of quality accepted. Relative to the original's value unless ``points`` is true,
        in which case it is an absolute difference in the metric's own unit.
    time_s: seconds the search may take; the trial under way when it ends is finished.
    objective: what is made best within ``max_drop``.
    """

    max_drop: float = 0.01
    points: bool = False
    time_s: float = 300.0
    objective: Objective = "latency"

    def __post_init__(self) -> None:
        if not 0.0 <= self.max_drop < 1e6:
            raise InputError(
                f"max_drop is {self.max_drop}: give 0.01 or '1%' for one per cent of the original"
            )
        if not self.points and self.max_drop > 1.0:
            raise InputError(
                f"max_drop is {self.max_drop}: a relative drop cannot exceed 1 (100%); write '1%' for 1 %"
            )
        if self.time_s <= 0:
            raise InputError(f"time budget is {self.time_s} s: it must be positive")

    def allowed(self, reference: float) -> float:
        """The largest drop in the metric's own unit, given the original's value."""
        return self.max_drop if self.points else self.max_drop * abs(reference)


def parse_drop(text: str) -> tuple[float, bool]:
    """Read ``1%`` (relative), ``0.01`` (relative) or ``0.5pt`` (absolute, in the metric's unit times 0.01).

    Returns the number and whether it is absolute. Raises InputError for anything else.
    """
    found = re.fullmatch(r"\s*([0-9]*\.?[0-9]+(?:[eE][-+]?[0-9]+)?)\s*(%|pts?|points?)?\s*", text)
    if not found:
        raise InputError(
            f"--max-drop {text!r} is not a drop: write 1% (of the original), 0.01, or 0.5pt (points)"
        )
    value, unit = float(found[1]), found[2]
    if unit is None:
        if value >= 1:
            raise InputError(f"--max-drop {text!r} could mean two things: write 1% or 0.01 for one per cent")
        return value, False
    return value / 100.0, unit != "%"


def parse_seconds(text: str) -> float:
    """Read a duration such as ``90s``, ``5m``, ``1h``, ``1h30m`` or plain seconds; raises InputError."""
    whole = text.strip().lower()
    if re.fullmatch(r"[0-9]*\.?[0-9]+", whole):
        return float(whole)
    parts = re.findall(r"([0-9]*\.?[0-9]+)([smh])", whole)
    if not parts or "".join(n + u for n, u in parts) != whole:
        raise InputError(f"--time-budget {text!r} is not a duration: write 90s, 5m or 1h30m")
    return sum(float(number) * _TIME_UNITS_S[unit] for number, unit in parts)
