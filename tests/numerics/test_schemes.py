"""Powers of two, small floats, clusters, shifted means, codes: against the nearest of all levels."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from hasten.numerics import floats
from hasten.numerics.affine import Grid, asymmetric, symmetric
from hasten.numerics.blocks import extremes_of, largest_of
from hasten.numerics.clusters import codebook
from hasten.numerics.codes import entropy_bits, pack, unpacked
from hasten.numerics.moments import mean_variance, normal_sigmas
from hasten.numerics.powers import Powers, powers

numbers = st.floats(-1e6, 1e6, width=32, allow_subnormal=False)
values = arrays(np.float32, st.integers(1, 40), elements=numbers)


def weights(rows=16, columns=64, seed=0):
    return np.random.default_rng(seed).normal(size=(rows, columns)).astype(np.float32)


def distance(x, levels):
    """How far each number is from the nearest level."""
    return np.abs(np.asarray(x, float)[:, None] - np.asarray(levels, float)[None]).min(axis=1)


@given(values, st.integers(2, 8))
def test_arithmetic_powers_are_the_nearest_ones(x, bits):
    quantizer = powers(x, bits)
    high = 2 ** (bits - 1) - 1
    positive = [2.0 ** (int(quantizer.top) - i) for i in range(high)]
    levels = [0.0, *positive, *(-p for p in positive)]
    found = quantizer.round_trip(x)
    assert set(found.astype(float).tolist()) <= set(levels)
    np.testing.assert_array_equal(np.abs(found.astype(float) - x), distance(x, levels))


@given(values, st.integers(2, 8))
def test_geometric_powers_round_the_logarithm(x, bits):
    quantizer = powers(x, bits, midpoint="geometric")
    high = 2 ** (bits - 1) - 1
    for number, found in zip(x.astype(float), quantizer.round_trip(x).astype(float), strict=True):
        if number == 0.0:
            assert found == 0.0
            continue
        exact = np.log2(abs(number))
        if abs(exact - np.floor(exact) - 0.5) < 1e-6:
            continue  # at the border the logarithm is not exact
        exponent = round(exact)
        wanted = 0.0 if exponent <= int(quantizer.top) - high else 2.0**exponent
        assert found == np.sign(number) * wanted


@given(values, st.integers(2, 8))
def test_powers_of_codes_stay_and_mirror(x, bits):
    quantizer = powers(x, bits)
    codes = quantizer.quantize(x)
    assert np.abs(codes.astype(int)).max() <= quantizer.high
    np.testing.assert_array_equal(quantizer.quantize(quantizer.dequantize(codes)), codes)
    np.testing.assert_array_equal(quantizer.quantize(-x), -codes)


def test_powers_per_channel_are_those_of_each_slice():
    x = weights() * np.float32(2) ** np.arange(16, dtype=np.float32)[:, None]
    quantizer = powers(x, 4, 0)
    for row, found in zip(x, quantizer.round_trip(x), strict=True):
        np.testing.assert_array_equal(found, powers(row, 4).round_trip(row))
    with pytest.raises(ValueError, match="2 to 8 bits"):
        Powers(np.int32(0), 9)


@pytest.mark.parametrize(
    ("name", "largest", "smallest"),
    [
        ("e4m3", 448, 2**-9),
        ("e5m2", 57344, 2**-16),
        ("e3m2", 28, 2**-4),
        ("e2m3", 7.5, 2**-3),
        ("e2m1", 6, 0.5),
    ],
)
def test_constants_of_the_float_formats(name, largest, smallest):
    format_ = floats.FORMATS[name]
    table = format_.table[np.isfinite(format_.table)]
    assert (table.max(), table[table > 0].min()) == (largest, smallest) == (format_.largest, smallest)
    assert 2.0**format_.exponent <= largest < 2.0 ** (format_.exponent + 1)


@given(values, st.sampled_from(sorted(floats.FORMATS)))
def test_floats_are_the_nearest_and_saturate(x, name):
    format_ = floats.FORMATS[name]
    levels = format_.table[np.isfinite(format_.table)]
    found = format_.encode(x).astype(np.float32)
    clipped = np.clip(x, -format_.largest, format_.largest)
    np.testing.assert_array_equal(np.abs(found.astype(float) - clipped), distance(clipped, levels))


def test_halves_go_to_the_even_mantissa():
    halves = [0.25, 0.75, 1.25, 1.75, 2.5, 3.5, 5.0]
    found = floats.FORMATS["e2m1"].encode(halves).astype(np.float32)
    assert found.tolist() == [0.0, 1.0, 1.0, 2.0, 2.0, 4.0, 4.0]


@pytest.mark.parametrize("name", sorted(floats.FORMATS))
def test_microscaling_is_the_specification_block_by_block(name):
    x = weights(4, 96) * np.float32(1e-3)
    x[1, :32] = 0
    shared = floats.microscaled(x, name, 1)
    format_ = floats.FORMATS[name]
    found = shared.round_trip(x)
    for row, block in itertools.product(range(4), range(3)):
        part = x[row, 32 * block : 32 * block + 32]
        largest = float(np.abs(part).max())
        exponent = int(np.floor(np.log2(largest))) - format_.exponent if largest else 0
        scale = np.float32(2.0**exponent)
        wanted = format_.encode(part / scale).astype(np.float32) * scale
        np.testing.assert_array_equal(found[row, 32 * block : 32 * block + 32], wanted)
        assert floats.e8m0_table()[shared.shared_exponents[row, block]] == scale
    with pytest.raises(ValueError, match="E8M0"):
        _ = floats.scaled(x, name).shared_exponents


@pytest.mark.parametrize("group", [None, 16])
def test_a_scale_brings_the_largest_to_the_largest(group):
    x = weights()
    axis = 0 if group is None else 1
    quantizer = floats.scaled(x, "e4m3", axis, group)
    found = largest_of(quantizer.quantize(x).astype(np.float32), axis, group)
    np.testing.assert_array_equal(found, np.full(found.shape, 448.0))


def plain_kmeans(x, most):
    """The least error of any division of the sorted numbers into runs, all of them tried."""
    x = np.sort(np.asarray(x, float))
    best = np.inf
    for cuts in itertools.combinations(range(1, len(x)), min(most, len(x)) - 1):
        parts = np.split(x, cuts)
        best = min(best, sum(float(np.square(p - p.mean()).sum()) for p in parts))
    return best


@given(arrays(np.float32, st.integers(1, 9), elements=st.floats(-10, 10, width=32)), st.sampled_from([1, 2]))
def test_few_values_are_divided_optimally(x, bits):
    book = codebook(x, bits)
    assert len(book.values) <= 2**bits
    error = np.square(book.round_trip(x).astype(float) - x).sum()
    assert error <= plain_kmeans(x, 2**bits) + 1e-4


@pytest.mark.parametrize("bits", [2, 4, 8])
def test_many_values_are_near_what_theory_says(bits):
    x = np.random.default_rng(1).normal(size=100_000)
    # Lloyd-Max quantizers of a normal distribution (Max 1960, table 1); Panter and Dite's limit for 256
    theory = {2: 0.1175, 4: 0.009497, 8: np.pi * np.sqrt(3) / 2 / 256**2}[bits]
    error = np.mean(np.square(codebook(x, bits).round_trip(x) - x))
    assert error == pytest.approx(theory, rel=0.06)  # of finitely many values a little less


@given(values)
def test_codes_are_the_nearest_of_the_codebook(x):
    book = codebook(x, 3)
    found = book.round_trip(x)
    wanted = distance(x, book.values)
    assert (np.abs(found.astype(float) - x) <= wanted + 1e-6 * np.abs(x)).all()
    with pytest.raises(ValueError, match="1 to 8 bits"):
        codebook(x, 9)


def test_a_mean_is_given_back():
    x = weights() * np.float32(0.01) + np.arange(16, dtype=np.float32)[:, None]
    shifted = mean_variance(x, Grid(8), 0, sigmas=6.0)
    np.testing.assert_allclose(shifted.mean, x.mean(axis=1), rtol=1e-6)
    assert np.abs(shifted.round_trip(x) - x).max() < 0.001
    plain = symmetric(largest_of(x, 0), Grid(8), 0).round_trip(x)
    assert np.square(shifted.round_trip(x) - x).sum() < 1e-2 * np.square(plain - x).sum()


def test_so_many_standard_deviations_are_kept():
    x = weights(2, 5000)
    shifted = mean_variance(x, Grid(4), 0, sigmas=2.0)
    sigma = x.std(axis=1)
    np.testing.assert_allclose(shifted.quantizer.scale * 7, 2 * sigma, rtol=1e-5)


@pytest.mark.parametrize(("bits", "known"), [(3, 2.15), (4, 2.55), (8, 3.92)])
def test_the_best_clipping_is_near_the_published_one(bits, known):
    # Banner et al. 2019 derive theirs for 2^bits levels over the range; here one level is left out
    assert normal_sigmas(bits) == pytest.approx(known, abs=0.25)


@given(arrays(np.uint8, st.integers(1, 30).map(lambda n: 4 * n), elements=st.integers(0, 3)))
def test_packed_codes_come_back(codes):
    np.testing.assert_array_equal(unpacked(signed=False)[pack(codes)].reshape(-1), codes)
    signed = codes.astype(np.int8) - 2
    np.testing.assert_array_equal(unpacked(signed=True)[pack(signed)].reshape(-1), signed)


def test_entropy_of_codes():
    assert entropy_bits(np.zeros(8, np.int8)) == 0
    assert entropy_bits(np.arange(16)) == 4
    with pytest.raises(ValueError, match="whole bytes"):
        pack(np.zeros(3, np.uint8))


FAMILIES = {
    "symmetric": lambda x, b: symmetric(largest_of(x, 0), Grid(b), 0),
    "asymmetric": lambda x, b: asymmetric(*extremes_of(x, 0), Grid(b, signed=False), 0),
    "groups": lambda x, b: symmetric(largest_of(x, 1, 16), Grid(b), 1, 16),
    "mean_variance": lambda x, b: mean_variance(x, Grid(b), 0),
    "log2": lambda x, b: powers(x, b, 0),
    "clusters": codebook,
    "float": lambda x, b: floats.scaled(x, {4: "e2m1", 6: "e2m3", 8: "e4m3"}[b], 0),
    "microscaled": lambda x, b: floats.microscaled(x, {4: "e2m1", 6: "e2m3", 8: "e4m3"}[b], 1),
}


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("make", ["normal", "heavy", "shifted"])
def test_more_bits_never_have_a_larger_error(family, make):
    x = weights(8, 512, seed=2)
    if make == "heavy":
        x = np.random.default_rng(3).standard_t(4, size=x.shape).astype(np.float32)
    x = x + np.float32(make == "shifted")
    bits = (4, 6, 8) if family in {"float", "microscaled"} else range(2, 9)
    if (family, make) == ("float", "normal") or family == "microscaled":
        bits = (4, 8)  # E2M3 has the mantissa of E4M3 and near the scale's end as many levels
    errors = [float(np.square(FAMILIES[family](x, b).round_trip(x) - x).sum(dtype=float)) for b in bits]
    assert all(more <= less for less, more in itertools.pairwise(errors)), errors
