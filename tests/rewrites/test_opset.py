"""Old operator sets are raised: every operator that changed still computes the same."""

import numpy as np
import onnx_ir as ir
import pytest

from hasten.rewrites import raise_opset
from hasten.rewrites.raise_opset import TARGET

from .proof import graph, normal, ops, proven, refused

X = normal(2, 6, 5, 4, seed=1)
IN = "(float[n,6,5,4] x)"
OUT = "(float[a,b,c,d] y)"

OLD = {
    "reduce with axes": (11, f"{IN} => {OUT} {{ y = ReduceMean<axes=[2,-1]>(x) }}"),
    "reduce all": (13, f"{IN} => {OUT} {{ y = ReduceMax(x) }}"),
    "reduce sum": (11, f"{IN} => (float[a,b] y) {{ y = ReduceSum<axes=[1,3], keepdims=0>(x) }}"),
    "squeeze": (12, f"{IN} => {OUT} {{ u = Unsqueeze<axes=[0]>(x) y = Squeeze<axes=[0]>(u) }}"),
    "split": (11, f"{IN} => {OUT} {{ y, z = Split<axis=1, split=[2,4]>(x) }}"),
    "split equally": (13, f"{IN} => {OUT} {{ y, z = Split<axis=1>(x) }}"),
    "softmax of rows": (11, f"{IN} => (float[n,6,5,4] y) {{ y = Softmax(x) }}"),
    "softmax of the last axis": (11, f"{IN} => (float[n,6,5,4] y) {{ y = Softmax<axis=3>(x) }}"),
    "log softmax": (12, f"{IN} => (float[n,6,5,4] y) {{ y = LogSoftmax<axis=2>(x) }}"),
    "dropout": (11, f"{IN} => {OUT} {{ y = Dropout<ratio=0.5>(x) }}"),
    "clip": (11, f"{IN} => {OUT} {{ y = Clip(x, low, high) }}"),
    "pad": (11, f"{IN} => {OUT} {{ y = Pad(x, amounts) }}"),
    "top k": (11, f"{IN} => {OUT} {{ y, i = TopK(x, two) }}"),
    "resize": (
        11,
        f'{IN} => {OUT} {{ y = Resize<mode="linear", coordinate_transformation_mode="align_corners">'
        "(x, none, scales) }",
    ),
    "batch norm": (11, f"{IN} => {OUT} {{ y = BatchNormalization(x, v, v, v, v) }}"),
    "grid sample": (16, f'{IN} => {OUT} {{ y = GridSample<mode="bilinear">(x, grid) }}'),
    "roi align": (11, f"{IN} => {OUT} {{ y = RoiAlign<output_height=2, output_width=2>(x, boxes, which) }}"),
    "group norm": (
        18,
        "(float[n,6,5,4] x) => (float[n,6,5,4] y) { y = GroupNormalization<num_groups=2>(x, s, b) }",
    ),
    "conv": (11, f"{IN} => {OUT} {{ y = Conv(x, w) }}"),
}
WEIGHTS = {
    "low": np.float32(-1),
    "high": np.float32(0.5),
    "amounts": np.asarray([0, 0, 1, 1, 0, 0, 0, 2]),
    "two": np.asarray([2]),
    "none": np.zeros(0, np.float32),
    "scales": np.asarray([1, 1, 2, 3], np.float32),
    "v": np.abs(normal(6)),
    "grid": np.clip(normal(2, 3, 3, 2), -1, 1),
    "boxes": np.asarray([[0, 0, 2, 3], [1, 1, 3, 3]], np.float32),
    "which": np.asarray([0, 1]),
    "s": normal(2),
    "b": normal(2, seed=4),
    "w": normal(4, 6, 2, 2),
}


@pytest.mark.parametrize("case", OLD)
def test_the_raised_graph_computes_the_same(case):
    opset, text = OLD[case]
    made = graph(text, opset=opset, ir_version=7, **WEIGHTS)
    proven(made, raise_opset.apply, x=X)
    assert made.opset == TARGET
    assert (made.ir_model.ir_version or 0) >= 10


def test_softmax_of_rows_keeps_its_meaning_without_a_rank():
    made = graph(
        "(float[n,6,5,4] x, int64[k] s) => (float[a,b,c] y) { r = Reshape(x, s) y = Softmax<axis=1>(r) }",
        opset=12,
    )
    proven(made, raise_opset.apply, x=X, s=np.asarray([4, 15, -1]))
    assert ops(made)["Flatten"] == 1


def test_subgraphs_are_raised_too():
    made = graph(
        """(float[1,6] x, bool[1] c) => (float[a] y) {
          y = If(c) <then_branch = yes () => (float[a] p) { p = Squeeze<axes=[0]>(x) },
                     else_branch = no () => (float[b] q) { n = Neg(x) q = Squeeze<axes=[0]>(n) }> }""",
        opset=11,
    )
    x = normal(1, 6)
    proven(made, raise_opset.apply, x=x, c=np.asarray([True]))


@pytest.mark.parametrize("opset", [7, 9, 10])
def test_very_old_sets_go_through_onnx(opset):
    text = """(float[n,6,5,4] x) => (float[n,6,5,4] y) {
        h = BatchNormalization(x, v, v, v, v) c = Clip<min=-1.0, max=1.0>(h) y = Softmax(c) }"""
    made = graph(text, opset=opset, ir_version=3, **WEIGHTS)
    for name in list(made.weights):  # IR version 3 lists them as inputs
        made.ir_model.graph.inputs.append(made.weights[name])
    from hasten.rewrites import fix_initializers

    fix_initializers.apply(made)
    proven(made, raise_opset.apply, x=X)
    assert made.opset == TARGET


@pytest.mark.parametrize(
    ("opset", "text", "reason"),
    [
        (
            11,
            f'{IN} => {OUT} {{ y = Resize<coordinate_transformation_mode="tf_half_pixel_for_nn">'
            "(x, none, scales) }",
            "tf_half_pixel_for_nn",
        ),
        (
            12,
            f"{IN} => {OUT} {{ y, m, u, p, q = BatchNormalization(x, v, v, v, v) }}",
            "training",
        ),
        (
            18,
            "(float[n,6,5,4] x, float[2] t) => (float[n,6,5,4] y) "
            "{ y = GroupNormalization<num_groups=2>(x, t, t) }",
            "GroupNormalization",
        ),
    ],
)
def test_a_graph_that_cannot_follow_stays_whole(opset, text, reason):
    made = graph(text, opset=opset, **WEIGHTS)
    findings = refused(made, raise_opset.apply)
    assert made.opset == opset
    assert reason in findings.skipped[0].reason


def test_a_modern_graph_is_left_alone():
    assert refused(graph(f"{IN} => {OUT} {{ y = Relu(x) }}", opset=22), raise_opset.apply).skipped == []


def test_weights_are_carried_over_not_copied():
    made = graph(f"{IN} => {OUT} {{ y = Conv(x, w) }}", opset=13, w=WEIGHTS["w"])
    tensor = made.weights["w"].const_value
    raise_opset.apply(made)
    assert made.weights["w"].const_value is tensor
    assert isinstance(made.ir_model, ir.Model)
