"""Importance: against the formulas written out, and what must hold whatever the numbers."""

from __future__ import annotations

import math
from typing import get_args

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hasten.numerics import importance
from hasten.numerics.importance import ADDITIVE, Importance, Normalization, normalized, scores

KINDS = get_args(Importance)
by_kind = pytest.mark.parametrize("kind", KINDS)


def drawn(seed: int, n: int, k: int) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    rng = np.random.default_rng(seed)
    weights = rng.standard_normal((n, k)).astype(np.float32)
    gradients = rng.standard_normal((n, k)).astype(np.float32)
    squares = (gradients**2 + rng.random((n, k))).astype(np.float32)
    return weights, {"gradients": gradients, "squared_gradients": squares}


def plain(kind: str, w: list[list[float]], g: list[list[float]], f: list[list[float]], i: int) -> float:
    """The formula for row i, number by number."""
    k = range(len(w[i]))
    return {
        "l1": lambda: sum(abs(w[i][j]) for j in k),
        "l2": lambda: sum(w[i][j] ** 2 for j in k),
        "gradient": lambda: sum(abs(g[i][j]) for j in k),
        "taylor": lambda: sum(g[i][j] * w[i][j] for j in k) ** 2,
        "fisher": lambda: 0.5 * sum(f[i][j] * w[i][j] ** 2 for j in k),
        "median": lambda: sum(math.dist(w[i], other) for other in w),
    }[kind]()


@by_kind
@given(st.integers(0, 1000), st.integers(0, 12), st.integers(1, 5))
def test_scores_are_the_formulas(kind: str, seed: int, n: int, k: int) -> None:
    weights, more = drawn(seed, n, k)
    found = scores(kind, weights, seed=seed, **more)
    assert found.dtype == np.float64
    assert found.shape == (n,)
    assert (found >= 0).all()
    if kind != "random":
        lists = [a.astype(float).tolist() for a in (weights, *more.values())]
        wanted = [plain(kind, *lists, i) for i in range(n)]
        np.testing.assert_allclose(found, wanted, rtol=1e-6, atol=1e-6)


@by_kind
@given(st.integers(0, 1000), st.integers(1, 3))
def test_the_order_of_rows_does_not_matter(kind: str, seed: int, k: int) -> None:
    weights, more = drawn(seed, 9, k)
    order = np.random.default_rng(seed + 1).permutation(9)
    moved = scores(kind, weights[order], **{name: array[order] for name, array in more.items()})
    if kind == "random":
        np.testing.assert_array_equal(moved, scores(kind, weights, **more))
    else:
        np.testing.assert_allclose(moved, scores(kind, weights, **more)[order], rtol=1e-6)


@pytest.mark.parametrize(
    ("kind", "power"), [("l1", 1), ("l2", 2), ("gradient", 0), ("taylor", 2), ("fisher", 2), ("median", 1)]
)
@given(st.integers(0, 1000), st.floats(0.01, 100))
def test_larger_weights_are_more_important_by_a_power(
    kind: str, power: int, seed: int, factor: float
) -> None:
    weights, more = drawn(seed, 7, 3)
    wide = weights.astype(np.float64)
    larger = scores(kind, wide * factor, **more)
    np.testing.assert_allclose(larger, factor**power * scores(kind, wide, **more), rtol=1e-6)


@pytest.mark.parametrize("kind", sorted(ADDITIVE))
def test_parts_of_a_unit_add_up(kind: str) -> None:
    weights, more = drawn(3, 6, 8)
    parts = [
        scores(kind, weights[:, part], **{name: array[:, part] for name, array in more.items()})
        for part in (slice(0, 3), slice(3, 8))
    ]
    np.testing.assert_allclose(sum(parts), scores(kind, weights, **more), rtol=1e-9)


def test_the_others_do_not_add_up() -> None:
    weights, more = drawn(3, 6, 8)
    for kind in ("taylor", "median"):
        halves = [
            scores(kind, weights[:, p], **{n: a[:, p] for n, a in more.items()})
            for p in (slice(0, 3), slice(3, 8))
        ]
        assert not np.allclose(sum(halves), scores(kind, weights, **more))


