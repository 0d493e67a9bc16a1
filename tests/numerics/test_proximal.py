"""The proximal steps minimize what they are said to minimize."""

from __future__ import annotations

import numpy as np
import pytest

from hasten.numerics.proximal import growing, shrinkage


def prox(rows: np.ndarray, by: np.ndarray) -> np.ndarray:
    """Of groups in rows, by the closed form."""
    return rows * shrinkage(np.linalg.norm(rows, axis=1), by)[:, None]


def objective(w: np.ndarray, v: np.ndarray, by: np.ndarray) -> float:
    return float(0.5 * np.square(w - v).sum() + (by * np.linalg.norm(w, axis=1)).sum())


@pytest.mark.parametrize("size", [1, 4])
def test_nothing_near_or_far_is_better_than_the_proximal_point(size):
    rng = np.random.default_rng(0)
    v, by = rng.normal(size=(6, size)), rng.uniform(0, 2, 6)
    best = objective(prox(v, by), v, by)
    for scale in (1e-4, 1e-2, 1.0):
        for _ in range(200):
            other = prox(v, by) + scale * rng.normal(size=v.shape)
            assert objective(other, v, by) >= best
    assert objective(v, v, by) >= best
    assert objective(np.zeros_like(v), v, by) >= best


def test_a_group_keeps_its_direction_and_loses_so_much_of_its_length():
    rng = np.random.default_rng(1)
    v = rng.normal(size=(20, 5))
    by = np.linspace(0, 4, 20)
    made, lengths = prox(v, by), np.linalg.norm(v, axis=1)
    np.testing.assert_allclose(np.linalg.norm(made, axis=1), np.maximum(lengths - by, 0), atol=1e-12)
    kept = lengths > by
    assert kept.any()
    assert not kept.all()
    np.testing.assert_allclose(
        made[kept] / np.linalg.norm(made[kept], axis=1)[:, None], v[kept] / lengths[kept, None], rtol=1e-12
    )
    assert not made[~kept].any()


def test_groups_of_one_are_thresholded_softly():
    v = np.array([-3.0, -0.5, 0.0, 0.2, 2.0])
    by = np.full(5, 0.5)
    found = v * shrinkage(np.abs(v), by)
    np.testing.assert_allclose(found, np.sign(v) * np.maximum(np.abs(v) - by, 0))


def test_what_is_not_pushed_stays_and_what_is_zero_is_no_fault():
    np.testing.assert_array_equal(shrinkage(np.array([0.0, 2.0]), np.array([0.0, 0.0])), [1.0, 1.0])
    np.testing.assert_array_equal(shrinkage(np.array([0.0]), np.array([1.0])), [0.0])


def test_parts_of_the_shrinking_grow_with_the_steps_and_add_up():
    constant = growing([1.0] * 10)
    np.testing.assert_allclose(constant, np.arange(1, 11) / 55)
    falling = growing(np.linspace(1, 0, 10).tolist())
    assert falling.sum() == pytest.approx(1)
    assert falling[-1] == 0
    assert falling[:4].argmax() == 3
    np.testing.assert_allclose(growing([3.0] * 10), constant)
