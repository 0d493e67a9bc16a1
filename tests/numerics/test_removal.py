"""What removal costs and what makes up for it, against least squares on the samples themselves."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hasten.numerics.covariance import shrunk
from hasten.numerics.removal import Reader, Regression, order_of_removal, prediction

SEEDS = st.integers(0, 10_000)


class Layer:
    """A linear layer without offset and correlated, centred samples of what it reads."""

    def __init__(self, rng: np.random.Generator, units: np.ndarray, outputs: int = 3, rows: int = 80) -> None:
        size = len(units)
        self.units = units
        x = rng.normal(size=(rows, size)) @ rng.normal(size=(size, size)) + 0.1 * rng.normal(
            size=(rows, size)
        )
        self.x = x - x.mean(axis=0)
        self.weight = rng.normal(size=(outputs, size))
        self.y = self.x @ self.weight.T
        self.reader = Reader(self.x.T @ self.x / rows, self.weight.T @ self.weight, units)

    def lost(self, gone: set[int]) -> float:
        """The share of the outputs that no regression on what is kept explains."""
        kept = self.x[:, ~np.isin(self.units, list(gone))]
        explained = kept @ np.linalg.lstsq(kept, self.y, rcond=None)[0]
        return float(np.square(self.y - explained).sum() / np.square(self.y).sum())


def several(seed: int, count: int, readers: int) -> list[Layer]:
    """Layers that read units of one to three inputs each, in any order, and inputs that are no unit's."""
    rng = np.random.default_rng(seed)
    layers = []
    for _ in range(readers):
        units = np.concatenate([np.repeat(np.arange(count), rng.integers(1, 4, count)), [-1, -1]])
        layers.append(Layer(rng, rng.permutation(units)))
    return layers


def greedy(layers: list[Layer], count: int) -> tuple[list[int], list[float]]:
    """The plain version: every unit is tried, and all is solved anew."""
    order: list[int] = []
    lost = [0.0]
    while len(order) < count - 1:
        tried = {
            unit: sum(layer.lost({*order, unit}) for layer in layers)
            for unit in range(count)
            if unit not in order
        }
        best = min(tried, key=tried.__getitem__)
        order.append(best)
        lost.append(tried[best])
    return order, lost


@given(SEEDS, st.integers(2, 6), st.integers(1, 2))
def test_the_order_and_what_is_lost_are_those_of_regressions_on_what_is_kept(seed, count, readers):
    layers = several(seed, count, readers)
    found = order_of_removal([layer.reader for layer in layers], count)
    order, lost = greedy(layers, count)
    assert found.units.tolist() == order
    np.testing.assert_allclose(found.lost, lost, rtol=1e-5, atol=1e-8)


@given(SEEDS)
def test_units_of_one_input_take_a_shorter_way_to_the_same(seed):
    layer = Layer(np.random.default_rng(seed), np.array([3, -1, 0, 2, 1, -1]))
    found = order_of_removal([layer.reader], 4)
    order, lost = greedy([layer], 4)
    assert found.units.tolist() == order
    np.testing.assert_allclose(found.lost, lost, rtol=1e-5, atol=1e-8)


@given(SEEDS, st.integers(2, 5))
def test_in_parts_the_cost_is_that_of_the_part_taken_together(seed, chunk):
    [layer] = several(seed, 9, 1)
    found = order_of_removal([layer.reader], 9, chunk)
    assert len(found.units) == len(set(found.units.tolist())) == (9 - 1) // chunk * chunk
    for end in range(0, len(found.units) + 1, chunk):
        np.testing.assert_allclose(
            found.lost[end], layer.lost(set(found.units[:end].tolist())), rtol=1e-5, atol=1e-8
        )
    middle = (found.lost[0] + found.lost[chunk] * np.arange(chunk + 1) / chunk)[: chunk + 1]
    np.testing.assert_allclose(found.lost[: chunk + 1], middle)


def test_what_follows_from_others_goes_first_and_costs_nothing():
    rng = np.random.default_rng(1)
    x = rng.normal(size=(500, 4))
    x = np.concatenate([x, x[:, :1] + x[:, 1:2]], axis=1)
    covariance = shrunk(x.T @ x / 500, 500)
    weight = np.array([[1.0, 1.0, 1.0, 1.0, 5.0]])
    found = order_of_removal([Reader(covariance, weight.T @ weight, np.arange(5))], 5)
    # y = 6 (x0 + x1) + x2 + x3, and the last input is that sum.
    assert set(found.units[:2].tolist()) == {0, 1}
    assert found.lost[2] < 0.002
    assert pytest.approx(found.lost[3], rel=0.2) == 1 / 74


