"""Rounding is told from error."""

import numpy as np
import pytest

from hasten.core.errors import MethodError
from hasten.graph.evaluate import Evaluator
from hasten.rewrites.equality import Equality

from .proof import graph, normal

W = normal(256, 64) / 16
TEXT = "(float[n,256] x) => (float[n,64] y) { m = MatMul(x, w) y = Relu(m) }"
FEEDS = [{"x": normal(4, 256, seed=2)}]


def test_a_graph_equals_itself():
    assert Equality(graph(TEXT, w=W), FEEDS).difference(graph(TEXT, w=W)) is None


def test_another_order_of_summation_is_equal():
    other = graph(
        "(float[n,256] x) => (float[n,64] y) { r = Gather<axis=1>(x, p) m = MatMul(r, w) y = Relu(m) }",
        w=W[::-1].copy(),
        p=np.arange(255, -1, -1),
    )
    assert Equality(graph(TEXT, w=W), FEEDS).difference(other) is None


@pytest.mark.parametrize(
    ("text", "weight", "said"),
    [
        (TEXT, W * np.float32(1.001), "differs by"),
        (TEXT.replace("Relu(m)", "Neg(m)"), W, "differs by"),
        ("(float[n,256] x) => (float[a,b] y) { m = MatMul(x, w) y = Transpose(m) }", W, "became"),
        (TEXT, np.where(np.arange(64) == 3, np.inf, W).astype(np.float32), "finite"),
        (TEXT.replace("Relu(m)", "Reshape(m, x)"), W, "ONNX Runtime"),
    ],
)
def test_another_function_is_not(text, weight, said):
    assert said in (Equality(graph(TEXT, w=W), FEEDS).difference(graph(text, w=weight)) or "")


def test_a_missing_output_is_a_difference():
    two = "(float[n,256] x) => (float[n,64] y, float[n,64] m) { m = MatMul(x, w) y = Relu(m) }"
    assert "missing" in (Equality(graph(two, w=W), FEEDS).difference(graph(TEXT, w=W)) or "")


def test_whole_numbers_must_be_the_same():
    best = "(float[n,256] x) => (int64[n] y) { m = MatMul(x, w) y = ArgMax<axis=1, keepdims=0>(m) }"
    worst = best.replace("ArgMax", "ArgMin")
    assert Equality(graph(best, w=W), FEEDS).difference(graph(best, w=W)) is None
    assert "differs" in (Equality(graph(best, w=W), FEEDS).difference(graph(worst, w=W)) or "")


def test_a_graph_that_amplifies_rounding_is_measured_first():
    """(x + 10⁶) - 10⁶ keeps 5 of 24 bits of x: any reordering shows."""
    text = "(float[n,256] x) => (float[n,64] y) { m = MatMul(x, w) a = Add(m, b) y = Sub(a, c) }"
    large = np.float32(1e6)
    reordered = graph(
        "(float[n,256] x) => (float[n,64] y) "
        "{ r = Gather<axis=1>(x, p) m = MatMul(r, w) a = Add(m, b) y = Sub(a, c) }",
        w=W[::-1].copy(),
        p=np.arange(255, -1, -1),
        b=large,
        c=large,
    )
    equality = Equality(graph(text, w=W, b=large, c=large), FEEDS)
    assert equality.difference(reordered) is None
    assert equality.difference(graph(text, w=W, b=large, c=np.float32(0))) is not None


def test_sequences_are_compared_item_by_item():
    text = "(float[n,256] x) => (seq(float[a,b]) y) { y = SplitToSequence<axis=1>(x, two) }"
    made = graph(text, two=np.asarray(128))
    assert Equality(made, FEEDS).difference(made) is None
    other = graph(text.replace("SplitToSequence", "SplitToSequence"), two=np.asarray(64))
    assert Equality(made, FEEDS).difference(other) is not None


def test_feeds_the_graph_refuses_are_an_error():
    with pytest.raises(MethodError, match="ONNX Runtime"):
        Equality(graph(TEXT, w=W), [{"x": normal(4, 5)}])


def test_a_graph_only_the_literal_run_accepts_can_still_be_compared():
    """ONNX Runtime's own fusion takes the Cast into the normalization and then refuses the mixed types."""
    made = graph(
        """(float[n,256] x) => (float[n,256] y) {
          a = Cast<to=11>(x) b = Cast<to=1>(a) m = ReduceMean(b, axes) d = Sub(b, m) p = Pow(d, two)
          v = ReduceMean(p, axes) e = Add(v, small) r = Sqrt(e) q = Div(d, r)
          s = Mul(q, g) y = Add(s, g) }""",
        axes=np.asarray([-1]),
        two=np.float32(2),
        small=np.float32(0.1),
        g=normal(256),
    )
    with pytest.raises(MethodError):
        Evaluator(made)
    assert Equality(made, FEEDS).difference(made) is None
