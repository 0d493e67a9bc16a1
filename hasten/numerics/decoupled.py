"""A layer's weight with fewer products in it: one kernel a channel, or none outside a window.

A layer computes y = W x, x holding a window of s taps of each of c channels. As in ``low_rank`` an
approximation Ŵ is chosen for the least E‖(W - Ŵ) x‖² = tr((W - Ŵ) C (W - Ŵ)ᵀ) with C = E[x xᵀ].

**Decoupled.** Ŵ_i = P_i D_i for every channel i by itself, with D_i of r kernels and P_i of m rows: a
depthwise convolution of multiplier r and a pointwise one behind it. For channels that do not depend on each
other the best is the truncated SVD of W_i C_ii^½, which with C = I is Guo's. For those that do, channel after
channel takes the best for what the others leave: with E = W - Ŵ the unbounded best is

    G_i = Ŵ_i + (E C)_i C_ii⁻¹,

and of rank r it is the truncated SVD of G_i C_ii^½ (a step of block coordinate descent: the error never
grows). At last all of P is regressed on what D gives, which is exact.

**Windowed.** Ŵ is zero outside some of the taps; the others are regressed on them, Ŵ_S = (W C)_S C_SS⁻¹.

Sources: Guo, Li, Lin, Chen and Zhang 2018, "Network Decoupling: From Regular to Depthwise Separable
Convolutions", section 3 (the SVD of each channel's slice); Eckart and Young 1936; Izenman 1975,
"Reduced-rank regression for the multivariate linear model" (the best of rank r in the metric C_ii).
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from hasten.numerics.low_rank import Floats, Target, balance, regression

_SWEEPS = 2
"""Rounds through all channels: what later ones gain is small beside the first."""


_TOGETHER = 16
"""Channels whose errors are multiplied by C at once: products of large matrices take less time."""


class Decoupled:
    """W_i ≈ P_i D_i for each of ``channels`` channels, of any rank up to the taps of a kernel."""

    def __init__(self, target: Target, channels: int) -> None:
        outputs, inputs = target.weight.shape
        taps = inputs // channels
        self._target = target
        self._shape = (outputs, channels, taps)
        self._moment: Floats = np.eye(inputs, dtype=np.float64)
        if target.moment is not None:
            self._moment = target.moment
        blocks = self._moment.reshape(channels, taps, channels, taps)
        self._own: Floats = np.stack([blocks[i, :, i] for i in range(channels)])
        self._roots: Floats = np.asarray(np.linalg.cholesky(self._own), dtype=np.float64)
        # They are as small as a kernel and used in every step: solving anew takes most of the time of one.
        self._inverses: Floats = np.asarray(np.linalg.inv(self._own), dtype=np.float64)
        self._solved: dict[int, tuple[Floats, Floats, float]] = {}

    def lost(self, rank: int) -> float:
        """The part of the outputs' squares that this rank loses."""
        return self._solution(rank)[2]

    def factors(self, rank: int) -> tuple[Floats, Floats]:
        """D, (rank, channels, taps), and P, (m, rank, channels)."""
        kernels, behind, _ = self._solution(rank)
        outputs, channels, _ = self._shape
        spread = np.sqrt(np.maximum(np.einsum("irs,ist,irt->ir", kernels, self._own, kernels), 0.0))
        scale = balance(behind.reshape(outputs, -1), spread.reshape(-1)).reshape(channels, rank)
        kernels, behind = kernels * scale[:, :, None], behind / scale
        return kernels.transpose(1, 0, 2), behind.transpose(0, 2, 1)

    def _solution(self, rank: int) -> tuple[Floats, Floats, float]:
        """Kernels (channels, rank, taps), what is behind them (m, channels, rank), and what is lost."""
        if rank not in self._solved:
            kernels = self._kernels(rank)
            own, shared = self._features(kernels)
            behind = regression(own, shared)
            lost = max(0.0, 1.0 - float(np.vdot(behind, shared)) / self._target.total)
            outputs, channels, _ = self._shape
            self._solved[rank] = kernels, behind.reshape(outputs, channels, rank), lost
        return self._solved[rank]

    def _kernels(self, rank: int) -> Floats:
        """Of every channel, by block coordinate descent from the best for each alone."""
        outputs, channels, _ = self._shape
        weight = self._target.weight.reshape(self._shape)
        kernels = _leading(weight.swapaxes(0, 1) @ self._roots, self._roots, rank)
        if channels == 1:
            return kernels
        made = _projected(weight.swapaxes(0, 1), kernels, self._own)
        error = np.ascontiguousarray((weight.swapaxes(0, 1) - made).swapaxes(0, 1)).reshape(outputs, -1)
        for _ in range(_SWEEPS):
            for start in range(0, channels, _TOGETHER):
                self._improve(kernels, made, error, range(start, min(start + _TOGETHER, channels)))
        return kernels

    def _improve(self, kernels: Floats, made: Floats, error: Floats, some: range) -> None:
        """One step for each of some channels, in place. made: Ŵ_i, (channels, m, taps); error: E, (m, n)."""
        taps, rank = self._shape[2], kernels.shape[1]
        columns = slice(some.start * taps, some.stop * taps)
        within = self._moment[columns, columns]
        moved = error @ self._moment[:, columns]  # E C of all of them at once; kept up to date below
        for place, i in enumerate(some):
            block = slice(place * taps, (place + 1) * taps)
            wanted = made[i] + moved[:, block] @ self._inverses[i]
            kernels[i] = _leading(wanted @ self._roots[i], self._roots[i], rank)
            new = _projected(wanted, kernels[i], self._own[i])
            change = made[i] - new
            error[:, i * taps : (i + 1) * taps] += change
            moved += change @ within[block]
            made[i] = new

    def _features(self, kernels: Floats) -> tuple[Floats, Floats]:
        """Second moments of all D_i x_i, (c·r, c·r), and those of the outputs with them, (m, c·r)."""
        outputs, channels, taps = self._shape
        width = channels * kernels.shape[1]
        across = kernels.swapaxes(1, 2)
        half = (kernels @ self._moment.reshape(channels, taps, -1)).reshape(width, channels, taps)
        own = (half.swapaxes(0, 1) @ across).swapaxes(0, 1).reshape(width, width)
        moved = self._target.moved.reshape(self._shape).swapaxes(0, 1)
        shared = (moved @ across).swapaxes(0, 1).reshape(outputs, width)
        return np.asarray(own), np.asarray(shared)


