"""Products with constant matrices as convolutions compute the same, of any rank, with a bias or without."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hasten.rewrites import ALL, pointwise

from .proof import graph, normal, ops, proven, refused

W, B, TABLE = normal(6, 4, seed=1), normal(4, seed=2), normal(5, 4, seed=3)


def test_it_is_only_done_when_asked_for():
    assert pointwise.apply not in ALL.values()


@settings(deadline=None, max_examples=40)
@given(st.lists(st.integers(1, 3), min_size=1, max_size=4), st.sampled_from(["", "b", "one", "table"]))
def test_a_product_and_what_is_added_to_it(sizes, added):
    shape = ",".join("nijk"[: len(sizes)])
    end = "y = Identity(z)" if not added else f"y = Add({added}, z)"
    weights = {"w": W, "b": B, "one": np.float32(0.5), "table": normal(sizes[-1], 4, seed=3)}
    made = graph(f"(float[{shape},6] x) => (float[{shape},4] y) {{ z = MatMul(x, w) {end} }}", **weights)
    before = ops(made)
    proven(made, pointwise.apply, x=normal(*sizes, 6))
    assert ops(made)["MatMul"] == 0
    assert ops(made)["Conv"] == 1
    is_bias = added in {"b", "one"} or (added == "table" and sizes[-1] == 1)
    assert ops(made)["Add"] == before["Add"] - is_bias


@pytest.mark.parametrize("attributes", ["", "<alpha=0.5, beta=2.0>", "<transB=1>"])
@pytest.mark.parametrize("bias", ["", ", b"])
def test_gemm(attributes, bias):
    weight = W.T.copy() if "transB" in attributes else W
    text = f"(float[n,6] x) => (float[n,4] y) {{ y = Gemm{attributes}(x, w{bias}) }}"
    made = graph(text, w=weight, b=B)
    proven(made, pointwise.apply, x=normal(3, 6))
    assert ops(made)["Conv"] == 1


def test_the_convolution_has_the_name_and_the_value_its_own():
    made = graph("(float[n,t,6] x) => (float[n,t,4] y) { z = MatMul(x, w) y = Add(z, b) }", w=W, b=B)
    sites = pointwise.apply(made).sites
    assert [site.name for site in sites] == ["n0"]
    convolution = next(node for node in made.ir_model.graph if node.op_type == "Conv")
    assert convolution.name == "n0"
    assert [spec.name for spec in made.outputs] == ["y"]


@pytest.mark.parametrize(
    "text",
    [
        "(float[n,6] x, float[6,4] m) => (float[n,4] y) { y = MatMul(x, m) }",
        "(float[n,6] x) => (float[n,4] y) { u = MatMul(x, w) v = Mul(x, x) z = MatMul(v, w) y = Add(u, z) }",
        "(float[a,b,c,d,e,6] x) => (float[a,b,c,d,e,4] y) { y = MatMul(x, w) }",
        "(float[n,6] x, float[n,4] c) => (float[n,4] y) { y = Gemm(x, w, c) }",
    ],
)
def test_what_stays(text):
    refused(graph(text, w=W), pointwise.apply)


@pytest.mark.parametrize("factor", ["alpha", "beta"])
def test_weights_that_a_factor_makes_too_large_stay(factor):
    made = graph(
        f"(float[n,6] x) => (float[n,4] y) {{ y = Gemm<{factor}=1e30>(x, w, b) }}", w=1e20 * W, b=1e20 * B
    )
    assert "exceed the range" in refused(made, pointwise.apply).skipped[0].reason
