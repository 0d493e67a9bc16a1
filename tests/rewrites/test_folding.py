"""Constant factors and terms move into linear operators; where they cannot, nothing changes."""

import numpy as np
import pytest

from hasten.rewrites import fold_affine, fold_affine_before, fuse_pad, merge_affine

from .proof import graph, normal, ops, proven, refused

X = normal(2, 6, 9, 9, seed=1)


def norms(channels, seed=3):
    rng = np.random.default_rng(seed)
    gamma, variance = (rng.uniform(0.5, 2, channels).astype(np.float32) for _ in range(2))
    beta, mean = (rng.normal(size=channels).astype(np.float32) for _ in range(2))
    return {"gamma": gamma, "beta": beta, "mean": mean, "variance": variance}


@pytest.mark.parametrize("groups", [1, 2, 6])
def test_batch_norm_goes_into_a_convolution(groups):
    made = graph(
        f"""(float[n,6,9,9] x) => (float[n,12,9,9] y) {{
          c = Conv<pads=[1,1,1,1], group={groups}>(x, w)
          y = BatchNormalization<epsilon=0.01>(c, gamma, beta, mean, variance) }}""",
        w=normal(12, 6 // groups, 3, 3),
        **norms(12),
    )
    proven(made, fold_affine.apply, x=X)
    assert ops(made) == {"Conv": 1}
    assert made.ir_model.graph[0].name == "n0"
    assert "w" in made.weights


@pytest.mark.parametrize("groups", [1, 2, 3])
def test_a_chain_goes_into_a_transposed_convolution(groups):
    made = graph(
        f"""(float[n,6,9,9] x) => (float[n,12,18,18] y) {{
          c = ConvTranspose<strides=[2,2], group={groups}>(x, w)
          a = Add(c, bias)
          b = BatchNormalization(a, gamma, beta, mean, variance)
          y = Div(b, six) }}""",
        w=normal(6, 12 // groups, 2, 2),
        bias=normal(1, 12, 1, 1),
        six=np.float32(6),
        **norms(12),
    )
    proven(made, fold_affine.apply, x=X)
    assert ops(made) == {"ConvTranspose": 1}


@pytest.mark.parametrize("transposed", [0, 1])
def test_a_chain_goes_into_gemm_with_its_alpha_and_beta(transposed):
    made = graph(
        f"""(float[n,6] x) => (float[n,4] y) {{
          g = Gemm<alpha=0.5, beta=3.0, transB={transposed}>(x, w, c)
          a = Sub(one, g)
          y = BatchNormalization(a, gamma, beta, mean, variance) }}""",
        w=normal(4, 6) if transposed else normal(6, 4),
        c=normal(1, 4),
        one=np.ones(4, np.float32),
        **norms(4),
    )
    proven(made, fold_affine.apply, x=normal(5, 6))
    assert ops(made) == {"Gemm": 1}


def test_matmul_takes_factors_and_keeps_one_add():
    made = graph(
        """(float[n,7,6] x) => (float[n,4,7] y) {
          m = MatMul(x, w)
          a = Add(bias, m)
          r = Mul(a, per_column)
          t = Transpose<perm=[0,2,1]>(r)
          y = Mul(t, single) }""",
        w=normal(6, 4),
        bias=normal(4),
        per_column=normal(4, seed=5),
        single=np.asarray([0.25], np.float32),
    )
    proven(made, fold_affine.apply, x=normal(2, 7, 6))
    assert ops(made) == {"MatMul": 1, "Add": 1, "Transpose": 1}


def test_batch_norm_after_matmul_leaves_an_add():
    made = graph(
        """(float[n,6] x) => (float[n,4] y) {
          m = MatMul(x, w)
          y = BatchNormalization(m, gamma, beta, mean, variance) }""",
        w=normal(6, 4),
        **norms(4),
    )
    proven(made, fold_affine.apply, x=normal(3, 6))
    assert ops(made) == {"MatMul": 1, "Add": 1}


def test_terms_follow_a_channel_axis_through_squeeze_and_transpose():
    made = graph(
        """(float[n,6,9,1] x) => (float[n,9,4] y) {
          c = Conv(x, w)
          s = Squeeze(c, last)
          a = Add(s, column)
          t = Transpose<perm=[0,2,1]>(a)
          y = Mul(t, row) }""",
        w=normal(4, 6, 1, 1),
        last=np.asarray([3]),
        column=normal(1, 4, 1),
        row=normal(4, seed=9),
    )
    proven(made, fold_affine.apply, x=X[:, :, :, :1])
    assert ops(made) == {"Conv": 1, "Squeeze": 1, "Transpose": 1}


CONV = "(float[n,6,9,9] x) => (float[n,4,9,9] y) { c = Conv(x, w) y = Mul(c, s) }"


@pytest.mark.parametrize(
    ("text", "weights"),
    [
        (CONV, {"s": normal(9)}),  # along the width, not the channels
        (CONV, {"s": normal(2, 4, 1, 1)}),  # along the batch
        (CONV, {"s": np.ones((1, 1, 1, 1, 1), np.float32)}),  # would add an axis
        ("(float[n,6,9,9] x) => (float[n,4,9,9] y) { c = Conv(x, w) y = Mul(c, c) }", {}),
        ("(float[n,6,9,9] x, float s) => (float[n,4,9,9] y) { c = Conv(x, w) y = Mul(c, s) }", {}),
        (
            "(float[n,6,9,9] x) => (float[n,4,9,9] y, float[n,4,9,9] c) { c = Conv(x, w) y = Mul(c, s) }",
            {"s": np.float32(2)},
        ),  # the value in between is an output
        (
            "(float[n,6,9,9] x) => (float[n,4,9,9] y) "
            "{ c = Conv(x, w) d = Mul(c, s) e = Conv(x, w) y = Add(d, e) }",
            {"s": np.float32(2)},
        ),  # the weight is shared
        (
            "(float[n,6,9,9] x, float[4,6,1,1] v) => (float[n,4,9,9] y) { c = Conv(x, v) y = Mul(c, s) }",
            {"s": np.float32(2)},
        ),  # the weight is not constant
        (
            "(float[n,6,9,9] x) => (float[n,9,9,4] y) "
            "{ c = Conv(x, w) t = Transpose<perm=[0,2,3,1]>(c) r = Reshape(t, k) y = Mul(r, s) }",
            {"s": normal(4), "k": np.asarray([0, 0, 0, 4])},
        ),  # after a Reshape no axis is known to hold the channels
    ],
)
def test_a_factor_stays(text, weights):
    refused(graph(text, w=normal(4, 6, 1, 1), **weights), fold_affine.apply)


def test_an_overflow_is_refused():
    made = graph(
        "(float16[n,6] x) => (float16[n,4] y) { g = Gemm(x, w) y = Mul(g, s) }",
        w=normal(6, 4).astype(np.float16),
        s=np.float16(60000),
    )
    assert "range" in refused(made, fold_affine.apply).skipped[0].reason


def test_a_batch_norm_that_stays_says_why():
    made = graph(
        """(float[n,6,9,9] x) => (float[n,6,9,9] y) {
          r = Relu(x) y = BatchNormalization(r, gamma, beta, mean, variance) }""",
        **norms(6),
    )
    assert "no linear operator" in refused(made, fold_affine.apply).skipped[0].reason


@pytest.mark.parametrize("groups", [1, 2, 6])
def test_what_stands_before_convolutions_goes_into_them(groups):
    made = graph(
        f"""(float[n,6,9,9] x) => (float[n,12,9,9] y, float[n,12,7,7] z) {{
          r = Relu(x)
          b = BatchNormalization(r, gamma, beta, mean, variance)
          a = Add(b, term)
          y = Conv<group={groups}>(a, v)
          z = Conv<group={groups}>(a, w, bias) }}""",
        term=np.float32(0.5),
        v=normal(12, 6 // groups, 1, 1, seed=4),
        w=normal(12, 6 // groups, 3, 3),
        bias=normal(12),
        **norms(6),
    )
    proven(made, fold_affine_before.apply, x=X)
    assert ops(made) == {"Relu": 1, "Conv": 2}


def test_what_stands_before_gemm_goes_into_it():
    made = graph(
        "(float[n,6] x) => (float[n,4] y) { r = Relu(x) m = Mul(r, s) a = Sub(m, t) y = Gemm(a, w) }",
        s=normal(6),
        t=normal(6, seed=2),
        w=normal(6, 4),
    )
    proven(made, fold_affine_before.apply, x=normal(3, 6))
    assert ops(made) == {"Relu": 1, "Gemm": 1}


def test_padding_lets_only_the_factor_through():
    made = graph(
        """(float[n,6,9,9] x) => (float[n,6,9,9] y) {
          r = Relu(x) m = Mul(s, r) a = Add(m, t) y = Conv<pads=[1,1,1,1], group=6>(a, w) }""",
        s=np.float32(0.125),
        t=np.float32(0.3),
        w=normal(6, 1, 3, 3),
    )
    proven(made, fold_affine_before.apply, x=X)
    assert ops(made) == {"Relu": 1, "Add": 1, "Conv": 1}


@pytest.mark.parametrize(
    ("factor", "pads"), [(1e-7, "[1,1,1,1]"), (0.0, "[1,1,1,1]")], ids=["tiny factor", "zero factor"]
)
def test_a_factor_that_cannot_be_divided_by_stays(factor, pads):
    text = f"""(float[n,6,9,9] x) => (float[n,6,9,9] y) {{
        r = Relu(x) m = Mul(r, s) a = Add(m, t) y = Conv<pads={pads}, group=6>(a, w) }}"""
    weights = {"s": np.float32(factor), "t": np.float32(0.3), "w": normal(6, 1, 3, 3)}
    refused(graph(text, **weights), fold_affine_before.apply)


@pytest.mark.parametrize(
    "text",
    [
        # padding and only a term
        "(float[n,6,9,9] x) => (float[n,4,9,9] y) "
        "{ r = Relu(x) a = Add(r, s) y = Conv<pads=[1,1,1,1]>(a, w) }",
        # a user that is not linear
        "(float[n,6,9,9] x) => (float[n,4,7,7] y, float[n,6,9,9] z) "
        "{ a = Mul(x, s) y = Conv(a, w) z = Relu(a) }",
        # an output of the graph
        "(float[n,6,9,9] x) => (float[n,4,7,7] y, float[n,6,9,9] a) { a = Mul(x, s) y = Conv(a, w) }",
        # same-padding chosen by the runtime
        '(float[n,6,9,9] x) => (float[n,4,9,9] y) { a = Add(x, s) y = Conv<auto_pad="SAME_UPPER">(a, w) }',
    ],
)
def test_what_stands_before_stays(text):
    refused(graph(text, s=np.float32(2), w=normal(4, 6, 3, 3)), fold_affine_before.apply)


def test_runs_of_arithmetic_merge():
    made = graph(
        """(float[n,6,9,9] x) => (float[n,6,9,9] y, float[n,6,9,9] z) {
          r = Relu(x)
          a = Mul(r, column) b = Add(a, two) c = Div(b, two) y = Sub(c, two)
          d = Mul(r, two) e = Neg(d) f = Mul(two, d) z = Div(f, two) }""".replace("e = Neg(d) ", ""),
        column=normal(1, 6, 1, 1),
        two=np.float32(2),
    )
    proven(made, merge_affine.apply, x=X)
    assert ops(made) == {"Relu": 1, "Mul": 2, "Add": 1}


@pytest.mark.parametrize(
    "text",
    [
        # a row and a column would become a matrix
        "(float[4,5] x) => (float[4,5] y) { a = Mul(x, row) y = Mul(a, column) }",
        # the constant enlarges the value
        "(float[1,5] x) => (float[4,5] y) { a = Mul(x, column) y = Mul(a, column) }",
        # one Mul and one Add are the least already
        "(float[4,5] x) => (float[4,5] y) { a = Mul(x, row) y = Add(a, row) }",
        # a value in between is used
        "(float[4,5] x) => (float[4,5] y, float[4,5] a) { a = Mul(x, row) y = Mul(a, row) }",
        # whole numbers divide with rounding
        "(int64[4,5] x) => (int64[4,5] y) { a = Div(x, two) y = Mul(a, two) }",
    ],
)
def test_arithmetic_stays(text):
    weights = {"row": normal(5), "column": normal(4, 1), "two": np.asarray(2)}
    refused(graph(text, **weights), merge_affine.apply)


def test_zeros_around_the_image_become_pads():
    made = graph(
        """(float[n,6,9,9] x) => (float[n,4,m,k] y) {
          p = Pad(x, amounts, zero) y = Conv<pads=[1,0,0,1], strides=[2,2]>(p, w) }""",
        amounts=np.asarray([0, 0, 1, 2, 0, 0, 3, 0]),
        zero=np.float32(0),
        w=normal(4, 6, 3, 3),
    )
    proven(made, fuse_pad.apply, x=X)
    assert ops(made) == {"Conv": 1}


def test_pads_of_named_axes_are_understood():
    made = graph(
        "(float[n,6,9,9] x) => (float[n,4,m,k] y) { p = Pad(x, amounts, , axes) y = Conv(p, w) }",
        amounts=np.asarray([2, 1]),
        axes=np.asarray([-1]),
        w=normal(4, 6, 3, 3),
    )
    proven(made, fuse_pad.apply, x=X)
    assert list(made.ir_model.graph[0].attributes["pads"].as_ints()) == [0, 2, 0, 1]


@pytest.mark.parametrize(
    ("attributes", "amounts", "filling"),
    [
        ("", [0, 0, 1, 1, 0, 0, 1, 1], 1.0),  # ones, not zeros
        ("", [0, 1, 0, 0, 0, 1, 0, 0], 0.0),  # channels
        ("", [0, 0, -1, 0, 0, 0, 0, 0], 0.0),  # crops
        ('<mode="reflect">', [0, 0, 1, 1, 0, 0, 1, 1], 0.0),
    ],
)
def test_other_paddings_stay(attributes, amounts, filling):
    made = graph(
        f"(float[n,6,9,9] x) => (float[n,4,m,k] y) {{ p = Pad{attributes}(x, amounts, f) y = Conv(p, w) }}",
        amounts=np.asarray(amounts),
        f=np.float32(filling),
        w=normal(4, 6 + 2 * amounts[1], 3, 3),
    )
    assert refused(made, fuse_pad.apply).skipped
