"""Saturating 16-bit sums, against the arithmetic written out."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hasten.numerics.saturation import saturating_share


@given(st.integers(0, 500), st.integers(1, 5), st.integers(1, 9), st.integers(1, 6))
def test_it_counts_outputs_with_a_sum_beyond_16_bits(
    seed: int, positions: int, size: int, outputs: int
) -> None:
    rng = np.random.default_rng(seed)
    x = rng.integers(0, 256, (positions, size)).astype(np.uint8)
    w = rng.integers(-128, 128, (outputs, size)).astype(np.int8)
    spoilt = 0
    for a in x.tolist():
        for b in w.tolist():
            sums = [a[i] * b[i] + a[i + 1] * b[i + 1] for i in range(0, size - 1, 2)]
            spoilt += any(not -32768 <= s <= 32767 for s in sums)
    assert saturating_share(x, w) == pytest.approx(spoilt / (positions * outputs))


def test_seven_bits_never_saturate() -> None:
    x = np.full((3, 64), 255, np.uint8)
    assert saturating_share(x, np.full((4, 64), 64, np.int8)) == 0.0
    assert saturating_share(x, np.full((4, 64), 127, np.int8)) == 1.0


def test_many_outputs_are_counted_in_parts() -> None:
    x = np.full((64, 2048), 255, np.uint8)
    w = np.zeros((200, 2048), np.int8)
    w[::4, :2] = 127
    assert saturating_share(x, w) == 0.25


def test_nothing_to_add_cannot_saturate() -> None:
    assert saturating_share(np.full((2, 1), 255, np.uint8), np.full((2, 1), 127, np.int8)) == 0.0
