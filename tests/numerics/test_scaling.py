"""Factors for loud channels: against the search written out in plain loops over samples."""

from __future__ import annotations

import numpy as np
import pytest

from hasten.numerics.affine import Grid
from hasten.numerics.rounding import Moments
from hasten.numerics.scaling import EXPONENTS, Product, Rounding, favour_loud, loudness

FOUR = Rounding(Grid(4), 8)


def moments_of(x: np.ndarray) -> Moments:
    found = Moments(x.shape[0], x.shape[2])
    found.update(x)
    return found


def case(seed: int, groups: int = 1, size: int = 16, spread: float = 1.5) -> tuple[np.ndarray, Product]:
    """Samples whose channels differ in loudness, and a layer that reads them as channels 1, 2, …"""
    rng = np.random.default_rng(seed)
    loud = np.exp(spread * rng.normal(size=(groups, 1, size)))
    mix = np.eye(size) + 0.2 * rng.normal(size=(size, size))
    x = ((rng.normal(size=(groups, 500, size)) @ mix + 0.3) * loud).astype(np.float32)
    rows = rng.normal(size=(groups, 12, size)).astype(np.float32)
    numbers = np.arange(1, groups * size + 1).reshape(groups, 1, size)
    return x, Product(rows, numbers, moments_of(x))


def rounded(row: np.ndarray, bits: int, signed: bool) -> np.ndarray:
    """One group of one output's weights, rounded to the nearest."""
    if signed:
        step = np.abs(row).max() / (2 ** (bits - 1) - 1)
        return step * np.clip(np.rint(row / step), -(2 ** (bits - 1)), 2 ** (bits - 1) - 1)
    low, high = min(row.min(), 0.0), max(row.max(), 0.0)
    step = (high - low) / (2**bits - 1)
    zero = np.rint(-low / step)
    return step * (np.clip(np.rint(row / step) + zero, 0, 2**bits - 1) - zero)


def plain_error(x: np.ndarray, product: Product, s: np.ndarray, rounding: Rounding) -> float:
    """Mean over samples of |W x - Q(W diag(s)) diag(1/s) x|² over that of |W x|²."""
    group, grid = rounding.group or product.rows.shape[2], rounding.grid
    error = size = 0.0
    for layer, (rows, numbers) in enumerate(zip(product.rows, product.read[:, 0], strict=True)):
        for row in rows.astype(np.float64):
            loud = row * s[numbers]
            parts = [rounded(loud[i : i + group], grid.bits, grid.signed) for i in range(0, len(row), group)]
            y = x[layer].astype(np.float64) @ row
            error += np.square(y - (x[layer] / s[numbers]) @ np.concatenate(parts)).sum()
            size += np.square(y).sum()
    return error / size


@pytest.mark.parametrize("groups", [1, 2])
@pytest.mark.parametrize("rounding", [FOUR, Rounding(Grid(3)), Rounding(Grid(4, signed=False), 4)])
def test_the_error_is_that_of_the_samples(rounding: Rounding, groups: int) -> None:
    x, product = case(1, groups)
    scales = np.exp(np.random.default_rng(2).normal(size=groups * 16 + 1))
    scales[0] = 1
    for s in (np.ones_like(scales), scales):
        assert rounding.error(product, s) == pytest.approx(plain_error(x, product, s, rounding), rel=1e-3)


@pytest.mark.parametrize("seed", range(5))
def test_the_exponent_is_the_best_of_a_plain_search(seed: int) -> None:
    x, product = case(seed)
    loud = np.sqrt(np.square(x[0].astype(np.float64)).mean(axis=0))
    errors = []
    for a in (0.0, *EXPONENTS):
        s = np.append(1.0, loud**a / np.median(loud) ** a)
        errors.append(plain_error(x, product, s, FOUR))
    found = favour_loud(np.arange(1, 17), [product], np.ones(17), FOUR)
    # factors within 1 % of 1 are written as 1, and the median of an even number is a mean here
    assert plain_error(x, product, found, FOUR) == pytest.approx(min(errors), rel=0.03)
    assert plain_error(x, product, found, FOUR) < 0.99 * errors[0]


def test_no_factors_are_better_than_worse_ones() -> None:
    for seed in range(20):
        _, product = case(seed, spread=0.1)
        before = np.ones(17)
        found = favour_loud(np.arange(1, 17), [product], before, FOUR)
        assert found is before or FOUR.error(product, found) < 0.99 * FOUR.error(product, before)


def test_a_strength_that_is_given_is_used() -> None:
    _, product = case(4)
    loud = loudness([product], 17)
    found = favour_loud(np.arange(1, 17), [product], np.ones(17), FOUR, 0.5)
    ratio = found[1:] / np.sqrt(loud[1:])
    np.testing.assert_allclose(ratio / np.median(ratio), 1, rtol=0.011)
    np.testing.assert_array_equal(favour_loud(np.arange(1, 17), [product], np.ones(17), FOUR, 0.0), 1)


def test_a_step_that_follows_its_only_channel_gains_nothing() -> None:
    """Depthwise: all weights of an output read one channel, so its factor cancels."""
    rng = np.random.default_rng(3)
    x = rng.normal(size=(6, 300, 9)) * np.exp(2 * rng.normal(size=(6, 1, 1)))
    numbers = np.repeat(np.arange(1, 7), 9).reshape(6, 1, 9)
    product = Product(rng.normal(size=(6, 1, 9)), numbers, moments_of(x))
    before = np.ones(7)
    assert favour_loud(np.arange(1, 7), [product], before, Rounding(Grid(4))) is before


def test_silent_channels_keep_their_scale_and_others_are_not_touched() -> None:
    x, product = case(5)
    x[:, :, 2] = 0
    silent = Product(product.rows, product.read, moments_of(x))
    before = np.ones(17)
    before[9:] = 3.0
    found = favour_loud(np.arange(1, 9), [silent], before, FOUR)
    assert found[3] == 1
    assert found[1:9].max() > 1
    np.testing.assert_array_equal(found[9:], 3)
    nothing = Product(product.rows, product.read, moments_of(np.zeros_like(x)))
    assert FOUR.error(nothing, before) == 0
    assert favour_loud(np.arange(1, 9), [nothing], before, FOUR) is before


def test_loudness_is_the_root_of_the_mean_square_of_all_who_read() -> None:
    x, product = case(6)
    y, other = case(7)
    squares = [np.square(inputs[0].astype(np.float64)).mean(axis=0) for inputs in (x, 100 * y)]
    louder = Product(other.rows, other.read, moments_of(100 * y))
    plain = np.sqrt(sum(each / each.mean() for each in squares) / 2)
    np.testing.assert_allclose(loudness([product, louder], 20)[1:17], plain, rtol=1e-4)
    np.testing.assert_array_equal(loudness([product], 20)[17:], 0)
