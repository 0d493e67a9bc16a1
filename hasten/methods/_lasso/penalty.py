"""The proximal step of each penalty on the weights of a training; formulas: ``hasten.numerics.proximal``."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from hasten.core.data import Array
from hasten.methods._lasso.groups import Member, Small
from hasten.numerics.proximal import growing, shrinkage

if TYPE_CHECKING:
    from torch import Tensor

    from hasten.train import Pace


class _Growing:
    """A penalty that all in all shrinks by ``strength`` times the length at the start what nothing holds."""

    final = True

    def __init__(self, strength: float) -> None:
        self.strength = strength
        self._parts: tuple[Sequence[float], NDArray[np.float64]] | None = None

    def now(self, pace: Pace) -> float:
        """By which part of its length at the start a group shrinks in this step."""
        return self.strength * float(self._done(pace)[pace.step])

    def _done(self, pace: Pace) -> NDArray[np.float64]:
        """The part of all shrinking that falls into each step."""
        if self._parts is None or self._parts[0] is not pace.rates:
            self._parts = pace.rates, growing(pace.rates)
        return self._parts[1]

    def given_up(self, pace: Pace) -> float:
        """Which part of what a group gave to the layers that read it is lost in this step.

        Where a channel is made and where it is read it has r of its length, so it gives r² of what it gave.
        """
        done = np.cumsum(self._done(pace)[: pace.step + 1])
        before = max(1.0 - self.strength * float(done[-2]), 0.0) if len(done) > 1 else 1.0
        return before**2 - max(1.0 - self.strength * float(done[-1]), 0.0) ** 2


class GroupLasso(_Growing):
    """Shrinks groups that lie in several tensors. Entries in two groups shrink with both.

    instead: what is added to weights, all in all, for what is left to stand in for what goes.
    """

    def __init__(
        self, members: Sequence[Member], count: int, strength: float, instead: Mapping[str, Array]
    ) -> None:
        super().__init__(strength)
        self._instead = instead
        self._members = members
        self._count = count
        arrays = [a for m in members for a in (m.groups, m.squares)] + list(instead.values())
        self.identity = _digest("group", strength, [m.weight for m in members], arrays)

    def lengths(self, weights: Mapping[str, Tensor]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Of each group now and at the start, in those of its weights that are trained."""
        now, start = np.zeros(self._count), np.zeros(self._count)
        for member in self._members:
            if member.weight in weights:
                rows = weights[member.weight].detach().movedim(member.axis, 0)
                squares = rows.reshape(len(rows), -1).double().square().sum(dim=1)
                now += self._by_group(member, squares.cpu().numpy())
                start += self._by_group(member, member.squares)
        return np.sqrt(now), np.sqrt(start)

    def _by_group(self, member: Member, squares: Array) -> Array:
        own = member.groups >= 0
        return np.bincount(member.groups[own], squares[own], self._count)

    def after_step(self, weights: Mapping[str, Tensor], pace: Pace) -> None:
        """Shrink every group, and let what is left take over from it."""
        import torch

        part = self.given_up(pace)
        for name in self._instead.keys() & weights.keys():
            weights[name].add_(torch.from_numpy(part * self._instead[name]).to(weights[name]))
        now, start = self.lengths(weights)
        factors = shrinkage(now, self.now(pace) * start)
        for member in self._members:
            if member.weight not in weights:
                continue
            weight = weights[member.weight]
            along = np.where(member.groups >= 0, factors[member.groups], 1.0)
            shape = [-1 if axis == member.axis else 1 for axis in range(weight.ndim)]
            weight.mul_(torch.from_numpy(along).to(weight).reshape(shape))


class Lasso(_Growing):
    """Shrinks single weights."""

    def __init__(self, small: Sequence[Small], strength: float) -> None:
        super().__init__(strength)
        self._start = {each.weight: each.start for each in small}
        self._on_device: dict[str, Tensor] = {}
        self.identity = _digest("single", strength, list(self._start), self._start.values())

    def after_step(self, weights: Mapping[str, Tensor], pace: Pace) -> None:
        """Shrink every weight that is pushed."""
        import torch

        now = self.now(pace)
        for name in self._start.keys() & weights.keys():
            weight = weights[name]
            if name not in self._on_device:
                self._on_device[name] = torch.from_numpy(self._start[name]).to(weight)
            lengths = weight.abs() - now * self._on_device[name]
            weight.copy_(weight.sign() * lengths.clamp_min(0.0))


def _digest(kind: str, strength: float, names: Sequence[str], arrays: Iterable[Array]) -> str:
    digest = hashlib.sha256(repr((kind, strength, names)).encode())
    for array in arrays:
        digest.update(np.ascontiguousarray(array).tobytes())
    return digest.hexdigest()
