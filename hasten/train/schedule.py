"""How does the learning rate go? Closed forms of the number of the optimizer step."""

from __future__ import annotations

import math


def factor(schedule: str, step: int, steps: int, warmup: float) -> float:
    """The learning rate of optimizer step ``step`` (from 0) of ``steps``, as a part of the highest one.

    With w = round(warmup · steps): (step + 1) / w for the first w steps; then, with p the part done of the
    rest, 1 (``constant``), 1 − p (``linear``) or (1 + cos πp) / 2 (``cosine``; Loshchilov and Hutter 2017,
    "SGDR: Stochastic Gradient Descent with Warm Restarts", equation 5, without restarts).
    """
    rising = round(warmup * steps)
    if step < rising:
        return (step + 1) / rising
    done = (step - rising) / max(1, steps - rising)
    if schedule == "constant":
        return 1.0
    return 1.0 - done if schedule == "linear" else 0.5 * (1.0 + math.cos(math.pi * done))
