"""Factors between layers: against the formulas written out, and for channels of nothing."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hasten.numerics.equalization import (
    LARGEST_SCALE,
    Values,
    Weight,
    accumulate,
    add_squares,
    balance,
    equalize,
    predicted_error,
    scaled,
    smooth,
)


def layer(array: np.ndarray, made: np.ndarray | None, read: np.ndarray | None) -> Weight:
    """A matrix [outputs, inputs]."""
    rows = np.zeros(len(array), np.intp) if made is None else made
    columns = np.zeros(array.shape[1], np.intp) if read is None else read
    return Weight(np.abs(array), rows[:, None], columns[None])


def pair(seed: int, channels: int = 5) -> tuple[np.ndarray, np.ndarray, list[Weight]]:
    """W1 makes the channels, W2 reads them, both of very different ranges."""
    rng = np.random.default_rng(seed)
    first = rng.standard_normal((channels, 4)) * np.exp(rng.normal(size=(channels, 1)))
    second = rng.standard_normal((3, channels)) * np.exp(rng.normal(size=channels))
    numbers = np.arange(1, channels + 1)
    return first, second, [layer(first, numbers, None), layer(second, None, numbers)]


@given(st.integers(0, 1000))
def test_two_layers_end_with_the_ranges_of_the_paper(seed: int) -> None:
    first, second, weights = pair(seed)
    found = equalize(weights, 6, strength=0.5, rounds=10)
    assert found[0] == 1
    # s_i = √(r1·r2) / r2 (Nagel et al., section 4.1), up to a factor all channels share
    r1 = [max(abs(w) for w in row) for row in first]
    r2 = [max(abs(w) for w in column) for column in second.T]
    plain = np.array([math.sqrt(a * b) / b for a, b in zip(r1, r2, strict=True)])
    ratio = found[1:] / plain
    # factors within 1 % of 1 are written as 1
    np.testing.assert_allclose(ratio / np.median(ratio), 1.0, rtol=0.011)
    made = np.abs(scaled(first, found[1:, None], np.ones((1, 1)))).max(axis=1)
    read = np.abs(scaled(second, np.ones((1, 1)), found[None, 1:])).max(axis=0)
    np.testing.assert_allclose(made / read, np.median(made / read), rtol=0.03)


def test_values_are_smoothed_by_the_formula_of_the_paper() -> None:
    _, second, weights = pair(3)
    values = np.array([0.0, 1.0, 50.0, 2.0, 0.5, 3.0])
    for a in (0.0, 0.3, 1.0):
        found = smooth(weights, Values(values, values**2), strength=a, bits=8)
        plain = [
            values[i + 1] ** a / max(abs(w) for w in column) ** (1 - a) for i, column in enumerate(second.T)
        ]
        ratio = found[1:] / np.array(plain)
        np.testing.assert_allclose(ratio / np.median(ratio), 1.0, rtol=0.011)


def test_the_predicted_error_is_that_of_rounding() -> None:
    rng = np.random.default_rng(0)
    weight = rng.standard_normal((16, 64))
    x = rng.standard_normal((4000, 64)) * np.exp(rng.normal(size=64))
    numbers = np.arange(1, 65)
    values = Values(np.append(0.0, np.abs(x).max(axis=0)), np.append(0.0, np.square(x).mean(axis=0)))
    for factors in (np.ones(65), np.append(1.0, np.exp(0.5 * rng.normal(size=64)))):
        x_even, w_even = x / factors[1:], weight * factors[1:]
        step_x = np.abs(x_even).max() / 2**8
        step_w = np.abs(w_even).max(axis=1, keepdims=True) / 2**7
        rounded = (step_x * np.rint(x_even / step_x)) @ (step_w * np.rint(w_even / step_w)).T
        error = np.square(rounded - x @ weight.T).sum(axis=1).mean()
        found = predicted_error(layer(weight, None, numbers), factors, values, 8)
        # small values round to 0, which loses less than a twelfth of a squared step
        assert found == pytest.approx(error, rel=0.25)


def test_the_choice_of_strength_never_raises_the_prediction() -> None:
    for seed in range(20):
        _, _, weights = pair(seed, 12)
        rng = np.random.default_rng(seed)
        largest = np.append(0.0, np.exp(rng.normal(size=12) * rng.integers(0, 4)))
        values = Values(largest, np.square(largest) / 9)
        found = smooth(weights, values, strength=None, bits=8)
        before = predicted_error(weights[1], np.ones(13), values, 8)
        # factors within 1 % of 1 are written as 1
        assert predicted_error(weights[1], found, values, 8) <= before * 1.03


def test_a_chain_of_layers_settles() -> None:
    rng = np.random.default_rng(1)
    numbers = [None, *(np.arange(1 + 8 * i, 9 + 8 * i) for i in range(4)), None]
    arrays = [rng.standard_normal((8, 8)) * np.exp(rng.normal(size=(8, 1))) for _ in range(5)]
    weights = [layer(w, numbers[i + 1], numbers[i]) for i, w in enumerate(arrays)]
    found = equalize(weights, 33, strength=0.5, rounds=50)
    again = equalize(weights, 33, strength=0.5, rounds=100)
    np.testing.assert_array_equal(found, again)
    assert found.max() > 1.5


def test_channels_of_nothing_keep_their_scale() -> None:
    first = np.array([[1.0, 2.0], [0.0, 0.0], [4.0, 1.0], [1e-30, 0.0], [1.0, 1.0]])
    second = np.array([[1.0, 1.0, 1.0, 1.0, 0.0]])
    numbers = np.arange(1, 6)
    weights = [layer(first, numbers, None), layer(second, None, numbers)]
    found = equalize(weights, 6, strength=0.5, rounds=10)
    assert found[2] == found[5] == 1
    assert found.min() >= 1 / LARGEST_SCALE
    assert np.isfinite(found).all()
    np.testing.assert_array_equal(balance(np.array([np.inf, 0.0]), np.ones(2), 0.5), np.ones(2))


def test_largest_and_squares_are_counted_by_channel() -> None:
    x = np.random.default_rng(2).standard_normal((3, 4, 5)).astype(np.float32)
    labels = np.array([1, 2, 2, 0], np.intp).reshape(1, 4, 1)
    largest, squares, counts = np.zeros(3), np.zeros(3), np.zeros(3)
    for part in (x[:1], x[1:]):
        accumulate(largest, np.abs(part), labels)
        add_squares(squares, counts, part, labels)
    assert largest[1] == np.abs(x[:, 0]).max()
    assert largest[2] == np.abs(x[:, 1:3]).max()
    assert squares[2] / counts[2] == pytest.approx(np.square(x[:, 1:3]).mean(), rel=1e-6)
