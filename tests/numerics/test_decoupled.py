"""Kernels of single channels and of windows: the closed forms, and that descent only ever helps."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hasten.numerics import decoupled
from hasten.numerics.decoupled import Decoupled, Windowed
from hasten.numerics.low_rank import Target

SHAPES = st.tuples(st.integers(1, 6), st.integers(1, 5), st.integers(1, 5))


def drawn(seed: int, outputs: int, inputs: int) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(3 * inputs, inputs)) @ rng.normal(size=(inputs, inputs))
    return rng.normal(size=(outputs, inputs)), x.T @ x / len(x) + 0.01 * np.eye(inputs)


def made_of(kernels: np.ndarray, behind: np.ndarray) -> np.ndarray:
    """(rank, channels, taps) and (outputs, rank, channels) as one weight."""
    return np.einsum("mri,ris->mis", behind, kernels).reshape(len(behind), -1)


@settings(deadline=None, max_examples=60)
@given(SHAPES, st.integers(0, 99), st.booleans())
def test_what_is_lost_is_what_the_factors_lose_and_nothing_at_full_rank(shape, seed, aware):
    outputs, channels, taps = shape
    weight, moment = drawn(seed, outputs, channels * taps)
    target = Target(weight, moment if aware else None)
    solved = Decoupled(target, channels)
    lost = [solved.lost(rank) for rank in range(1, min(outputs, taps) + 1)]
    for rank, expected in enumerate(lost, start=1):
        assert target.lost(made_of(*solved.factors(rank))) == pytest.approx(expected, abs=1e-8)
    assert lost[-1] < 1e-8


@settings(deadline=None, max_examples=40)
@given(SHAPES, st.integers(0, 99))
def test_without_a_moment_each_channel_has_its_truncated_svd(shape, seed):
    outputs, channels, taps = shape
    weight, _ = drawn(seed, outputs, channels * taps)
    found = made_of(*Decoupled(Target(weight), channels).factors(1)).reshape(shape)
    for i, part in enumerate(weight.reshape(shape).swapaxes(0, 1)):
        left, values, right = np.linalg.svd(part, full_matrices=False)
        best = values[0] * np.outer(left[:, 0], right[0])
        np.testing.assert_allclose(found[:, i], best, atol=1e-9 * values[0])


def test_descent_loses_less_than_channels_by_themselves(monkeypatch):
    weight, moment = drawn(3, 12, 8 * 9)
    target = Target(weight, moment)
    lost = []
    for sweeps in range(4):
        monkeypatch.setattr(decoupled, "_SWEEPS", sweeps)
        lost.append(Decoupled(target, 8).lost(2))
    assert lost == sorted(lost, reverse=True)
    assert lost[2] < 0.9 * lost[0]


def test_channels_in_several_parts_are_the_same(monkeypatch):
    weight, moment = drawn(4, 6, 10 * 4)
    target = Target(weight, moment)
    whole = Decoupled(target, 10).lost(1)
    monkeypatch.setattr(decoupled, "_TOGETHER", 3)
    assert Decoupled(target, 10).lost(1) == pytest.approx(whole, rel=1e-9)


@pytest.mark.parametrize("groups", [0, 1, 3])
def test_a_window_is_a_regression(groups):
    inputs, outputs = 8, 6
    rng = np.random.default_rng(5)
    weight = rng.normal(size=(outputs, inputs))
    parts = max(groups, 1)
    x = rng.normal(size=(parts, 50, inputs)) @ rng.normal(size=(parts, inputs, inputs))
    second = x.swapaxes(1, 2) @ x / 50
    moment = None if not groups else second[0] if groups == 1 else second
    kept = np.array([1, 4, 5])
    target = Target(weight, moment)
    found = Windowed(target, kept)
    if groups:
        for i, rows in enumerate(weight.reshape(parts, -1, inputs)):
            best = np.linalg.lstsq(x[i][:, kept], x[i] @ rows.T)[0].T
            np.testing.assert_allclose(found.weight.reshape(parts, -1, 3)[i], best, atol=1e-8)
    else:
        np.testing.assert_array_equal(found.weight, weight[:, kept])
    spread = np.zeros(weight.shape)
    spread[:, kept] = found.weight
    assert target.lost(spread) == pytest.approx(found.lost, abs=1e-9)
