"""How much is left when so much of a schedule is done."""

from __future__ import annotations

from typing import Literal, TypeAlias

from hasten.methods import Amount

Form: TypeAlias = Literal["geometric", "cubic"]


def left_after(form: Form, done: float, to: float) -> float:
    """The share left, from 1 at ``done`` = 0 to ``to`` at ``done`` = 1.

    ``geometric``: to^done, so that equal parts of the schedule leave equal shares of what was there before
    them. ``cubic``: 1 − (1 − to)(1 − (1 − done)³); Zhu and Gupta 2017, "To prune, or not to prune: exploring
    the efficacy of pruning for model compression", equation 1, with initial sparsity 0.
    """
    if form == "geometric":
        return float(to**done)
    return 1.0 - (1.0 - to) * (1.0 - (1.0 - done) ** 3)


def asked(amount: Amount, target: float, left: float) -> float | None:
    """The method's hyper-parameter that leads from ``left`` to ``target``; None where nothing is to go."""
    if target >= left:
        return None
    if amount.says == "zeros":
        return 1.0 - target
    share = target / left
    return share if amount.says == "left" else 1.0 - share
