"""Constants are computed, operators that do nothing go, weights are fixed, functions inlined."""

import numpy as np
import onnx
import onnx.parser
import onnx_ir as ir
import pytest

from hasten.graph import Graph
from hasten.graph.evaluate import Evaluator
from hasten.rewrites import (
    bound_masks,
    fix_initializers,
    fold_constants,
    inline_functions,
    remove_noops,
    remove_unused,
)

from .proof import graph, normal, ops, proven, refused

X = normal(2, 3, 4, seed=1)


@pytest.mark.parametrize(
    "body",
    [
        "y = Identity(h)",
        "y, mask = Dropout(h)",
        "y = Dropout(h, half, no)",
        "y = Cast<to=1>(h)",
        "y = Transpose<perm=[0,1,2]>(h)",
        "y = Reshape(h, same)",
        "y = Expand(h, ones)",
        "y = Slice(h, zeros, far, axes)",
        "y = Slice(h, zeros, sizes, axes, ones2)",
        "y = Pad(h, none)",
        "y = Tile(h, ones)",
        "y = Clip(h)",
        "y = Clip(h, low, high)",
        "y = Mul(one, h)",
        "y = Div(h, one)",
        "y = Add(h, zero)",
        "y = Sub(h, zero)",
        "y = Pow(h, one)",
        "y = Mul(h, ones_row)",
        "y = Concat<axis=1>(h)",
        "y = Sum(h)",
    ],
)
def test_what_returns_its_input_goes(body):
    weights = {
        "half": np.float32(0.5),
        "no": np.asarray(False),
        "same": np.asarray([-1, 3, 4]),
        "ones": np.asarray([1, 1, 1]),
        "ones2": np.asarray([1, 1]),
        "zeros": np.asarray([0, 0]),
        "far": np.asarray([2**31 - 1, 10**9]),
        "axes": np.asarray([-1, 0]),
        "sizes": np.asarray([4, 10**9]),
        "none": np.zeros(6, np.int64),
        "low": np.float32(-np.inf),
        "high": np.float32(np.inf),
        "one": np.float32(1),
        "zero": np.asarray([0], np.float32),
        "ones_row": np.ones((1, 4), np.float32),
    }
    made = graph(f"(float[n,3,4] x) => (float[n,3,4] y) {{ h = Relu(x) {body} }}", **weights)
    proven(made, remove_noops.apply, x=X)
    assert ops(made) == {"Relu": 1}
    assert made.outputs[0].name == "y"


@pytest.mark.parametrize(
    ("body", "weights"),
    [
        ("y = Mul(h, c)", {"c": np.ones((2, 1, 1, 1), np.float32)}),  # adds an axis
        ("y = Add(h, c)", {"c": np.zeros((5, 3, 4), np.float32)}),  # may enlarge the batch
        ("y = Expand(h, c)", {"c": np.asarray([2, 1, 1, 1])}),
        ("y = Slice(h, a, b, c, d)", {"a": [-1], "b": [-(2**31)], "c": [2], "d": [-1]}),  # reverses
        ("y = Slice(h, a, b, c)", {"a": [0], "b": [5], "c": [0]}),  # the batch may be larger
        ("y = Reshape(h, c)", {"c": np.asarray([3, -1, 4])}),
        ("y = Sub(c, h)", {"c": np.float32(0)}),
        ("y = Div(c, h)", {"c": np.float32(1)}),
        ("y = Clip(h, c)", {"c": np.float32(0)}),
        ("t = Dropout(h, c, d) y = Relu(t)", {"c": np.float32(0.5), "d": np.asarray(True)}),
    ],
)
def test_what_only_looks_like_nothing_stays(body, weights):
    text = f"(float[n,3,4] x) => (float y) {{ h = Relu(x) {body} }}"
    made = graph(text, **{name: np.asarray(w) for name, w in weights.items()})
    made.ir_model.graph.outputs[0].shape = None
    refused(made, remove_noops.apply)


def test_an_output_cannot_be_an_input():
    made = graph("(float[2] x) => (float[2] y) { y = Identity(x) }")
    assert refused(made, remove_noops.apply).skipped


def test_no_ops_in_a_branch_keep_the_branch_valid():
    made = graph(
        """(float[3] x, bool[1] c) => (float[3] y) {
          h = Relu(x)
          y = If(c) <then_branch = yes () => (float[3] p) { p = Identity(h) },
                     else_branch = no () => (float[3] q) { n = Neg(h) q = Identity(n) }> }"""
    )
    proven(made, remove_noops.apply, x=normal(3), c=np.asarray([True]))
    assert ops(made) == {"Relu": 1, "If": 1, "Identity": 1, "Neg": 1}


def test_constants_are_computed_by_the_runtime():
    made = graph(
        """(float[n,4] x) => (float[n,2] y, float[n,2] z) {
          t = Transpose<perm=[1,0]>(w) h = Mul(t, two) y = MatMul(x, h)
          a, b = Split<axis=0, num_outputs=2>(w4) s = Add(a, b) r = Reshape(s, shape) z = MatMul(x, r) }""",
        w=normal(2, 4),
        two=np.float32(2),
        w4=normal(8, 2),
        shape=np.asarray([4, -1]),
    )
    proven(made, fold_constants.apply, x=normal(3, 4))
    assert ops(made) == {"MatMul": 2}
    assert {"h", "r"} <= set(made.weights)
    assert "w" not in made.weights


