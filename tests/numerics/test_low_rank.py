"""Weights of low rank, against plain reference versions: truncated SVD, HOOI, least squares."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hasten.numerics.covariance import shrunk
from hasten.numerics.low_rank import Parts, Product, Separable, Target, Tucker

SIZES = st.integers(1, 9)


def moment_of(rng: np.random.Generator, size: int, count: int) -> np.ndarray:
    """Second moments of inputs that depend on each other and differ in size; singular for few."""
    mixing = rng.normal(size=(size, size)) * np.exp(rng.normal(size=size))
    x = rng.normal(size=(count, size)) @ mixing
    return x.T @ x / count


def square_root(moment: np.ndarray) -> np.ndarray:
    values, vectors = np.linalg.eigh(moment)
    return vectors * np.sqrt(np.maximum(values, 0)) @ vectors.T


def truncated(matrix: np.ndarray, rank: int) -> np.ndarray:
    left, values, right = np.linalg.svd(matrix, full_matrices=False)
    return left[:, :rank] * values[:rank] @ right[:rank]


def reference(weight: np.ndarray, moment: np.ndarray, rank: int) -> np.ndarray:
    """argmin over matrices of that rank of ‖(W - Z) C^½‖: truncate W C^½, and take C^½ out again."""
    root = square_root(moment)
    return truncated(weight @ root, rank) @ np.linalg.inv(root)


def error(change: np.ndarray, moment: np.ndarray) -> float:
    return float(np.trace(change @ moment @ change.T))


@settings(deadline=None, max_examples=60)
@given(SIZES, SIZES, st.integers(0, 99), st.data())
def test_a_product_is_the_truncated_svd_of_the_whitened_weight(outputs, inputs, seed, data):
    rng = np.random.default_rng(seed)
    weight, moment = rng.normal(size=(outputs, inputs)), moment_of(rng, inputs, 5 * inputs + 5)
    rank = data.draw(st.integers(1, min(outputs, inputs)))
    product = Product(Target(weight, moment))
    second, first = product.factors(rank)
    assert first.shape == (outputs, rank)
    assert second.shape == (rank, inputs)
    wanted = reference(weight, moment, rank)
    size = error(weight, moment)
    assert error(weight - first @ second, moment) == pytest.approx(
        error(weight - wanted, moment), abs=1e-9 * size
    )
    assert product.lost(rank) == pytest.approx(error(weight - wanted, moment) / size, abs=1e-9)


@settings(deadline=None, max_examples=60)
@given(SIZES, SIZES, st.integers(0, 99), st.data())
def test_without_moments_it_is_the_truncated_svd(outputs, inputs, seed, data):
    weight = np.random.default_rng(seed).normal(size=(outputs, inputs))
    rank = data.draw(st.integers(1, min(outputs, inputs)))
    product = Product(Target(weight))
    second, first = product.factors(rank)
    np.testing.assert_allclose(first @ second, truncated(weight, rank), atol=1e-9)
    values = np.linalg.svd(weight, compute_uv=False)
    assert product.lost(rank) == pytest.approx(1 - (values[:rank] ** 2).sum() / (values**2).sum(), abs=1e-9)


@settings(deadline=None, max_examples=60)
@given(SIZES, SIZES, st.integers(1, 12), st.integers(0, 99), st.data())
def test_it_loses_no_more_of_the_outputs_than_the_plain_svd(outputs, inputs, count, seed, data):
    rng = np.random.default_rng(seed)
    weight, seen = rng.normal(size=(outputs, inputs)), moment_of(rng, inputs, count)
    rank = data.draw(st.integers(1, min(outputs, inputs)))
    # On the moments that were seen, singular ones too, although what is solved are shrunk ones.
    second, first = Product(Target(weight, shrunk(seen, count))).factors(rank)
    aware, plain = (error(weight - made, seen) for made in (first @ second, truncated(weight, rank)))
    assert aware <= plain + 1e-9 * error(weight, seen)


@settings(deadline=None, max_examples=30)
@given(st.integers(2, 12), st.integers(1, 40), st.integers(0, 99))
def test_shrinking_follows_its_formula_and_keeps_the_trace(size, count, seed):
    moment = moment_of(np.random.default_rng(seed), size, count)
    found = shrunk(moment, count)
    trace, squares = sum(np.diag(moment)), sum(value**2 for value in moment.reshape(-1))
    part = ((1 - 2 / size) * squares + trace**2) / ((count + 1 - 2 / size) * (squares - trace**2 / size))
    part = min(max(part, 1e-4), 1.0)
    np.testing.assert_allclose(found, (1 - part) * moment + part * trace / size * np.eye(size))
    assert np.trace(found) == pytest.approx(trace)
    assert np.linalg.eigvalsh(found)[0] > 0


def test_few_positions_are_trusted_less():
    wide = moment_of(np.random.default_rng(2), 8, 4000)
    moved = [np.linalg.norm(shrunk(wide, count) - wide) / np.linalg.norm(wide) for count in (4, 40, 4000)]
    assert moved[0] > moved[1] > moved[2]
    assert moved[2] < 1e-2


OUTPUTS, PARTS, SIZE = 6, 3, 4


def parts_of(seed: int, *, aware: bool) -> tuple[Parts, np.ndarray, np.ndarray | None]:
    """Inputs in the order (s, j), which Parts brings into the order (j, s)."""
    rng = np.random.default_rng(seed)
    weight = rng.normal(size=(OUTPUTS, SIZE * PARTS))
    moment = moment_of(rng, SIZE * PARTS, 60) if aware else None
    order = np.arange(SIZE * PARTS).reshape(SIZE, PARTS).T.reshape(-1)
    parts = Parts(Target(weight, moment), order, PARTS)
    return parts, weight[:, order], None if moment is None else moment[np.ix_(order, order)]


def whole(basis: np.ndarray, behind: np.ndarray) -> np.ndarray:
    """The weight that a basis of parts, and what is behind it, make together."""
    return np.einsum("mjr,rs->mjs", behind, basis).reshape(OUTPUTS, -1)


@pytest.mark.parametrize("aware", [False, True])
@pytest.mark.parametrize("rank", [1, 2, 3, 4])
def test_behind_a_basis_the_rest_is_the_least_squares_solution(rank, aware):
    parts, weight, moment = parts_of(3, aware=aware)
    solved = Separable(parts, SIZE)
    basis, behind = solved.factors(rank)
    moment = np.eye(PARTS * SIZE) if moment is None else moment
    applied = np.kron(np.eye(PARTS), basis)  # B on every part
    root = square_root(moment)
    wanted = np.linalg.lstsq((applied @ root).T, (weight @ root).T, rcond=None)[0].T
    np.testing.assert_allclose(behind.reshape(OUTPUTS, -1), wanted, atol=1e-8)
    lost = error(weight - whole(basis, behind), moment) / error(weight, moment)
    assert solved.lost(rank) == pytest.approx(lost, abs=1e-9)
    assert parts.target.total == pytest.approx(error(weight, moment))


@pytest.mark.parametrize("rank", [1, 2, 3])
def test_by_weights_a_separable_weight_is_the_truncated_svd_of_its_unfolding(rank):
    parts, weight, _ = parts_of(4, aware=False)
    unfolded = weight.reshape(OUTPUTS * PARTS, SIZE)
    wanted = truncated(unfolded, rank).reshape(OUTPUTS, -1)
    np.testing.assert_allclose(whole(*Separable(parts, SIZE).factors(rank)), wanted, atol=1e-9)


def plain_hooi(tensor: np.ndarray, inputs: int, outputs: int) -> float:
    """The squared error of Tucker-2 along the first and last axis, after many iterations."""
    left = np.linalg.svd(tensor.reshape(len(tensor), -1))[0][:, :outputs]
    for _ in range(50):
        seen = np.einsum("mp,mjs->pjs", left, tensor).reshape(-1, tensor.shape[2])
        right = np.linalg.svd(seen)[2][:inputs].T
        seen = np.einsum("mjs,sq->mjq", tensor, right).reshape(len(tensor), -1)
        left = np.linalg.svd(seen)[0][:, :outputs]
    core = np.einsum("mp,mjs,sq->pjq", left, tensor, right)
    return float((tensor**2).sum() - (core**2).sum())


@pytest.mark.parametrize(("inputs", "outputs"), [(1, 1), (2, 3), (3, 2), (2, 6), (4, 3)])
def test_by_weights_tucker_comes_close_to_hooi_with_many_iterations(inputs, outputs):
    parts, weight, _ = parts_of(5, aware=False)
    tensor = weight.reshape(OUTPUTS, PARTS, SIZE)
    wanted = plain_hooi(tensor, inputs, outputs) / (tensor**2).sum()
    assert Tucker(parts).lost(inputs, outputs) == pytest.approx(wanted, rel=0.05, abs=1e-9)


@pytest.mark.parametrize("aware", [False, True])
@pytest.mark.parametrize(("inputs", "outputs"), [(1, 1), (2, 3), (4, 2), (4, 6)])
def test_tucker_loses_what_it_says(inputs, outputs, aware):
    parts, weight, moment = parts_of(6, aware=aware)
    solved = Tucker(parts)
    basis, core, left = solved.factors(inputs, outputs)
    assert (basis.shape, core.shape, left.shape) == (
        (inputs, SIZE),
        (outputs, PARTS, inputs),
        (OUTPUTS, outputs),
    )
    made = whole(basis, np.einsum("mp,pjq->mjq", left, core))
    moment = np.eye(PARTS * SIZE) if moment is None else moment
    lost = error(weight - made, moment) / error(weight, moment)
    assert solved.lost(inputs, outputs) == pytest.approx(lost, abs=1e-9)
    if (inputs, outputs) == (SIZE, OUTPUTS):
        np.testing.assert_allclose(made, weight, atol=1e-9)


def test_factors_share_their_scale():
    rng = np.random.default_rng(7)
    weight = rng.normal(size=(12, 20)) * np.exp(rng.normal(size=20))
    moment = moment_of(rng, 20, 400)
    second, first = Product(Target(weight, moment)).factors(10)
    varies = np.sqrt(np.einsum("ri,ij,rj->r", second, moment, second))
    np.testing.assert_allclose(varies, np.linalg.norm(first, axis=0), rtol=1e-6)
