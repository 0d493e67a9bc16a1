"""The optimizer: which weights decay, and its state by name of the weight."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from hasten.train.settings import Settings

PACE = "pace"
"""In a group of weights: what the learning rate is multiplied by."""
_LEAST_PACE = 1e-3
"""Where a weight is zero, as new biases are (Shazeer and Stern 2018, section 8: ε₂)."""


def make(module: nn.Module, settings: Settings) -> torch.optim.Optimizer:
    """The optimizer of the weights that require a gradient.

    Weight decay is for what multiplies activations: not for biases and scales, which have one axis.
    AdamW: Loshchilov and Hutter 2019, "Decoupled Weight Decay Regularization", algorithm 2. It moves every
    number by about the learning rate, whatever the gradient's size, and the scale of a rounding may be
    smaller than that: scales move by a share of what they are (a relative step size, as in Shazeer and Stern
    2018, "Adafactor", section 8). With ``relative`` all weights do: where normalizations are folded into
    convolutions, one layer's numbers are a hundred times another's.
    """
    scales: set[str] = getattr(module, "scales", set())
    decayed: list[nn.Parameter] = []
    others: list[nn.Parameter] = []
    groups: list[dict[str, Any]] = []
    for name, weight in module.named_parameters():
        if not weight.requires_grad:
            continue
        wide = sum(size > 1 for size in weight.shape) > 1
        if settings.optimizer == "adamw" and name in scales:
            pace = float(weight.detach().abs().mean())
            groups.append({"params": [weight], "weight_decay": 0.0, PACE: pace})
        elif settings.optimizer == "adamw" and settings.relative:
            pace = max(float(weight.detach().square().mean().sqrt()), _LEAST_PACE)
            # The rate that the pace is in also shrinks weights, which is a share of them already.
            decay = settings.weight_decay / pace if wide else 0.0
            groups.append({"params": [weight], "weight_decay": decay, PACE: pace})
        else:
            (decayed if wide else others).append(weight)
    groups += [
        {"params": weights, "weight_decay": decay, PACE: 1.0}
        for weights, decay in ((decayed, settings.weight_decay), (others, 0.0))
        if weights
    ]
    if settings.optimizer == "sgd":
        return torch.optim.SGD(groups, lr=settings.learning_rate, momentum=settings.momentum)
    return torch.optim.AdamW(groups, lr=settings.learning_rate)


def names(optimizer: torch.optim.Optimizer, module: nn.Module) -> list[str]:
    """The names of the optimizer's weights, in its order."""
    known = {id(weight): name for name, weight in module.named_parameters()}
    return [known[id(w)] for group in optimizer.param_groups for w in group["params"]]


def take_state(optimizer: torch.optim.Optimizer, module: nn.Module) -> dict[str, Tensor]:
    """The optimizer's tensors as ``weight:key``."""
    order = names(optimizer, module)
    return {
        f"{order[i]}:{key}": value
        for i, entries in optimizer.state_dict()["state"].items()
        for key, value in entries.items()
        if isinstance(value, Tensor)
    }


def take_groups(optimizer: torch.optim.Optimizer) -> list[list[float]]:
    """Pace and weight decay of each group; both may follow from what the weights were at first."""
    return [[group[PACE], group["weight_decay"]] for group in optimizer.param_groups]


def put_state(
    optimizer: torch.optim.Optimizer,
    module: nn.Module,
    kept: dict[str, Tensor],
    groups: list[list[float]],
) -> None:
    """Put back what ``take_state`` and ``take_groups`` gave."""
    for group, (pace, decay) in zip(optimizer.param_groups, groups, strict=True):
        group[PACE], group["weight_decay"] = pace, decay
    place = {name: i for i, name in enumerate(names(optimizer, module))}
    state: dict[int, dict[str, Tensor]] = {}
    for label, value in kept.items():
        name, _, key = label.rpartition(":")
        # Step counters stay on the CPU, where torch's optimizers keep them.
        state.setdefault(place[name], {})[key] = value.cpu() if key == "step" else value
    now = optimizer.state_dict()["param_groups"]
    optimizer.load_state_dict({"state": state, "param_groups": now})
