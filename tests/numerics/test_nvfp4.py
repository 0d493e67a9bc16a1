"""NVFP4 against a plain version, block by block."""

from __future__ import annotations

import ml_dtypes
import numpy as np
import pytest

from hasten.numerics.nvfp4 import two_levels

LEVELS = [s * v for v in (0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0) for s in (1, -1)]
SCALES = np.arange(1, 127, dtype=np.uint8).view(ml_dtypes.float8_e4m3fn).astype(float)
"""All positive E4M3 numbers."""


def nearest(x: float, levels: np.ndarray) -> float:
    return float(levels[np.abs(levels - x).argmin()])


def plain(x: np.ndarray) -> np.ndarray:
    """Rows of blocks of 16, one number after the other."""
    tensor = np.float32(np.abs(x).max() / (6 * 448))
    found = np.zeros_like(x, dtype=float)
    for row in range(x.shape[0]):
        for start in range(0, x.shape[1], 16):
            block = x[row, start : start + 16].astype(float)
            scale = nearest(np.abs(block).max() / 6 / tensor, SCALES) * float(tensor)
            for i, number in enumerate(block):
                found[row, start + i] = nearest(number / scale, np.asarray(LEVELS)) * scale
    return found


@pytest.mark.parametrize("spread", [0.1, 1.0, 4.0])
def test_it_is_the_plain_version(spread: float) -> None:
    rng = np.random.default_rng(int(10 * spread))
    x = (rng.standard_normal((6, 64)) * rng.lognormal(0, spread, (6, 1))).astype(np.float32)
    np.testing.assert_allclose(two_levels(x, 1).round_trip(x), plain(x), rtol=1e-6, atol=1e-30)
    np.testing.assert_allclose(two_levels(x.T, 0).round_trip(x.T), plain(x).T, rtol=1e-6, atol=1e-30)


def test_scales_are_positive_and_the_largest_is_that_of_the_format() -> None:
    x = np.random.default_rng(0).standard_normal((4, 48)).astype(np.float32)
    x[1, :16] = 0.0
    x[2, :16] = 1e-9
    levels = two_levels(x, 1)
    scales = levels.blocks.astype(float)
    assert scales.shape == (4, 3)
    assert scales.max() == 448
    assert scales.min() == 2**-9
    assert not levels.round_trip(x)[1, :16].any()


@pytest.mark.parametrize("size", [0.0, 1e-38, 1e-30, 1e30, 3e38])
def test_sizes_at_the_ends_of_float32(size: float) -> None:
    x = (np.linspace(-1, 1, 32) * size).astype(np.float32)[None]
    found = two_levels(x, 1).round_trip(x)
    assert np.isfinite(found).all()
    if size >= 1e-30:
        assert np.abs(found - x).max() <= 0.17 * size
    else:
        assert np.abs(found - x).max() <= 1.1e-38


def test_finer_scales_than_powers_of_two_are_more_exact() -> None:
    from hasten.numerics.floats import microscaled

    x = np.random.default_rng(1).standard_normal((64, 256)).astype(np.float32)
    ours = np.square(two_levels(x, 1).round_trip(x) - x).mean()
    assert ours < 0.75 * np.square(microscaled(x, "e2m1", 1).round_trip(x) - x).mean()
