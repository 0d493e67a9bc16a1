"""Which weights does a penalty set to zero? The proximal step of L1 and the group lasso, and its pace.

With the penalty t · Σ_g ‖w_g‖ over groups g of weights that stand or fall together, the proximal operator

    prox(v) = argmin over w of ½‖w − v‖² + t Σ_g ‖w_g‖

has a closed form: every group shrinks by t in length and keeps its direction, and a group no longer than t
becomes zero. Groups of one weight each give soft thresholding, the proximal operator of L1. A gradient step
on the loss followed by this step minimizes the sum of loss and penalty; unlike a gradient of the penalty it
gives zeros that are exact.

Sources: Wen, Wu, Wang, Chen and Li 2016, "Learning Structured Sparsity in Deep Neural Networks", equations 2
and 3 (the penalty); Parikh and Boyd 2014, "Proximal Algorithms", sections 4.2 and 6.5 (proximal gradient,
soft thresholding of groups); Wang, Qin, Zhang and Fu 2021, "Neural Pruning via Growing Regularization",
section 3 (a penalty on those alone that are to go, which grows).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray


def shrinkage(lengths: NDArray[Any], by: NDArray[Any]) -> NDArray[np.float64]:
    """What each group is multiplied by, max(0, 1 − by / length); 1 where ``by`` is 0, else 0 for length 0.

    lengths: ‖v_g‖, none negative. by: how much shorter each becomes, t; both of one shape.
    """
    wide = np.asarray(lengths, np.float64)
    taken = np.divide(by, wide, out=np.ones_like(wide), where=wide > 0)
    return np.where(np.asarray(by) > 0, np.maximum(1.0 - taken, 0.0), 1.0)


def growing(rates: Sequence[float]) -> NDArray[np.float64]:
    """Which part of all shrinking falls into each step; the parts add up to 1.

    The weight λ of the penalty grows in proportion to the steps done, and a proximal step shrinks by λ times
    the learning rate η: part s is η_s (s + 1) over the sum of these. rates: η of every step, of any unit, not
    all zero.
    """
    parts = np.asarray(rates, np.float64) * np.arange(1, len(rates) + 1)
    return np.asarray(parts / parts.sum())
