"""Which items to take out so that what remains weighs little enough, at the least cost? Solved exactly."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np


def cheapest_cover(
    weights: Mapping[str, float], costs: Mapping[str, float], allowed: float
) -> frozenset[str]:
    """The items to take out so that those that remain weigh at most ``allowed`` together, at the least cost.

    weights: of every item, not negative; one that is not finite is taken out. costs: of taking it out;
    a negative one is a gain, and such an item is taken out in any case. This is the 0/1 knapsack
    problem: minimize Σ cᵢ eᵢ subject to Σ wᵢ (1 - eᵢ) ≤ allowed, solved by branch and bound (scipy's HiGHS).
    """
    from scipy.optimize import Bounds, LinearConstraint, milp

    names = list(weights)
    forced = {n for n in names if not np.isfinite(weights[n]) or costs[n] < 0}
    free = [n for n in names if n not in forced and weights[n] > 0]
    total = sum(weights[n] for n in free)
    if total <= allowed:
        return frozenset(forced)
    # In parts of their sums both are of a size the solver's tolerances are made for.
    heavy = np.array([weights[n] for n in free]) / total
    price = np.array([costs[n] for n in free])
    price = price / (price.sum() or 1.0)
    solved = milp(
        price + 1e-9,  # of equally cheap choices the one with fewest items
        constraints=LinearConstraint(heavy[None, :], 1.0 - max(allowed, 0.0) / total, np.inf),
        integrality=np.ones(len(free), dtype=np.int64),
        bounds=Bounds(0, 1),
    )
    taken = (
        frozenset(free) if solved.x is None else {n for n, x in zip(free, solved.x, strict=True) if x > 0.5}
    )
    return frozenset(forced | taken)
