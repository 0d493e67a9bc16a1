"""Linear operators with nothing between become one, exactly, and only where that is less to compute."""

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from hasten.graph.cost import total_macs
from hasten.rewrites import merge_linear

from .proof import graph, normal, ops, proven, refused

X = normal(2, 6, 9, 9, seed=1)

WINDOWS = st.fixed_dictionaries(
    {
        "kernels": st.sampled_from([(1, 1), (1, 2), (1, 3), (3, 1), (2, 1), (2, 2)]),
        "strides": st.tuples(st.integers(1, 2), st.integers(1, 2)),
        "pads": st.tuples(
            st.lists(st.integers(0, 1), min_size=4, max_size=4),
            st.lists(st.integers(0, 1), min_size=4, max_size=4),
        ),
        "dilations": st.tuples(st.integers(1, 2), st.integers(1, 2)),
        "groups": st.tuples(st.sampled_from([1, 1, 1, 2]), st.sampled_from([1, 1, 1, 2])),
        "biases": st.tuples(st.booleans(), st.booleans()),
        "channels": st.tuples(st.sampled_from([2, 6]), st.sampled_from([2, 12]), st.sampled_from([2, 6])),
        "sizes": st.booleans(),
    }
)


def pair(shape: dict) -> object:
    """Two convolutions, of images whose size the graph may or may not tell."""
    inputs, between, outputs = shape["channels"]
    text, weights = "", {}
    widths = ((inputs, between), (between, outputs))
    for i, (kernel, (reads, makes)) in enumerate(zip(shape["kernels"], widths, strict=True)):
        window = f"strides=[{shape['strides'][i]},1], pads={list(shape['pads'][i])}"
        window += f", dilations=[{shape['dilations'][i]},{shape['dilations'][i]}], group={shape['groups'][i]}"
        weights[f"w{i}"] = normal(makes, reads // shape["groups"][i], kernel, kernel, seed=i)
        weights[f"b{i}"] = normal(makes, seed=i + 5)
        bias = f", b{i}" if shape["biases"][i] else ""
        text += f"v{i} = Conv<{window}>({'x' if i == 0 else 'v0'}, w{i}{bias}) "
    size = "9,9" if shape["sizes"] else "h,w"
    named = {name: array for name, array in weights.items() if f"{name})" in text or f"{name}," in text}
    return graph(
        f"(float[n,{inputs},{size}] x) => (float[n,{outputs},p,q] y) {{ {text} y = Identity(v1) }}", **named
    )


@settings(deadline=None, max_examples=150)
@given(WINDOWS)
def test_a_pair_of_convolutions_is_one_or_stays(shape):
    made = pair(shape)
    x = normal(2, shape["channels"][0], 9, 9, seed=1)
    kernels = shape["kernels"]
    assume(all(d * (k - 1) < 8 for d, k in zip(shape["dilations"], kernels, strict=True)))
    before = total_macs(made, {"x": x})
    changed = made.copy()
    if not merge_linear.apply(changed).sites:
        refused(made, merge_linear.apply)
        assert (
            1 not in kernels
            or shape["groups"] != (1, 1)
            or any((any(shape["pads"][0]), any(shape["pads"][1]), before <= _as_one(shape, x)))
            or shape["strides"][0] > 1
            or not shape["sizes"]
        )
        return
    proven(made, merge_linear.apply, x=x)
    assert ops(made) == {"Conv": 1, "Identity": 1}
    assert shape["groups"] == (1, 1)
    assert total_macs(made, {"x": x}) < before


def _as_one(shape: dict, x: np.ndarray) -> int:
    """Multiply-accumulates of the one convolution, where neither pads."""
    taps = max(shape["kernels"]) ** 2
    reach = max(d * (k - 1) for d, k in zip(shape["dilations"], shape["kernels"], strict=True))
    rows = (9 - reach - 1) // (shape["strides"][0] * shape["strides"][1]) + 1
    return len(x) * shape["channels"][0] * shape["channels"][2] * taps * rows * (9 - reach)


def test_a_bias_passes_through_a_convolution_that_does_not_pad():
    made = graph(
        """(float[n,6,9,9] x) => (float[n,4,7,7] y) {
          a = Conv(x, w0, b0)
          y = Conv(a, w1, b1) }""",
        w0=normal(8, 6, 1, 1),
        b0=normal(8),
        w1=normal(4, 8, 3, 3, seed=2),
        b1=normal(4, seed=3),
    )
    proven(made, merge_linear.apply, x=X)
    assert ops(made) == {"Conv": 1}
    assert made.ir_model.graph[0].name == "n1"
    assert "w1" in made.weights


PADDED = "(float[n,6,9,9] x) => (float[n,4,9,9] y) { a = Conv(x, w0%s) y = Conv<pads=[1,1,1,1]>(a, w1) }"
W = {"w0": normal(8, 6, 1, 1), "w1": normal(4, 8, 3, 3, seed=2)}


def test_what_has_no_bias_merges_into_a_convolution_that_pads():
    proven(graph(PADDED % "", **W), merge_linear.apply, x=X)
    proven(graph(PADDED % ", b", b=np.zeros(8, np.float32), **W), merge_linear.apply, x=X)


def test_a_bias_does_not_pass_through_zero_padding():
    made = graph(PADDED % ", b", b=normal(8), **W)
    assert "zeros" in refused(made, merge_linear.apply).skipped[0].reason


def test_a_kernel_before_a_product_of_channels():
    made = graph(
        """(float[n,6,9,9] x) => (float[n,4,3,5] y) {
          a = Conv<pads=[1,1,1,1], strides=[2,1]>(x, w0, b0)
          y = Conv<strides=[2,2]>(a, w1) }""",
        w0=normal(12, 6, 3, 3),
        b0=normal(12),
        w1=normal(4, 12, 1, 1, seed=2),
    )
    proven(made, merge_linear.apply, x=X)
    assert ops(made) == {"Conv": 1}


def test_three_in_a_row_become_one():
    made = graph(
        """(float[n,6] x) => (float[n,4] y) {
          a = Gemm<transB=1, alpha=0.5>(x, w0, b0)
          b = Gemm(a, w1, b1)
          y = Gemm<beta=2.0>(b, w2, b2) }""",
        w0=normal(20, 6),
        b0=normal(20),
        w1=normal(20, 30),
        b1=normal(1, 30),
        w2=normal(30, 4),
        b2=normal(4),
    )
    proven(made, merge_linear.apply, x=normal(3, 6))
    assert ops(made) == {"Gemm": 1}


@pytest.mark.parametrize("shape", ["n,6", "n,5,6"])
def test_products_of_any_rank(shape):
    text = f"(float[{shape}] x) => (float[{shape[:-1]}4] y) {{ a = MatMul(x, w0) y = MatMul(a, w1) }}"
    made = graph(text, w0=normal(6, 9), w1=normal(9, 4))
    proven(made, merge_linear.apply, x=normal(3, 6) if shape == "n,6" else normal(3, 5, 6))
    assert ops(made) == {"MatMul": 1}


def test_a_product_takes_the_bias_of_one_before_it_only_where_it_has_a_place():
    text = "(float[n,6] x) => (float[n,4] y) { a = Gemm(x, w0, b) y = MatMul(a, w1) }"
    made = graph(text, w0=normal(6, 9), b=normal(9), w1=normal(9, 4))
    assert "no place" in refused(made, merge_linear.apply).skipped[0].reason


CHAIN = "(float[n,6] x) => (float[n,5] y%s) { a = MatMul(x, w0) y = MatMul(a, w1)%s }"


@pytest.mark.parametrize(
    ("text", "between"),
    [
        (CHAIN % ("", ""), 2),  # factors of low rank
        ("(float[n,6] x) => (float[n,5] y, float[n,9] a) { a = MatMul(x, w0) y = MatMul(a, w1) }", 9),
        ("(float[n,6] x) => (float[n,5] y) { a = MatMul(x, w0) r = Relu(a) y = MatMul(r, w1) }", 9),
        ("(float[n,6] x) => (float[n,5] y, float[n,9] z) { a = MatMul(x, w0) y = MatMul(a, w1)"
         " z = Relu(a) }", 9),
        ("(float[n,6] x) => (float[n,5] y) { a = MatMul(x, w0) b = MatMul(a, v) c = MatMul(x, w0)"
         " d = MatMul(c, v) e = Add(b, d) y = MatMul(e, u) }", 9),
    ],
)  # fmt: skip
def test_what_is_used_elsewhere_or_cheaper_in_two_stays(text, between):
    weights = {"w0": normal(6, between), "w1": normal(between, 5), "v": normal(between, 7), "u": normal(7, 5)}
    refused(graph(text, **weights), merge_linear.apply)


def test_factors_of_a_convolution_stay():
    made = graph(
        """(float[n,6,9,9] x) => (float[n,6,9,9] y) {
          a = Conv<pads=[1,1,1,1]>(x, w0)
          y = Conv(a, w1, b) }""",
        w0=normal(4, 6, 3, 3),
        w1=normal(6, 4, 1, 1),
        b=normal(6),
    )
    assert "low rank" in refused(made, merge_linear.apply).skipped[0].reason