def test_of_a_quadratic_loss_the_expansion_is_what_is_lost() -> None:
    rng = np.random.default_rng(4)
    curvature = rng.random(20) + 0.1
    weights = rng.standard_normal((20, 1))
    # L(w) = ½ Σ c (w - w₀)² around w₀: no gradient, E[g²] = c for noise of variance c
    lost = 0.5 * curvature * weights[:, 0] ** 2
    np.testing.assert_allclose(scores("fisher", weights, squared_gradients=curvature[:, None]), lost)
    # L(w) = gᵀw: what is lost is the first term alone
    slope = rng.standard_normal((20, 1))
    np.testing.assert_allclose(scores("taylor", weights, gradients=slope), (slope * weights)[:, 0] ** 2)


def test_the_row_that_others_replace_best_is_least_important() -> None:
    rows = np.array([[0.0, 0.0], [10.0, 0.0], [-10.0, 0.0], [0.0, 10.0], [0.0, -10.0]])
    assert scores("median", rows).argmin() == 0
    assert scores("l2", rows + 100.0).argmin() != scores("median", rows + 100.0).argmin()


def test_distances_are_the_same_in_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    weights, _ = drawn(5, 50, 4)
    whole = scores("median", weights)
    monkeypatch.setattr(importance, "_BLOCK_ELEMENTS", 130)
    np.testing.assert_allclose(scores("median", weights), whole, rtol=1e-12)


def test_random_scores_follow_the_seed() -> None:
    weights = np.zeros((1000, 2))
    first, again, other = (scores("random", weights, seed=s) for s in (1, 1, 2))
    np.testing.assert_array_equal(first, again)
    assert not np.array_equal(first, other)
    assert 0.4 < first.mean() < 0.6


def test_what_is_missing_or_does_not_fit_is_named() -> None:
    weights = np.ones((3, 2))
    with pytest.raises(ValueError, match=r"not \(3,\)"):
        scores("l1", np.ones(3))
    with pytest.raises(ValueError, match="taylor takes gradients"):
        scores("taylor", weights)
    with pytest.raises(ValueError, match="fisher takes squared_gradients"):
        scores("fisher", weights, gradients=weights)
    with pytest.raises(ValueError, match=r"\(2, 3\) do not fit weights of shape \(3, 2\)"):
        scores("gradient", weights, gradients=weights.T)


@given(st.lists(st.floats(0, 1e6), max_size=30))
def test_normalizing_keeps_the_order_within_a_layer(values: list[float]) -> None:
    found = np.array(values)
    for how in get_args(Normalization):
        made = normalized(found, how)
        assert made.shape == found.shape
        assert np.isfinite(made).all()
        order = np.argsort(found, kind="stable")
        assert (np.diff(made[order]) >= -1e-12 * (1 + np.abs(made[order][1:]))).all(), how


@pytest.mark.parametrize("how", ["mean", "max", "sum", "lamp"])
def test_the_scale_of_a_layer_does_not_count(how: str) -> None:
    found = np.random.default_rng(6).random(40)
    np.testing.assert_allclose(normalized(found * 1e5, how), normalized(found, how), rtol=1e-12)
    np.testing.assert_array_equal(normalized(np.zeros(4), how), np.zeros(4))


def test_what_is_divided_by() -> None:
    found = np.array([1.0, 3.0, 4.0])
    np.testing.assert_array_equal(normalized(found, "none"), found)
    np.testing.assert_allclose(normalized(found, "mean"), found / (8 / 3))
    np.testing.assert_array_equal(normalized(found, "max"), found / 4)
    np.testing.assert_array_equal(normalized(found, "sum"), found / 8)


def test_lamp_is_the_formula_of_the_paper() -> None:
    weights = np.random.default_rng(7).standard_normal(25)
    weights[3] = weights[4]
    order = sorted(range(25), key=lambda i: (weights[i] ** 2, i))
    wanted = np.empty(25)
    for place, u in enumerate(order):
        wanted[u] = weights[u] ** 2 / sum(weights[v] ** 2 for v in order[place:])
    found = normalized(scores("l2", weights[:, None]), "lamp")
    np.testing.assert_allclose(found, wanted, rtol=1e-12)
    assert found[np.abs(weights).argmax()] == 1.0