class Windowed:
    """Ŵ with the columns ``kept`` alone. Of a target in groups, each group by itself."""

    def __init__(self, target: Target, kept: NDArray[np.intp]) -> None:
        moved = target.moved[:, kept]
        if target.moment is None:
            self.weight: Floats = moved
        elif target.moment.ndim == 2:
            self.weight = regression(target.moment[np.ix_(kept, kept)], moved)
        else:
            grouped = moved.reshape(len(target.moment), -1, len(kept))
            own = target.moment[:, kept][:, :, kept]
            found = [regression(*group) for group in zip(own, grouped, strict=True)]
            self.weight = np.asarray(np.concatenate(found))
        self.lost = max(0.0, 1.0 - float(np.vdot(self.weight, moved)) / target.total)


def _leading(whitened: Floats, root: Floats, rank: int) -> Floats:
    """The kernels (…, rank, taps) of the truncated SVD of a weight times ``root``, (…, m, taps)."""
    axes = np.linalg.eigh(whitened.swapaxes(-1, -2) @ whitened)[1][..., ::-1][..., :rank]
    return np.asarray(np.linalg.solve(root.swapaxes(-1, -2), axes).swapaxes(-1, -2))


def _projected(weight: Floats, kernels: Floats, own: Floats) -> Floats:
    """The weight that is nearest in the metric ``own`` of those made of the kernels, orthonormal in it."""
    return np.asarray(weight @ own @ kernels.swapaxes(-1, -2) @ kernels)
