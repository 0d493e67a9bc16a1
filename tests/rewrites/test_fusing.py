"""Activation functions and normalizations become one operator, however they were spelled."""

import numpy as np
import pytest

from hasten.rewrites import fuse_gelu, fuse_hardswish, fuse_layer_norm, one_hot_gather

from .proof import graph, normal, ops, proven, refused
from .sweep import swept

X = normal(3, 5, 8, seed=1) * 4

ERF = {
    "as PyTorch writes it": """a = Div(h, root) e = Erf(a) s = Add(e, one) t = Mul(half, s) y = Mul(h, t)""",
    "as PyTorch wrote it": """a = Div(h, root) e = Erf(a) s = Add(e, one) t = Mul(h, s) y = Mul(t, half)""",
    "half first": """a = Mul(h, inverse) e = Erf(a) s = Add(one, e) t = Mul(h, half) y = Mul(t, s)""",
    "divided by two": """a = Div(h, root) e = Erf(a) s = Add(e, one) t = Mul(s, h) y = Div(t, two)""",
}
TANH = {
    "with powers": """p = Pow(h, three) q = Mul(p, cubic) r = Add(h, q) u = Mul(r, outer) e = Tanh(u)
        s = Add(e, one) t = Mul(h, half) y = Mul(t, s)""",
    "as JAX writes it": """p = Mul(cubic, h) q = Mul(h, p) r = Mul(h, q) v = Add(h, r) u = Mul(outer, v)
        e = Tanh(u) s = Add(one, e) t = Mul(half, s) y = Mul(h, t)""",
}
NUMBERS = {
    "root": np.float32(1.4142135),
    "inverse": np.float32(0.70710677),
    "one": np.float32(1),
    "half": np.float32(0.5),
    "two": np.float32(2),
    "three": np.float32(3),
    "cubic": np.float32(0.044715),
    "outer": np.float32(0.7978845),
    "zero": np.float32(0),
    "six": np.float32(6),
    "sixth": np.float32(1 / 6),
}


def elementwise(body, **numbers):
    return graph(f"(float[n,5,8] x) => (float[n,5,8] y) {{ h = Relu(x) {body} }}", **{**NUMBERS, **numbers})


@pytest.mark.parametrize("spelling", [*ERF, *TANH])
def test_gelu_is_recognized(spelling):
    made = elementwise((ERF | TANH)[spelling])
    proven(made, swept(fuse_gelu.apply), x=X)
    assert ops(made) == {"Relu": 1, "Gelu": 1}
    exact = spelling in ERF
    assert made.ir_model.graph[1].attributes.get_string("approximate", "none") == (
        "none" if exact else "tanh"
    )


@pytest.mark.parametrize(
    ("body", "numbers"),
    [
        (ERF["half first"], {"inverse": np.float32(0.7)}),  # another function
        (ERF["half first"], {"half": np.float32(0.25)}),
        (ERF["half first"], {"one": np.float32(2)}),
        (ERF["half first"], {"half": np.full((5, 1), 0.5, np.float32)}),  # not one number
        (ERF["half first"].replace("Mul(h, half)", "Mul(x, half)"), {}),  # times something else
        (TANH["as JAX writes it"], {"cubic": np.float32(0.04)}),
    ],
)
def test_what_is_not_gelu_stays(body, numbers):
    refused(elementwise(body, **numbers), fuse_gelu.apply)


def test_gelu_waits_for_its_opset():
    body = ERF["half first"]
    refused(graph(f"(float[4] h) => (float[4] y) {{ {body} }}", opset=19, **NUMBERS), fuse_gelu.apply)


@pytest.mark.parametrize(
    "body",
    [
        "a = Add(h, three) c = Clip(a, zero, six) m = Mul(h, c) y = Div(m, six)",
        "a = Add(three, h) c = Clip(a, zero, six) m = Div(c, six) y = Mul(m, h)",
        "a = Add(h, three) c = Clip(a, zero, six) m = Mul(c, sixth) y = Mul(h, m)",
        "a = HardSigmoid<alpha=0.16666667, beta=0.5>(h) y = Mul(h, a)",
    ],
)
def test_hardswish_is_recognized(body):
    made = elementwise(body)
    proven(made, swept(fuse_hardswish.apply), x=X)
    assert ops(made) == {"Relu": 1, "HardSwish": 1}


def test_hardsigmoid_is_recognized():
    made = elementwise("a = Add(h, three) c = Clip(a, zero, six) y = Div(c, six)")
    proven(made, swept(fuse_hardswish.apply), x=X)
    assert ops(made) == {"Relu": 1, "HardSigmoid": 1}