def test_the_readers_stay_as_they_were():
    [layer] = several(3, 4, 1)
    before = [np.array(a) for a in (layer.reader.covariance, layer.reader.gram, layer.reader.units)]
    order_of_removal([layer.reader], 4)
    for old, new in zip(
        before, (layer.reader.covariance, layer.reader.gram, layer.reader.units), strict=True
    ):
        np.testing.assert_array_equal(old, new)


def test_a_unit_that_no_layer_reads_costs_nothing():
    layer = Layer(np.random.default_rng(4), np.array([0, 2, -1]))
    found = order_of_removal([layer.reader], 3)
    assert found.units[0] == 1
    assert found.lost[1] == 0
    with pytest.raises(ValueError, match="no layer reads"):
        order_of_removal([], 3)


def test_costs_that_are_no_numbers_come_to_an_end():
    layer = several(2, 6, 1)[0]
    covariance = layer.reader.covariance.copy()
    covariance[0] = covariance[:, 0] = np.nan
    found = order_of_removal([Reader(covariance, layer.reader.gram, layer.units)], 6, 2)
    assert sorted(found.units.tolist()) == sorted(set(found.units.tolist()))
    assert len(found.units) == 4


@given(SEEDS, st.integers(1, 6))
def test_a_prediction_is_the_regression_on_what_is_kept(seed, count):
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(60, 7)) @ rng.normal(size=(7, 7)) + 0.1 * rng.normal(size=(60, 7))
    kept = np.zeros(7, dtype=bool)
    kept[rng.permutation(7)[:count]] = True
    found = prediction(x.T @ x / 60, kept)
    np.testing.assert_array_equal(found[kept], np.eye(count))
    wanted = np.linalg.lstsq(x[:, kept], x, rcond=None)[0].T
    np.testing.assert_allclose(found, wanted, rtol=1e-5, atol=1e-7)


def plain_part(s: np.ndarray, n: int) -> float:
    """Chen et al., equation 23, term by term."""
    p = len(s)
    square, trace = np.trace(s @ s), np.trace(s)
    part = ((1 - 2 / p) * square + trace**2) / ((n + 1 - 2 / p) * (square - trace**2 / p))
    return float(min(part, 1.0))


def plainly_shrunk(s: np.ndarray, n: int) -> np.ndarray:
    part = plain_part(s, n)
    return (1 - part) * s + part * np.trace(s) / len(s) * np.eye(len(s))


@given(SEEDS, st.integers(2, 40), st.integers(3, 8))
def test_few_positions_are_drawn_to_the_middle_by_the_formula(seed, rows, size):
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(rows, size)) * rng.uniform(0.2, 3, size)
    covariance = x.T @ x / rows
    found = shrunk(covariance, rows)
    np.testing.assert_allclose(found, plainly_shrunk(covariance, rows), rtol=1e-9, atol=1e-12)
    assert np.linalg.eigvalsh(found).min() > 0
    np.testing.assert_allclose(np.trace(found), np.trace(covariance))


def test_what_never_varies_can_be_shrunk():
    for given_ in (np.zeros((3, 3)), np.eye(3), np.ones((1, 1))):
        found = shrunk(given_, 5)
        assert np.isfinite(found).all()
        assert np.linalg.eigvalsh(found).min() > 0


