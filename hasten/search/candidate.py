"""One thing to try: a recipe on a target with options."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field

from hasten.core.recipe import Recipe, Step
from hasten.core.record import Scalar

CLEAN = Step("optimize_graph")
"""The exact step every recipe starts with: it costs no quality and makes the rest possible."""


@dataclass(frozen=True)
class Candidate:
    """A recipe, the target it is exported to, and the options it runs with.

    shapes: input shapes fixed for this candidate alone, to learn what fixing them would gain; such a
    candidate does not do what the user's model does, so it is measured but never chosen.
    """

    recipe: Recipe
    target: str
    options: Mapping[str, Scalar] = field(default_factory=dict)
    shapes: Mapping[str, tuple[int, ...]] = field(default_factory=dict)

    @property
    def id(self) -> str:
        """Ten hexadecimal digits that name the candidate; the same in every run."""
        parts = [
            self.recipe.to_dict(),
            self.target,
            dict(self.options),
            {k: list(v) for k, v in self.shapes.items()},
        ]
        return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:10]

    @property
    def selectable(self) -> bool:
        """Whether it may be chosen."""
        return not self.shapes

    def with_options(self, **options: Scalar) -> Candidate:
        """The same recipe and target with some options changed."""
        return Candidate(self.recipe, self.target, {**self.options, **options}, self.shapes)

    def __str__(self) -> str:
        shown = ", ".join(f"{k}={v}" for k, v in self.options.items() if k != "threads")
        fixed = ", ".join(f"{k} fixed to {'x'.join(map(str, v))}" for k, v in self.shapes.items())
        extra = "; ".join(part for part in (shown, fixed) if part)
        return f"{self.recipe} on {self.target}" + (f" ({extra})" if extra else "")