@pytest.mark.parametrize(
    ("body", "numbers"),
    [
        ("a = Add(h, three) c = Clip(a, zero, six) m = Mul(h, c) y = Div(m, six)", {"three": np.float32(2)}),
        ("a = Add(h, three) c = Clip(a, zero, six) m = Mul(h, c) y = Div(m, six)", {"six": np.float32(5)}),
        ("a = Add(h, three) c = Clip(a, zero, six) m = Mul(x, c) y = Div(m, six)", {}),
        ("a = HardSigmoid<alpha=0.2, beta=0.5>(h) y = Mul(h, a)", {}),
    ],
)
def test_what_is_not_hardswish_stays(body, numbers):
    refused(elementwise(body, **numbers), fuse_hardswish.apply)


LAYER_NORM = """(float[n,5,8] x) => (float[n,5,8] y) {
    m = ReduceMean(x, axes) d = Sub(x, m) p = Pow(d, two) v = ReduceMean(p, axes)
    e = Add(v, epsilon) r = Sqrt(e) q = Div(d, r) s = Mul(q, gamma) y = Add(s, beta) }"""
LAYER_NORM_WEIGHTS = {
    "axes": np.asarray([-1]),
    "two": np.float32(2),
    "epsilon": np.float32(1e-5),
    "gamma": normal(8),
    "beta": normal(8, seed=2),
}


def test_layer_norm_is_recognized():
    made = graph(LAYER_NORM, **LAYER_NORM_WEIGHTS)
    proven(made, swept(fuse_layer_norm.apply), x=X)
    assert ops(made) == {"LayerNormalization": 1}


def test_layer_norm_over_two_axes_and_without_bias():
    made = graph(
        """(float[n,5,8] x) => (float[n,5,8] y) {
          m = ReduceMean(x, axes) d = Sub(x, m) p = Mul(d, d) v = ReduceMean(p, axes)
          e = Add(epsilon, v) r = Sqrt(e) q = Div(d, r) y = Mul(gamma, q) }""",
        axes=np.asarray([1, 2]),
        epsilon=np.float32(1e-5),
        gamma=normal(5, 8),
    )
    proven(made, swept(fuse_layer_norm.apply), x=X)
    assert ops(made) == {"LayerNormalization": 1}


@pytest.mark.parametrize(
    "changed",
    [
        {"axes": np.asarray([1])},  # not the last axis
        {"gamma": normal(1)},  # one number for all
        {"gamma": normal(5, 1)},
        {"two": np.float32(3)},
    ],
)
def test_what_is_not_layer_norm_stays(changed):
    refused(graph(LAYER_NORM, **{**LAYER_NORM_WEIGHTS, **changed}), fuse_layer_norm.apply)


INDEX = np.asarray([[0, 3, 6], [7, -1, 100]], np.int32)


def test_a_product_with_one_hot_vectors_is_a_lookup():
    made = graph(
        """(int32[n,3] x) => (float[n,3,4] y) {
          i = Unsqueeze(x, last) hot = Equal(i, all) f = Cast<to=1>(hot) y = MatMul(f, w) }""",
        last=np.asarray([-1]),
        all=np.arange(7, dtype=np.int32).reshape(1, 1, 7),
        w=normal(7, 4),
    )
    proven(made, swept(one_hot_gather.apply), x=INDEX)
    assert not ops(made)["MatMul"]


def test_onehot_then_matmul_is_a_lookup():
    made = graph(
        "(int64[n,3] x) => (float[n,3,4] y) { f = OneHot(x, depth, values) y = MatMul(f, w) }",
        depth=np.asarray(7),
        values=np.asarray([0, 1], np.float32),
        w=normal(7, 4),
    )
    inside = np.asarray([[0, 3, 6], [5, 2, 1]])
    proven(made, swept(one_hot_gather.apply), x=inside)
    assert not ops(made)["MatMul"]


@pytest.mark.parametrize(
    ("numbers", "weight"),
    [
        (np.arange(7, dtype=np.int32)[::-1].copy(), normal(7, 4)),  # another order
        (np.arange(1, 8, dtype=np.int32), normal(7, 4)),
        (np.arange(7, dtype=np.int32), np.full((7, 4), np.inf, np.float32)),  # 0 times infinity is not 0
    ],
)
def test_other_products_stay(numbers, weight):
    made = graph(
        """(int32[n,3] x) => (float[n,3,4] y) {
          i = Unsqueeze(x, last) hot = Equal(i, all) f = Cast<to=1>(hot) y = MatMul(f, w) }""",
        last=np.asarray([-1]),
        all=numbers,
        w=weight,
    )
    refused(made, one_hot_gather.apply)
