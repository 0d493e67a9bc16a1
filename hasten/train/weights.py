"""Copies of a module's weights: put aside, put back, averaged."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from hasten.core.errors import TrainingError
from hasten.train.settings import Settings


def take(module: nn.Module) -> dict[str, Tensor]:
    """A copy of all weights and statistics, by name."""
    return {n: t.detach().clone() for n, t in module.state_dict().items() if isinstance(t, Tensor)}


@torch.no_grad()
def put(module: nn.Module, weights: Mapping[str, Tensor]) -> None:
    """Write weights into a module; the names must be the same (KeyError)."""
    for name, tensor in module.state_dict().items():
        if isinstance(tensor, Tensor):
            tensor.copy_(weights[name])


def refuse_broken(module: nn.Module, when: str, settings: Settings) -> None:
    """Raise TrainingError where a trained weight holds what is no number.

    A gradient may be none where the loss is a number, and after the last step no loss would tell.
    """
    for name, weight in module.named_parameters():
        if weight.requires_grad and not bool(torch.isfinite(weight).all()):
            raise TrainingError(
                f"{name} holds no numbers {when}: lower learning_rate (now {settings.learning_rate:g}), or "
                "hold samples back (held_back)"
            )


class Average:
    """The exponential moving average of the trained weights, and of the statistics where they are learned.

    After update t (from 1) it moves by 1 − d towards the weights, d = min(decay, (1 + t) / (10 + t)): the
    first weights, which are far from the last, do not stay in it. Polyak and Juditsky 1992, "Acceleration of
    Stochastic Approximation by Averaging", average all; the decay forgets.
    """

    def __init__(self, module: nn.Module, decay: float, *, statistics: bool = False) -> None:
        self.decay = decay
        self.updates = 0
        self._weights: dict[str, Tensor] = {n: w for n, w in module.named_parameters() if w.requires_grad}
        if statistics:
            self._weights |= {n: b for n, b in module.named_buffers() if b.is_floating_point()}
        self.shadow = {name: weight.detach().clone() for name, weight in self._weights.items()}

    @torch.no_grad()
    def update(self) -> None:
        """Take in the weights after an optimizer step."""
        self.updates += 1
        decay = min(self.decay, (1 + self.updates) / (10 + self.updates))
        live = [self._weights[name].detach() for name in self.shadow]
        torch._foreach_lerp_(list(self.shadow.values()), live, 1 - decay)

    @torch.no_grad()
    def restore(self, shadow: Mapping[str, Tensor], updates: int) -> None:
        """Go on from a kept average."""
        for name, tensor in self.shadow.items():
            tensor.copy_(shadow[name])
        self.updates = updates

    @contextmanager
    def applied(self) -> Iterator[None]:
        """Within it the module has the averaged weights."""
        self._swap()
        try:
            yield
        finally:
            self._swap()

    @torch.no_grad()
    def settle(self) -> None:
        """Leave the averaged weights in the module for good."""
        for name, tensor in self.shadow.items():
            self._weights[name].copy_(tensor)

    @torch.no_grad()
    def _swap(self) -> None:
        for name, tensor in self.shadow.items():
            held = tensor.clone()
            tensor.copy_(self._weights[name])
            self._weights[name].copy_(held)
