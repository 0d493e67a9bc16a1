"""A layer's weight as a product of thinner ones, chosen so that what the layer computes changes least.

A layer computes y = W x. With Ŵ for W its outputs change by E‖(W - Ŵ) x‖² = tr((W - Ŵ) C (W - Ŵ)ᵀ), where C
is E[x xᵀ], or the covariance of x where a bias keeps the mean. With C = I that is the weights' own error. Of
all products A B of a given rank the best is closed form: U Uᵀ W, with U the first eigenvectors of W C Wᵀ,
that is the principal components of the outputs. Where the first factor is applied to parts of a window (one
axis of a kernel, or its channels), its basis is the best for parts that do not depend on each other, and the
rest is regressed on it, which is exact.

Sources: Eckart and Young 1936, "The approximation of one matrix by another of lower rank"; Jaderberg et al.
2014, "Speeding up Convolutional Neural Networks with Low Rank Expansions", section 2; Zhang et al. 2016,
"Accelerating Very Deep Convolutional Networks for Classification and Detection", sections 3.1 and 3.2 (the
outputs' principal components); De Lathauwer et al. 2000, "On the Best Rank-1 and Rank-(R1, ..., RN)
Approximation of Higher-Order Tensors", section 4 (HOOI); Kim et al. 2016, "Compression of Deep Convolutional
Neural Networks for Fast and Low Power Mobile Applications", section 3.1; Izenman 1975, "Reduced-rank
regression for the multivariate linear model"; Chen et al. 2010, "Shrinkage Algorithms for MMSE Covariance
Estimation", eq. 23.
"""

from __future__ import annotations

from functools import cached_property
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

Floats: TypeAlias = NDArray[np.float64]

_ITERATIONS = 3
"""Rounds of the higher-order orthogonal iteration: what later ones gain is below one per cent of the loss."""
_SMALLEST = 1e-3
"""Components that vary less, beside the largest, are not scaled up further."""


class Target:
    """What is approximated: y = W x, and how much of it an error loses.

    weight: (m, n). moment: C, (n, n) and positive definite, or None for the identity; (groups, n, n) where
    the outputs fall into groups that each read something else. moved: W C. total: tr(W C Wᵀ).
    """

    def __init__(self, weight: NDArray[Any], moment: Floats | None = None) -> None:
        self.weight: Floats = weight.astype(np.float64)
        self.moment = moment
        self.moved: Floats = self._through(self.weight)
        self.total = float(np.vdot(self.moved, self.weight))

    def _through(self, rows: Floats) -> Floats:
        if self.moment is None:
            return rows
        if self.moment.ndim == 2:
            return np.asarray(rows @ self.moment)
        grouped = rows.reshape(len(self.moment), -1, rows.shape[1])
        return np.asarray((grouped @ self.moment).reshape(rows.shape))

    def lost(self, made: NDArray[Any]) -> float:
        """The part of ``total`` that a weight of the same shape loses, from 0 (all is kept)."""
        change: Floats = self.weight - made
        return float(np.vdot(self._through(change), change)) / self.total


class Product:
    """W ≈ A B with A of shape (m, r) and B of shape (r, n)."""

    def __init__(self, target: Target) -> None:
        self._target = target
        weight, moment = target.weight, target.moment
        if weight.shape[0] <= weight.shape[1]:
            self._left = principal(target.moved @ weight.T)
        else:
            root = weight if moment is None else weight @ np.linalg.cholesky(moment)
            self._left = np.linalg.svd(root, full_matrices=False)[0]
        kept = np.einsum("ri,ri->r", self._left.T @ target.moved, self._left.T @ weight)
        self._kept: Floats = np.maximum(kept, 0.0)

    @property
    def largest(self) -> int:
        """The rank at which nothing is lost."""
        return int(self._left.shape[1])

    def lost(self, rank: int) -> float:
        """The part of the outputs' squares that this rank loses."""
        return max(0.0, 1.0 - float(self._kept[:rank].sum()) / self._target.total)

    def factors(self, rank: int) -> tuple[Floats, Floats]:
        """B and A, in the order in which they are applied."""
        left = self._left[:, :rank]
        scale = balance(left, np.sqrt(self._kept[:rank]))
        return (left.T @ self._target.weight) * scale[:, None], left / scale


