"""Losses of classification: NegativeLogLikelihoodLoss, SoftmaxCrossEntropyLoss."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional

from hasten.bridge.operator import Call, Function, operator

_NO_CLASS = -100


def _negative_log_likelihood(call: Call) -> Callable[[Tensor, Tensor, Tensor | None], Tensor]:
    reduction = call.text("reduction", "mean")
    if reduction not in ("mean", "sum", "none"):
        raise call.wrong(f"has an unknown reduction {reduction!r}")
    ignored = call.integer("ignore_index") if call.given("ignore_index") else _NO_CLASS
    return lambda logs, target, weight: functional.nll_loss(
        logs, target.to(torch.int64), weight, ignore_index=ignored, reduction=reduction
    )


@operator("NegativeLogLikelihoodLoss")
def negative_log_likelihood(call: Call) -> Function:
    """Minus the log-probability of the target class, weighted by class."""
    loss = _negative_log_likelihood(call)
    return lambda logs, target, weight=None: loss(logs, target, weight)


@operator("SoftmaxCrossEntropyLoss")
def softmax_cross_entropy(call: Call) -> Function:
    """Negative log-likelihood of the scores' softmax over axis 1; log-probabilities as the second output."""
    loss = _negative_log_likelihood(call)
    both = len(call.wanted) > 1

    def run(scores: Tensor, target: Tensor, weight: Tensor | None = None) -> tuple[Tensor, Tensor] | Tensor:
        logs = torch.log_softmax(scores, 1)
        found = loss(logs, target, weight)
        return (found, logs) if both else found

    return run
