"""Covariances from moments: those of the samples, and of what never varies no rounding error."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from hasten.numerics.covariance import about_mean, constants, shrunk


@given(st.integers(0, 10_000), st.integers(1, 3))
def test_about_the_mean_it_is_the_covariance_of_each_group(seed, groups):
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(groups, 50, 4)) @ rng.normal(size=(4, 4)) + rng.normal(size=4)
    found = about_mean(x.swapaxes(1, 2) @ x / 50, x.mean(axis=1))
    for group, made in zip(x, found, strict=True):
        np.testing.assert_allclose(made, np.cov(group.T, bias=True), atol=1e-9)


def test_what_never_varies_varies_by_the_least_that_can_be_told():
    rng = np.random.default_rng(0)
    x = np.repeat(rng.normal(size=(1, 6)), 20, axis=0).astype(np.float32)
    x[:, 0] = rng.normal(size=20)
    x[:, 1] = 0
    second = (x.T @ x).astype(np.float64) / 20
    mean = x.mean(axis=0, dtype=np.float64)
    assert constants(second, mean).tolist() == [False, *[True] * 5]
    found = about_mean(second, mean)
    np.testing.assert_array_equal(found, np.diag(np.diagonal(found)))
    np.testing.assert_allclose(np.diagonal(found)[1:], 1e-6 * np.square(x[0, 1:]), rtol=1e-3)
    assert np.linalg.eigvalsh(shrunk(found, 20)).min() > 0
