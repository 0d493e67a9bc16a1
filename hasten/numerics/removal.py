"""What is lost when inputs of a linear layer are removed and the rest makes up for them as well as it can?

A layer computes y = W x. Of what is removed the best linear prediction from what is kept is had all the same:
x_S ≈ A x_K with the covariance C of x, so y ≈ (W_K + W_S A) x_K. With P = C⁻¹ the residual has the covariance
(P_SS)⁻¹ and A = -(P_SS)⁻¹ P_SK, so that removing S costs

    E‖y - ŷ‖² = tr(Q_SS (P_SS)⁻¹),   Q = Wᵀ W

after which P and Q are those of the layer that is left. Residuals of successive removals are orthogonal, so
their costs add up to the error of the whole. Means need no care: they go into the bias.

Sources: Hassibi and Stork 1993, "Second order derivatives for network pruning: Optimal Brain Surgeon",
equation 5; Kurtic et al. 2023, "ZipLM: Inference-Aware Structured Pruning of Language Models", section 3.1
(units of several inputs, removed one after another); He et al. 2017, "Channel Pruning for Accelerating Very
Deep Neural Networks", section 3.1 (least squares over what is kept).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hasten.numerics.covariance import about_mean, constants, shrinkage, shrunk

_GONE = -2
"""In place of the unit of an input that was removed."""
_ROWS = 2048
"""Positions that are multiplied at once."""


@dataclass(frozen=True, eq=False)
class Reader:
    """A layer that reads units. covariance: of its inputs, (n, n), shrunk. gram: WᵀW, (n, n).

    units: the unit of each input, -1 for those that stay.
    """

    covariance: NDArray[np.float64]
    gram: NDArray[np.float64]
    units: NDArray[np.intp]


@dataclass(frozen=True, eq=False)
class Order:
    """In which order units go, and what is lost in all when the first so many are gone.

    units: every one but the last ``chunk``. lost: (len(units) + 1,), of the signal of the layers that read
    them, summed over these layers; linear between the chunks in which units go.
    """

    units: NDArray[np.intp]
    lost: NDArray[np.float64]


def order_of_removal(readers: Sequence[Reader], count: int, chunk: int = 1) -> Order:
    """Remove the units 0 … count - 1 greedily: always those ``chunk`` that cost least at the moment.

    Raises ValueError where no layer reads anything.
    """
    if not readers:
        raise ValueError("no layer reads the units that are to be removed")
    states = [_State(reader) for reader in readers]
    left = np.ones(count, dtype=bool)
    order: list[int] = []
    lost = [0.0]
    while left.sum() > chunk:
        costs = np.asarray(sum(state.costs(count) for state in states))
        there = np.flatnonzero(left)
        chosen = there[np.argsort(costs[there], kind="stable")[:chunk]]
        cost = float(sum(state.remove(chosen) for state in states))
        left[chosen] = False
        order += chosen.tolist()
        lost += (lost[-1] + cost * np.arange(1, len(chosen) + 1) / len(chosen)).tolist()
    return Order(np.array(order, np.intp), np.array(lost))


class _State:
    """What is left of a layer: P, Q, and the unit of each of its inputs."""

    def __init__(self, reader: Reader) -> None:
        self._inverse = np.linalg.inv(reader.covariance)
        self._gram = reader.gram.astype(np.float64).copy()
        self._units = reader.units.copy()
        self._signal = max(float((self._gram * reader.covariance).sum()), np.finfo(np.float64).tiny)

    def costs(self, count: int) -> NDArray[np.float64]:
        """What each unit alone would cost now; of a unit with several inputs these are taken together."""
        own = self._units >= 0
        sizes = np.bincount(self._units[own], minlength=count)
        if sizes.max(initial=0) <= 1:
            found = np.zeros(count)
            found[self._units[own]] = np.diagonal(self._gram)[own] / np.diagonal(self._inverse)[own]
            return found / self._signal
        return np.array([self._cost(self._units == unit) for unit in range(count)]) / self._signal

    def _cost(self, where: NDArray[np.bool_]) -> float:
        if not where.any():
            return 0.0
        residual = np.linalg.inv(self._inverse[np.ix_(where, where)])
        return float((self._gram[np.ix_(where, where)] * residual).sum())

    def remove(self, units: NDArray[np.intp]) -> float:
        """Update P and Q in place: of what is gone P becomes zero, so that nothing is predicted from it."""
        gone = np.flatnonzero(np.isin(self._units, units))
        if not len(gone):
            return 0.0
        self._units[gone] = _GONE
        across = self._inverse[gone]
        residual = np.linalg.inv(across[:, gone])
        own = self._gram[np.ix_(gone, gone)]
        cost = float((own * residual).sum())
        predict = -residual @ across
        predict[:, gone] = 0.0
        half = (self._gram[:, gone] + 0.5 * predict.T @ own) @ predict
        self._gram += half
        self._gram += half.T
        self._inverse += across.T @ predict
        self._inverse[gone] = self._inverse[:, gone] = 0.0
        return max(cost, 0.0) / self._signal


def prediction(covariance: NDArray[np.float64], kept: NDArray[np.bool_]) -> NDArray[np.float64]:
    """B with x ≈ B x_K about the mean, of shape (n, kept); its rows of what is kept are those of I.

    covariance: of x, ``shrunk``.
    """
    inner = covariance[np.ix_(kept, kept)]
    found = np.zeros((len(kept), int(kept.sum())))
    found[~kept] = np.linalg.solve(inner, covariance[np.ix_(kept, ~kept)]).T
    found[kept] = np.eye(int(kept.sum()))
    return found


class Regression:
    """Least squares of outputs y on inputs x, from sums over positions: (n,) inputs, (m,) outputs."""

    def __init__(self, inputs: int, outputs: int) -> None:
        self.count = 0
        self._x, self._y = np.zeros(inputs), np.zeros(outputs)
        self._xx, self._xy = np.zeros((inputs, inputs)), np.zeros((inputs, outputs))
        self._waiting: list[tuple[NDArray[Any], NDArray[Any]]] = []

    def update(self, x: NDArray[Any], y: NDArray[Any]) -> None:
        """Count positions: x of shape (positions, inputs), y of shape (positions, outputs)."""
        self.count += len(x)
        self._waiting.append((x, y))
        # Products of many rows at once: to add up large matrices takes longer than to multiply a few rows.
        if sum(len(rows) for rows, _ in self._waiting) >= _ROWS:
            self._add_up()

    def _add_up(self) -> None:
        if not self._waiting:
            return
        x, y = (np.concatenate(rows) for rows in zip(*self._waiting, strict=True))
        self._waiting = []
        self._x += x.sum(axis=0, dtype=np.float64)
        self._y += y.sum(axis=0, dtype=np.float64)
        x = x.astype(np.result_type(x.dtype, np.float32), copy=False)  # half precision overflows at 65504
        self._xx += x.T @ x
        self._xy += x.T @ y

    def solve(
        self, weight: NDArray[Any], offset: NDArray[Any] | None
    ) -> tuple[NDArray[np.float64], NDArray[np.float64] | None]:
        """The weight, (outputs, inputs), and offset, (outputs,), of least error near those given.

        With few positions what they say little about stays nearly as it is. offset: None where the layer has
        none, which then stays so.
        """
        self._add_up()
        n = max(self.count, 1)
        centred = offset is not None
        mean_x, mean_y = self._x / n * centred, self._y / n * centred
        second, across = self._xx / n, self._xy / n - np.outer(mean_x, mean_y)
        flat = constants(second, mean_x) & centred
        if centred:
            second = about_mean(second, mean_x)
        missing = across - second @ weight.T.astype(np.float64)
        missing[flat] = 0.0
        # As much as inputs are drawn together, what they say of the outputs is drawn to nothing: with the
        # inputs alone the step would go too far, with one position by as many times as there are inputs.
        step = np.linalg.solve(shrunk(second, n), (1 - shrinkage(second, n)) * missing)
        made = weight + step.T
        return made, None if offset is None else mean_y - made @ mean_x