@given(SEEDS, st.booleans(), st.lists(st.integers(0, 60), max_size=5))
def test_a_regression_is_the_closed_form_however_samples_come(seed, centred, cuts):
    rng = np.random.default_rng(seed)
    x, y = rng.normal(size=(60, 4)) + 1, rng.normal(size=(60, 3)) - 2
    weight = rng.normal(size=(3, 4)).astype(np.float32)
    sums = Regression(4, 3)
    edges = [0, *sorted(cuts), 60]
    for start, end in pairwise(edges):
        sums.update(x[start:end], y[start:end])
    assert sums.count == 60
    made, offset = sums.solve(weight, np.zeros(3) if centred else None)
    mean_x, mean_y = (x.mean(axis=0), y.mean(axis=0)) if centred else (np.zeros(4), np.zeros(3))
    u, v = x - mean_x, y - mean_y
    # A ridge towards the weight: argmin ‖v - u Mᵀ‖² / n where what u says is drawn to the middle.
    second = u.T @ u / 60
    ridge = shrunk(second, 60)
    said = 1 - plain_part(second, 60)
    wanted = weight + said * (np.linalg.inv(ridge) @ (u.T @ (v - u @ weight.T) / 60)).T
    np.testing.assert_allclose(made, wanted, rtol=1e-8, atol=1e-8)
    if centred:
        assert offset is not None
        np.testing.assert_allclose(offset, y.mean(axis=0) - made @ x.mean(axis=0), rtol=1e-8, atol=1e-8)
    else:
        assert offset is None


def test_with_many_positions_it_is_least_squares():
    rng = np.random.default_rng(2)
    x = (rng.normal(size=(20_000, 5)) @ rng.normal(size=(5, 5))).astype(np.float32)
    truth, offset = rng.normal(size=(3, 5)), rng.normal(size=3)
    y = (x @ truth.T + offset).astype(np.float32)
    sums = Regression(5, 3)
    for start in range(0, 20_000, 700):
        sums.update(x[start : start + 700], y[start : start + 700])
    near = truth + 0.1 * rng.normal(size=truth.shape)
    made, found = sums.solve(near, np.zeros(3))
    assert found is not None
    before, after = (np.square(x @ matrix.T + offset - y).mean() for matrix in (near, made))
    assert after < 1e-3 * before
    np.testing.assert_allclose(found, offset, atol=0.01)


@pytest.mark.parametrize("centred", [True, False])
@pytest.mark.parametrize("count", [1, 2, 4])
def test_few_positions_never_take_outputs_further_from_what_they_should_be(count, centred):
    rng = np.random.default_rng(3)
    x, weight = rng.normal(size=(count, 40)) + 1, rng.normal(size=(5, 40))
    y = x @ weight.T + rng.normal(size=(count, 5))
    sums = Regression(40, 5)
    sums.update(x, y)
    made, offset = sums.solve(weight, np.zeros(5) if centred else None)
    before, after = (y - x @ matrix.T for matrix in (weight, made))
    if offset is not None:
        before, after = before - before.mean(axis=0), after - offset
    assert np.square(after).sum() <= np.square(before).sum() + 1e-12


def test_inputs_that_never_vary_keep_their_weights():
    rng = np.random.default_rng(5)
    x = np.full((50, 4), 3.7, np.float32)
    x[:, 0] = rng.normal(size=50)
    y = (x @ rng.normal(size=(4, 2)) + 5).astype(np.float32)
    sums = Regression(4, 2)
    sums.update(x, y)
    weight = rng.normal(size=(2, 4))
    made, offset = sums.solve(weight, np.zeros(2))
    np.testing.assert_array_equal(made[:, 1:], weight[:, 1:])
    # The ridge is about 2/51 of a quarter of the variance of the one that varies: its slope is off by 1 %.
    np.testing.assert_allclose(x @ made.T + offset, y, atol=0.1)


def test_half_precision_does_not_overflow():
    x = np.random.default_rng(4).normal(size=(300, 3)).astype(np.float16) * np.float16(200)
    sums, single = Regression(3, 3), Regression(3, 3)
    sums.update(x, x)
    single.update(x.astype(np.float32), x.astype(np.float32))
    made, wanted = (each.solve(np.zeros((3, 3)), None)[0] for each in (sums, single))
    np.testing.assert_allclose(made, wanted)
    assert np.isfinite(made).all()


def test_what_positions_say_nothing_about_stays():
    sums = Regression(4, 2)
    weight = np.arange(8.0).reshape(2, 4)
    made, offset = sums.solve(weight, np.zeros(2))
    np.testing.assert_allclose(made, weight)
    assert offset is not None
    x = np.zeros((30, 4))
    x[:, 0] = np.random.default_rng(1).normal(size=30)
    sums.update(x, 7 * x[:, :2])
    made, _ = sums.solve(weight, np.zeros(2))
    np.testing.assert_allclose(made[:, 1:], weight[:, 1:])
    assert abs(made[0, 0] - 7) < abs(weight[0, 0] - 7)
