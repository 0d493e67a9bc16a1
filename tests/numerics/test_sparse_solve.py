"""Zeros that cost outputs least: exact counts, plain solutions by row, and plain Optimal Brain Surgeon."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hasten.numerics.rounding import damped
from hasten.numerics.sparse_solve import error, prune, shrunk, solve_kept
from hasten.numerics.sparsity import (
    LEAST_KEPT,
    all_but_smallest,
    all_but_smallest_of_row,
    largest_of_group,
    ranked_together,
)


def inputs(rng: np.random.Generator, groups: int, positions: int, size: int, causes: int) -> np.ndarray:
    """Inputs behind a ReLU, alike and of different loudness."""
    mix = rng.standard_normal((groups, causes, size)) / np.sqrt(causes)
    x = rng.standard_normal((groups, positions, causes)) @ mix
    x = x + 0.3 * rng.standard_normal((groups, positions, size)) + 0.2
    return np.maximum(x, 0) * np.exp(0.5 * rng.standard_normal(size))


def second(x: np.ndarray) -> np.ndarray:
    return x.swapaxes(1, 2) @ x / x.shape[1]


def exact(weight: np.ndarray, kept: np.ndarray, hessian: np.ndarray) -> np.ndarray:
    """The normal equations of every row by themselves."""
    found = np.zeros(weight.shape)
    for g, o in np.ndindex(weight.shape[:2]):
        s = np.flatnonzero(kept[g, o])
        curvature = damped(hessian)[g]
        found[g, o, s] = np.linalg.solve(curvature[np.ix_(s, s)], curvature[s] @ weight[g, o])
    return found


def brain_surgeon(weight: np.ndarray, hessian: np.ndarray, zeros: int) -> np.ndarray:
    """Weight after weight, the cheapest of all rows first (Hassibi and Stork 1993, equation 5)."""
    rows = weight[0].astype(np.float64).copy()
    inverse = [np.linalg.inv(damped(hessian)[0]) for _ in rows]
    alive = np.ones(rows.shape, bool)
    for _ in range(zeros):
        cost = np.array([row**2 / np.diag(own) for row, own in zip(rows, inverse, strict=True)])
        o, j = np.unravel_index(np.where(alive, cost, np.inf).argmin(), cost.shape)
        own = inverse[o]
        rows[o] -= rows[o, j] / own[j, j] * own[:, j]
        inverse[o] = own - np.outer(own[:, j], own[j]) / own[j, j]
        alive[o, j], rows[o, j], inverse[o][j, j] = False, 0.0, 1.0
    return np.where(alive, rows, 0.0)[None]


@given(st.integers(0, 1000), st.integers(0, 40))
def test_as_many_go_as_are_asked_for(seed: int, zeros: int) -> None:
    scores = np.random.default_rng(seed).integers(0, 6, (2, 4, 5)).astype(float)
    kept = all_but_smallest(scores, zeros)
    assert np.sum(~kept) == zeros
    if 0 < zeros < 40:
        assert scores[~kept].max() <= scores[kept].min()
    rows = all_but_smallest_of_row(scores, zeros // 8)
    assert (np.sum(~rows, axis=-1) == zeros // 8).all()


@given(st.integers(0, 1000), st.integers(1, 4), st.integers(1, 4))
def test_of_every_group_the_largest_stay(seed: int, kept: int, more: int) -> None:
    scores = np.random.default_rng(seed).random((2, 3, 4 * (kept + more)))
    found = largest_of_group(scores, kept, kept + more).reshape(2, 3, 4, -1)
    assert (found.sum(axis=-1) == kept).all()
    parts = scores.reshape(found.shape)
    assert (np.where(found, parts, np.inf).min(axis=-1) > np.where(found, -1, parts).max(axis=-1)).all()


@given(st.integers(0, 1000), st.floats(0, 1))
def test_layers_together_lose_the_smallest_and_none_is_emptied(seed: int, share: float) -> None:
    rng = np.random.default_rng(seed)
    layers = [rng.random((1, 5, 40)), 1e-3 * rng.random((2, 3, 7)), rng.random((1, 1, 1))]
    total = sum(layer.size for layer in layers)
    least = [int(np.ceil(LEAST_KEPT * layer.size)) for layer in layers]
    zeros = round(share * total)
    masks = ranked_together(layers, zeros)
    assert sum(int(np.sum(~m)) for m in masks) == min(zeros, total - sum(least))
    for layer, m, spare in zip(layers, masks, least, strict=True):
        assert m.shape == layer.shape
        assert m.sum() >= spare
        assert m.reshape(-1)[layer.argmax()]


@given(st.integers(0, 1000), st.integers(1, 3), st.integers(2, 12))
def test_what_stays_is_solved_for_as_row_by_row(seed: int, groups: int, size: int) -> None:
    rng = np.random.default_rng(seed)
    hessian = second(inputs(rng, groups, 300, size, 4))
    weight, kept = rng.standard_normal((groups, 5, size)), rng.random((groups, 5, size)) < 0.6
    found, plain = solve_kept(weight, kept, hessian), exact(weight, kept, hessian)
    assert not found[~kept].any()
    best, masked = (error(weight - w, damped(hessian)) for w in (plain, np.where(kept, weight, 0)))
    reached = error(weight - found, damped(hessian))
    assert best - 1e-9 <= reached <= masked + 1e-9
    assert reached <= 1.02 * best + 1e-9


def test_more_steps_never_raise_the_error() -> None:
    rng = np.random.default_rng(1)
    hessian = second(inputs(rng, 1, 500, 40, 10))
    weight, kept = rng.standard_normal((1, 8, 40)), rng.random((1, 8, 40)) < 0.5
    errors = [error(weight - solve_kept(weight, kept, hessian, steps=n), damped(hessian)) for n in range(9)]
    assert all(later <= earlier for earlier, later in pairwise(errors))
    assert errors[-1] < 0.7 * errors[0]


@pytest.mark.parametrize("sparsity", [0.5, 0.75, 0.9])
def test_the_result_is_near_that_of_the_brain_surgeon(sparsity: float) -> None:
    rng = np.random.default_rng(2)
    hessian = second(inputs(rng, 1, 600, 48, 15))
    weight = rng.standard_normal((1, 8, 48))
    zeros = round(sparsity * weight.size)
    found, plain = prune(weight, hessian, zeros), brain_surgeon(weight, hessian, zeros)
    assert np.sum(found == 0) == np.sum(plain == 0) == zeros
    reached, best = (error(weight - w, damped(hessian)) for w in (found, plain))
    assert reached < 1.15 * best
    magnitude = np.where(all_but_smallest(weight**2, zeros), weight, 0)
    solved = solve_kept(weight, magnitude != 0, hessian)
    assert reached < 0.9 * error(weight - solved, damped(hessian))
    assert error(weight - solved, hessian) < 0.9 * error(weight - magnitude, hessian)


@pytest.mark.parametrize("group", [(2, 4), (1, 4), (4, 8), (3, 4)])
def test_of_every_group_so_many_stay_and_make_up_for_the_rest(group: tuple[int, int]) -> None:
    rng = np.random.default_rng(3)
    hessian = second(inputs(rng, 2, 600, 48, 15))
    weight = rng.standard_normal((2, 6, 48))
    found = prune(weight, hessian, 0, group)
    parts = (found != 0).reshape(2, 6, -1, group[1]).sum(axis=-1)
    assert (parts == group[0]).all()
    chosen = np.where(largest_of_group(weight**2, *group), weight, 0)
    assert error(weight - found, hessian) < 0.6 * error(weight - chosen, hessian)


def test_zeros_stay_zeros() -> None:
    rng = np.random.default_rng(4)
    hessian = second(inputs(rng, 1, 300, 24, 8))
    weight = np.where(rng.random((1, 6, 24)) < 0.4, 0.0, rng.standard_normal((1, 6, 24)))
    for zeros, group in ((90, None), (10, None), (0, (2, 4))):
        found = prune(weight, hessian, zeros, group)
        assert not found[weight == 0].any()
        assert np.sum(found == 0) >= max(zeros, np.sum(weight == 0))
    np.testing.assert_allclose(prune(weight, hessian, 10), weight)


def test_inputs_that_are_never_heard_do_no_harm() -> None:
    rng = np.random.default_rng(5)
    x = inputs(rng, 1, 300, 16, 6)
    x[:, :, 3] = 0.0
    weight = rng.standard_normal((1, 4, 16))
    found = prune(weight, second(x), 32)
    assert np.isfinite(found).all()
    assert np.sum(found == 0) == 32
    silent = prune(weight, np.zeros((1, 16, 16)), 32)
    np.testing.assert_allclose(silent, np.where(all_but_smallest(weight**2, 32), weight, 0))


def test_wide_layers_in_single_precision_are_as_good() -> None:
    rng = np.random.default_rng(6)
    hessian = second(inputs(rng, 1, 400, 1100, 30))
    weight = rng.standard_normal((1, 4, 1100))
    found = prune(weight, hessian, 2200)
    assert np.sum(found == 0) == 2200
    magnitude = np.where(all_but_smallest(weight**2, 2200), weight, 0)
    assert error(weight - found, hessian) < 0.1 * error(weight - magnitude, hessian)


def test_few_positions_are_trusted_little() -> None:
    rng = np.random.default_rng(7)
    truth = second(inputs(rng, 1, 20_000, 64, 40))
    rng = np.random.default_rng(7)
    x = inputs(rng, 1, 20_000, 64, 40)[:, :60]
    weight = np.random.default_rng(8).standard_normal((1, 32, 64))
    seen = second(x)
    plain, careful = (prune(weight, h, 1024) for h in (seen, shrunk(seen, 60)))
    assert error(weight - careful, truth) < 0.9 * error(weight - plain, truth)


def test_shrinking_is_the_formula_and_vanishes_with_many_positions() -> None:
    rng = np.random.default_rng(9)
    hessian = second(inputs(rng, 1, 100, 5, 3))
    d = np.sqrt(np.diag(hessian[0]))
    c = hessian[0] / np.outer(d, d)
    square = np.trace(c @ c)
    part = min(1.0, ((1 - 2 / 5) * square + 25) / ((100 + 1 - 2 / 5) * (square - 5)))
    np.testing.assert_allclose(shrunk(hessian, 100)[0], hessian[0] * (1 - part) + part * np.diag(d**2))
    np.testing.assert_allclose(shrunk(hessian, 10**9), hessian, rtol=1e-6)
    np.testing.assert_array_equal(shrunk(np.zeros((2, 3, 3)), 5), np.zeros((2, 3, 3)))
    np.testing.assert_array_equal(shrunk(np.ones((2, 1, 1)), 5), np.ones((2, 1, 1)))
