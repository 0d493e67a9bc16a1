"""Which form should each item take so that all weigh little enough, at the least cost? Solved exactly."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Option:
    """One form of an item: what it weighs, not negative and perhaps not finite, and what it costs."""

    weight: float
    cost: float


def cheapest_choice(items: Mapping[str, Mapping[str, Option]], allowed: float) -> dict[str, str]:
    """One option of each item, by name, that weigh at most ``allowed`` together, at the least cost.

    The multiple-choice knapsack problem (Kellerer, Pferschy and Pisinger 2004, "Knapsack Problems", chapter
    11): minimize Σ c_ij x_ij subject to Σ w_ij x_ij ≤ allowed and Σ_j x_ij = 1 with x_ij in {0, 1}, solved by
    branch and bound (scipy's HiGHS). Of equally cheap options an earlier one is preferred. An option whose
    weight is not finite is never chosen; every item needs one whose is. Where no choice weighs little enough
    the lightest is returned.
    """
    from scipy.optimize import Bounds, LinearConstraint, milp
    from scipy.sparse import csr_array

    names = [
        (item, option) for item, options in items.items() for option in options if _finite(options[option])
    ]
    lightest = {item: min(options, key=lambda o: options[o].weight) for item, options in items.items()}
    weights = np.array([items[item][option].weight for item, option in names])
    costs = np.array([items[item][option].cost for item, option in names])
    least = sum(items[item][option].weight for item, option in lightest.items())
    if not names or least > allowed:
        return lightest
    # In parts of their sums both are of a size the solver's tolerances are made for.
    total = float(weights.sum()) or 1.0
    rank = {item: {option: i for i, option in enumerate(options)} for item, options in items.items()}
    price = costs / (float(np.abs(costs).sum()) or 1.0) + 1e-9 * np.array([rank[i][o] for i, o in names])
    rows = {item: row for row, item in enumerate(items)}
    where = ([rows[item] for item, _ in names], list(range(len(names))))
    one_each = csr_array((np.ones(len(names)), where), shape=(len(items), len(names)))
    solved = milp(
        price,
        constraints=[
            LinearConstraint(weights[None, :] / total, -np.inf, allowed / total),
            LinearConstraint(one_each, 1.0, 1.0),
        ],
        integrality=np.ones(len(names), dtype=np.int64),
        bounds=Bounds(0, 1),
    )
    if solved.x is None:
        return lightest
    return {item: option for (item, option), x in zip(names, solved.x, strict=True) if x > 0.5}


def _finite(option: Option) -> bool:
    return bool(np.isfinite(option.weight))