def test_a_stored_quantized_weight_stays_quantized():
    made = graph(
        """(float[n,4] x) => (float[n,2] y) {
          q = QuantizeLinear(w, scale, zero) d = DequantizeLinear(q, scale, zero) y = MatMul(x, d) }""",
        w=normal(4, 2),
        scale=np.float32(0.02),
        zero=np.int8(0),
    )
    proven(made, fold_constants.apply, x=normal(3, 4))
    assert ops(made) == {"DequantizeLinear": 1, "MatMul": 1}
    assert made.weights["q"].dtype == ir.DataType.INT8


def test_a_weight_stored_in_16_bits_stays_so():
    made = graph(
        "(float[n,32] x) => (float[n,16] y) { c = Cast<to=1>(w) y = MatMul(x, c) }",
        w=normal(32, 16).astype(np.float16),
    )
    assert "16 bits" in refused(made, fold_constants.apply).skipped[0].reason


def test_constants_do_not_grow_the_file():
    made = graph(
        "() => (float[a,b] y) { e = Expand(one, size) y = Relu(e) }",
        one=np.float32(1),
        size=np.asarray([10**6, 10**6]),
    )
    findings = refused(made, fold_constants.apply)
    assert "MiB" in findings.skipped[0].reason


@pytest.mark.parametrize(
    "text",
    [
        "(float[4] x) => (float[4] y) { r = RandomNormal<shape=[4]>() y = Add(x, r) }",
        "(float[4] x) => (float[4] y, float[4] z) { y = Relu(x) z = Neg(w) }",
    ],
    ids=["random numbers", "an output"],
)
def test_some_constants_stay(text):
    weights = {"w": normal(4)} if "(w)" in text else {}
    refused(graph(text, **weights), fold_constants.apply)


def test_what_the_runtime_refuses_stays():
    made = graph(
        "(float[4] x) => (float[4] y) { r = Reshape(w, size) s = Relu(r) y = Add(x, s) }",
        w=normal(4),
        size=np.asarray([3]),
    )
    assert refused(made, fold_constants.apply).skipped


def test_initializers_leave_the_inputs():
    made = graph(
        "(float[n,4] x) => (float[n,4] y) { k = Constant<value_float=2.0>() a = Mul(x, k) y = Add(a, w) }",
        w=normal(4),
    )
    made.ir_model.graph.inputs.append(made.weights["w"])
    proven(made, fix_initializers.apply, x=normal(3, 4))
    assert [v.name for v in made.ir_model.graph.inputs] == ["x"]
    assert ops(made) == {"Mul": 1, "Add": 1}
    assert set(made.weights) == {"w", "k"}


def test_functions_are_inlined():
    model = onnx.parser.parse_model("""<ir_version: 10, opset_import: ["" : 21, "own" : 1]>
      tested (float[n,4] x) => (float[n,4] y) { h = own.twice(x) y = own.twice(h) }
      <domain: "own", opset_import: ["" : 21]> twice (a) => (b) {
        c = Constant<value_float=2.0>() b = Mul(a, c) }""")
    made = Graph(ir.serde.deserialize_model(model))
    proven(made, inline_functions.apply, x=normal(3, 4))
    assert ops(made) == {"Constant": 2, "Mul": 2}
    assert not made.ir_model.functions


def test_what_nothing_uses_goes():
    text = """(float[n,4] x, float[2] unused) => (float[n,4] y) {
        dead = Relu(x) deader = MatMul(dead, w) y = Neg(x) }"""
    made = graph(text, w=normal(4, 4))
    proven(made, remove_unused.apply, x=normal(3, 4), unused=normal(2))
    assert ops(made) == {"Neg": 1}
    assert not made.weights
    assert [spec.name for spec in made.inputs] == ["x", "unused"]


def test_an_unused_optional_output_goes():
    made = graph("(float[n,2,4] x) => (float[n,2,2] y) { y, i = MaxPool<kernel_shape=[3]>(x) }")
    proven(made, remove_unused.apply, x=normal(3, 2, 4))
    assert len(made.ir_model.graph[0].outputs) == 1
    assert Evaluator(made).output_names == ("y",)


LOWEST = np.float32(np.finfo(np.float32).min)
LOWEST_BFLOAT16 = np.float32(-3.3895314e38)


@pytest.mark.parametrize(
    "body",
    [
        "a = Sub(one, m) b = Mul(a, low) c = Add(x, b) y = Softmax(c)",
        "t = Cast<to=9>(m) a = Where(t, x, low) y = Softmax(a)",
        "a = Mul(m, low) c = Unsqueeze(a, axes) d = Squeeze(c, axes) e = Add(d, x) y = Softmax(e)",
    ],
)
def test_masks_are_within_the_range_of_bfloat16(body):
    weights = {"one": np.float32(1), "low": LOWEST, "axes": np.asarray([0])}
    made = graph(f"(float[n,3,4] x, float[n,3,4] m) => (float[n,3,4] y) {{ {body} }}", **weights)
    mask = (normal(2, 3, 4, seed=5) > 0).astype(np.float32)
    mask[..., 0] = 1 - ("Sub" not in body and "Where" not in body)
    proven(made, bound_masks.apply, x=X, m=mask)
    assert [float(v.const_value.numpy()) for v in made.weights.values() if v.name == "low"] == [
        LOWEST_BFLOAT16
    ]


@pytest.mark.parametrize(
    "body",
    [
        "y = Add(x, low)",
        "a = Add(x, low) y = Relu(a)",
        "a = Mul(x, low) b = Softmax(a) c = Neg(a) y = Add(b, c)",
        "a = Add(x, infinite) y = Softmax(a)",
    ],
)
def test_other_large_constants_stay(body):
    weights = {"low": LOWEST, "infinite": np.float32(-np.inf)}
    refused(graph(f"(float[n,3,4] x) => (float[n,3,4] y) {{ {body} }}", **weights), bound_masks.apply)
