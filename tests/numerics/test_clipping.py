"""Clipping for the least error of outputs: against a plain search, and against no clipping."""

from __future__ import annotations

import numpy as np
import pytest

from hasten.numerics.affine import Grid, asymmetric, symmetric
from hasten.numerics.clipping import clipped
from hasten.numerics.rounding import Moments


def inputs(rng: np.random.Generator, groups: int, size: int) -> np.ndarray:
    """Correlated, and some much louder than others."""
    causes = rng.standard_normal((groups, 500, size // 2))
    x = causes @ rng.standard_normal((groups, size // 2, size)) + rng.standard_normal((groups, 500, size))
    return (x * rng.lognormal(0, 1.5, (groups, 1, size))).astype(np.float32)


def moments_of(x: np.ndarray) -> Moments:
    moments = Moments(x.shape[0], x.shape[2])
    moments.update(x)
    return moments


def plain_error(weight: np.ndarray, rounded: np.ndarray, x: np.ndarray, group: int) -> np.ndarray:
    """E(Δw · x)² by outputs and blocks, from the inputs themselves."""
    blocks = weight.shape[2] // group
    change = (weight - rounded).astype(np.float64).reshape(*weight.shape[:2], blocks, group)
    parts = x.astype(np.float64).reshape(*x.shape[:2], blocks, group)
    return np.square(np.einsum("gobi,gpbi->gpob", change, parts)).mean(axis=1)


@pytest.mark.parametrize("signed", [True, False])
@pytest.mark.parametrize("bits", [2, 4])
def test_no_share_of_the_largest_weight_is_better(bits: int, signed: bool) -> None:
    rng = np.random.default_rng(bits)
    weight = rng.standard_normal((2, 3, 24)).astype(np.float32) ** 3
    x, group, grid = inputs(rng, 2, 24), 8, Grid(bits, signed=signed)
    found = plain_error(weight, clipped(weight, grid, group, moments_of(x)).round_trip(weight), x, group)
    low = weight.reshape(2, 3, 3, 8).min(axis=3)
    high = weight.reshape(2, 3, 3, 8).max(axis=3)
    for share in np.linspace(1.0, 0.3, 36, dtype=np.float32):
        if signed:
            other = symmetric(share * np.maximum(-low, high), grid, 2, group)
        else:
            other = asymmetric(share * low, share * high, grid, 2, group)
        assert np.all(found <= 1.001 * plain_error(weight, other.round_trip(weight), x, group) + 1e-9)


def test_without_inputs_the_error_is_that_of_the_weights() -> None:
    weight = np.random.default_rng(1).standard_normal((1, 6, 32)).astype(np.float32)
    alike = Moments.restore(np.zeros((1, 32)), np.eye(32)[None], 9)
    grid = Grid(3)
    np.testing.assert_array_equal(
        clipped(weight, grid, 16, None).scale, clipped(weight, grid, 16, alike).scale
    )


def test_a_loud_input_keeps_its_large_weight() -> None:
    weight = np.full((1, 1, 16), 0.1, dtype=np.float32)
    weight[0, 0, 3] = 1.0
    loud, quiet = np.ones(16), np.ones(16)
    loud[3], quiet[3] = 1e4, 1e-4
    scales = [
        clipped(weight, Grid(3), 16, Moments.restore(np.zeros((1, 16)), np.diag(d)[None], 9)).scale.item()
        for d in (loud, quiet)
    ]
    assert scales[0] > 0.3 > scales[1]


def test_wide_groups_count_each_input_by_itself() -> None:
    rng = np.random.default_rng(2)
    weight = rng.standard_normal((1, 4, 512)).astype(np.float32)
    x = inputs(rng, 1, 512)
    both = moments_of(x)
    alone = Moments.restore(both.mean, np.eye(512) * both.second, both.count)
    grid = Grid(3)
    wide, plain = (clipped(weight, grid, 512, moments).scale for moments in (both, alone))
    np.testing.assert_array_equal(wide, plain)
