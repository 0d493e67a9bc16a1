"""Which share of a model to leave next, given what became of others?"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from math import sqrt
from typing import TypeAlias

from hasten.core.recipe import Recipe, Step
from hasten.core.record import Quality

__all__ = ["FIRST", "MOST", "RISKY", "Shares", "Size"]

Size: TypeAlias = tuple[int, int]
"""Multiply-accumulates and parameters."""

FIRST = 0.75
"""Share of the multiply-accumulates, heads or branches that is left at first."""
MOST = 0.95
"""A share beyond saves less than timing can tell."""
RISKY = 0.5
"""Part of what may be lost beyond which what held here may not hold on the holdout."""
_APART = 0.03
"""Shares of what held and what did not between which there is nothing more to find."""
_STEP = (0.2, 0.8)
"""Of the way from what held to what did not, a next share is within these."""


@dataclass(frozen=True)
class _Tried:
    """A share that was left, what of the metric was lost by it, and what may be."""

    share: float
    drop: float
    allowed: float

    @classmethod
    def of(cls, share: float, quality: Quality) -> _Tried:
        """A share and what became of it."""
        return cls(share, quality.drop, quality.allowed)

    def towards(self, failed: _Tried) -> float:
        """The share between the two at which no more would be lost than may be, if that grew as a square."""
        low, high = _STEP
        part = sqrt(max(failed.allowed - self.drop, 0.0) / max(failed.drop - self.drop, 1e-12))
        return self.share + (failed.share - self.share) * min(max(part, low), high)


@dataclass
class Shares:
    """What is known of one way to make a model smaller.

    held: the least share that held; failed: the greatest that did not; took_s: what making one took last.
    """

    held: _Tried = _Tried(1.0, 0.0, 0.0)
    failed: _Tried | None = None
    took_s: float = 0.0
    _safe: bool = False
    _made: list[tuple[float, Sequence[Step]]] = field(default_factory=list)
    _outcomes: dict[Size, Quality] = field(default_factory=dict)

    @property
    def bounded(self) -> bool:
        """Whether it is known of one share that it holds, and of a lesser that it does not."""
        return self.held.share < 1.0 and self.failed is not None

    def made(self, share: float, steps: Sequence[Step], seconds: float) -> None:
        """Note by which steps a share was left, and what making them took."""
        self._made.append((share, steps))
        self.took_s = seconds

    def outcome(self, size: Size) -> Quality | None:
        """What became of a structure of this size: where widths are whole blocks, shares coincide."""
        return self._outcomes.get(size)

    def take(self, share: float, size: Size, quality: Quality) -> None:
        """Note what became of a share."""
        self._outcomes[size] = quality
        tried = _Tried.of(share, quality)
        if quality.budget == "missed":
            self.failed = tried
            return
        self.held = tried
        self._safe = self._safe or tried.drop <= RISKY * tried.allowed
        if self.failed is not None and self.failed.share >= share:
            self.failed = None

    def next(self) -> float | None:
        """The share to try next; None where there is nothing more to find between the two."""
        if self.failed is None:
            return self.held.share * FIRST
        close = self.held.share - self.failed.share < _APART
        return None if close else self.held.towards(self.failed)

    def milder(self) -> float | None:
        """A share to fall back on; None where one that held lost little enough to hold elsewhere, too."""
        return (1.0 + self.held.share) / 2 if self.held.share < 1.0 and not self._safe else None

    def stand(self, recipe: Recipe, quality: Quality) -> None:
        """Begin again at a recipe, which may have other steps besides and have less taken by this way."""
        self._outcomes = {}
        taken = ((share, steps) for share, steps in self._made if steps)
        left = (share for share, steps in taken if all(step in recipe.steps for step in steps))
        share = next(left, 1.0)
        if share > self.held.share:
            self.failed = None  # as far as is known, more of it holds
        self.held = _Tried.of(share, quality)