class Parts:
    """A target whose inputs fall into equal parts: W x = Σ_j W_j x_j, with one basis B for every x_j.

    order: which inputs the parts consist of, one after the other. parts: how many there are. They may have
    inputs in common where the target has a moment.
    """

    def __init__(self, target: Target, order: NDArray[np.intp], parts: int) -> None:
        self.target = target
        outputs = len(target.weight)
        self.shape = (outputs, parts, len(order) // parts)
        self.weight = target.weight[:, order].reshape(self.shape)
        self.moved = target.moved[:, order].reshape(self.shape)
        self._moment: Floats | None = None
        self._root: Floats = np.eye(self.shape[2])
        if target.moment is not None:
            self._moment = target.moment[np.ix_(order, order)].reshape(*self.shape[1:], len(order))
            whole = self._moment.reshape(*self.shape[1:], *self.shape[1:])
            self._root = np.linalg.cholesky(np.einsum("jsjt->st", whole) / parts)
        self.whitened: Floats = self.weight @ self._root

    @cached_property
    def axes(self) -> Floats:
        """The principal axes of the whitened parts, (s, s), the first first."""
        rows = self.whitened.reshape(-1, self.shape[2])
        return principal(rows.T @ rows)

    def basis(self, directions: Floats) -> Floats:
        """B, (size, s), which applied to a part of the input gives what lies along whitened directions."""
        return np.asarray(np.linalg.solve(self._root.T, directions).T, dtype=np.float64)

    def features(self, basis: Floats) -> tuple[Floats, Floats]:
        """Second moments of all B x_j, (j·r, j·r), and those of the outputs with them, (m, j·r)."""
        outputs, parts, size = self.shape
        width = parts * len(basis)
        with_outputs = (self.moved @ basis.T).reshape(outputs, width)
        if self._moment is None:
            own = np.kron(np.eye(parts), basis @ basis.T)
            return np.asarray(own, dtype=np.float64), with_outputs
        half = (basis @ self._moment).reshape(width, parts, size)
        return (half @ basis.T).reshape(width, width), with_outputs


class Separable:
    """W_j ≈ A_j B: a basis of ``rank`` rows for every part, and any weight behind it."""

    def __init__(self, parts: Parts, largest: int) -> None:
        """largest: the largest rank that will be asked for."""
        self._parts = parts
        self._basis = parts.basis(parts.axes[:, :largest])
        self._own, self._shared = parts.features(self._basis)
        self._lost: dict[int, float] = {}

    def lost(self, rank: int) -> float:
        """The part of the outputs' squares that this rank loses."""
        if rank not in self._lost:
            made, _, shared = self._regressed(rank)
            self._lost[rank] = max(0.0, 1.0 - float(np.vdot(made, shared)) / self._parts.target.total)
        return self._lost[rank]

    def factors(self, rank: int) -> tuple[Floats, Floats]:
        """B, (rank, s), and A, (m, j, rank)."""
        made, own, _ = self._regressed(rank)
        outputs, parts, _ = self._parts.shape
        behind = made.reshape(outputs, parts, rank)
        scale = balance(behind, _spread(own, rank))
        return self._basis[:rank] * scale[:, None], behind / scale

    def _regressed(self, rank: int) -> tuple[Floats, Floats, Floats]:
        chosen = (np.arange(self._parts.shape[1])[:, None] * len(self._basis) + np.arange(rank)).reshape(-1)
        own, shared = self._own[np.ix_(chosen, chosen)], self._shared[:, chosen]
        return regression(own, shared), own, shared


class Tucker:
    """W_j ≈ U G_j B: a basis of the inputs, a core of every part, and a basis of the outputs."""

    def __init__(self, parts: Parts) -> None:
        self._parts = parts
        self._lost: dict[tuple[int, int], float] = {}

    def lost(self, inputs: int, outputs: int) -> float:
        """The part of the outputs' squares that these two ranks lose."""
        if (inputs, outputs) not in self._lost:
            self._solve(inputs, outputs)
        return self._lost[inputs, outputs]

    def factors(self, inputs: int, outputs: int) -> tuple[Floats, Floats, Floats]:
        """B, (inputs, s), the core, (outputs, j, inputs), and U, (m, outputs)."""
        basis, own, core, left = self._solve(inputs, outputs)
        varies = np.einsum("pi,pi->p", core @ own, core)
        scale = balance(left, np.sqrt(np.maximum(varies, 0.0)))
        core, left = core * scale[:, None], left / scale
        cube = core.reshape(outputs, self._parts.shape[1], inputs)
        scale = balance(cube, _spread(own, inputs))
        return basis * scale[:, None], cube / scale, left

    def _solve(self, inputs: int, outputs: int) -> tuple[Floats, Floats, Floats, Floats]:
        parts = self._parts
        basis = parts.basis(self._directions(inputs, outputs))
        own, shared = parts.features(basis)
        whole = regression(own, shared)
        # Reduced-rank regression: the principal components of what the features explain of the outputs.
        left = principal(whole @ shared.T)[:, :outputs]
        core = left.T @ whole
        kept = float(np.vdot(core, left.T @ shared))
        self._lost[inputs, outputs] = max(0.0, 1.0 - kept / parts.target.total)
        return basis, own, core, left

    def _directions(self, inputs: int, outputs: int) -> Floats:
        """Of the inputs, by the higher-order orthogonal iteration on whitened weights.

        Each of its steps is one of subspace iteration: the next makes up for what an exact one would gain.
        """
        parts, whitened = self._parts, self._parts.whitened
        found = parts.axes[:, :inputs]
        if outputs >= parts.shape[0]:
            return found
        flat, left = whitened.reshape(parts.shape[0], -1), self._output_axes[:, :outputs]
        for _ in range(_ITERATIONS):
            left = _turned(left, (whitened @ found).reshape(parts.shape[0], -1))
            found = _turned(found, (left.T @ flat).reshape(-1, parts.shape[2]).T)
        return found

    @cached_property
    def _output_axes(self) -> Floats:
        flat = self._parts.whitened.reshape(self._parts.shape[0], -1)
        return principal(flat @ flat.T)


def _turned(axes: Floats, columns: Floats) -> Floats:
    """Orthonormal axes, (s, r), closer to the first principal ones of columns, (s, n)."""
    return np.linalg.qr(columns @ (columns.T @ axes))[0]


def regression(own: Floats, shared: Floats) -> Floats:
    """The least-squares coefficients of outputs on features. own: positive definite."""
    from scipy.linalg import cho_factor, cho_solve

    return np.asarray(cho_solve(cho_factor(own), shared.T).T)


def principal(gram: Floats) -> Floats:
    """Eigenvectors of a symmetric matrix, of the largest eigenvalue first."""
    found: Floats = np.linalg.eigh((gram + gram.T) / 2)[1]
    return found[:, ::-1]


def _spread(own: Floats, rank: int) -> Floats:
    """How much each row of the basis varies, over all parts."""
    varies = np.diagonal(own).reshape(-1, rank).mean(axis=0)
    return np.asarray(np.sqrt(np.maximum(varies, 0.0)))


def balance(behind: Floats, spread: Floats) -> Floats:
    """What to multiply components by, so that they vary as much as what is behind them weighs.

    behind: (…, r), to be divided by it. Rounding to few bits then costs both sides alike; without it the last
    components would be lost in the first ones' steps, or their weights in the first ones' weights.
    """
    weighs = np.sqrt(np.square(behind).reshape(-1, behind.shape[-1]).sum(axis=0))
    floor = np.finfo(np.float64).tiny
    weighs = np.maximum(weighs, max(_SMALLEST * float(weighs.max()), floor))
    varies = np.maximum(spread, max(_SMALLEST * float(spread.max()), floor))
    return np.asarray(np.sqrt(weighs / varies))
