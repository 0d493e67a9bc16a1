"""Operators that move or convert values: neighbours merge, duplicates are shared."""

import numpy as np
import pytest

from hasten.rewrites import (
    merge_casts,
    merge_reshapes,
    merge_slices,
    merge_transposes,
    share_duplicates,
    share_weights,
)
from hasten.rewrites.merge_casts import widens

from .proof import graph, normal, ops, proven, refused


def test_transpositions_compose_and_cancel():
    made = graph(
        """(float[2,3,4] x) => (float[4,2,3] y, float[2,3,4] z) {
          a = Transpose<perm=[0,2,1]>(x) y = Transpose<perm=[1,0,2]>(a)
          r = Relu(x) b = Transpose<perm=[2,0,1]>(r) z = Transpose<perm=[1,2,0]>(b) }"""
    )
    proven(made, merge_transposes.apply, x=normal(2, 3, 4))
    used = [n for n in made.ir_model.graph if n.op_type == "Transpose" and n.outputs[0].name == "y"]
    assert list(used[0].attributes["perm"].as_ints()) == [2, 0, 1]
    assert made.ir_model.graph.outputs[1].producer().op_type == "Relu"


def test_transpositions_cancel_over_elementwise_operators():
    made = graph(
        """(float[2,3,4] x) => (float[2,3,4] y) {
          a = Transpose<perm=[0,2,1]>(x) b = Relu(a) c = Sigmoid(b) y = Transpose<perm=[0,2,1]>(c) }"""
    )
    proven(made, merge_transposes.apply, x=normal(2, 3, 4))
    assert made.ir_model.graph.outputs[0].producer().op_type == "Sigmoid"


@pytest.mark.parametrize(
    "text",
    [
        "(float[2,3] x) => (float[2,3] y) "
        "{ a = Transpose(x) b = Softmax<axis=0>(a) y = Transpose<perm=[1,0]>(b) }",
        "(float[2,3] x) => (float[2,3] y, float[3,2] b) "
        "{ a = Transpose<perm=[1,0]>(x) b = Relu(a) y = Transpose<perm=[1,0]>(b) }",
    ],
    ids=["softmax has an axis", "the value in between is used"],
)
def test_transpositions_stay(text):
    refused(graph(text), merge_transposes.apply)


STACK = """(float[b,h,4,5] x) => (float[b,h,5,4] y) {
    s = Shape(x) lead = Slice(s, zero, two)
    r = Reshape(x, flat) t = Transpose<perm=[0,2,1]>(r)
    target = Concat<axis=0>(lead, ends) y = Reshape(t, target) }"""


def test_a_stack_of_matrices_is_transposed_at_once():
    made = graph(
        STACK,
        zero=np.asarray([0]),
        two=np.asarray([2]),
        flat=np.asarray([-1, 4, 5]),
        ends=np.asarray([5, 4]),
    )
    proven(made, merge_transposes.apply, x=normal(2, 3, 4, 5))
    final = made.ir_model.graph.outputs[0].producer()
    assert list(final.attributes["perm"].as_ints()) == [0, 1, 3, 2]


def test_a_stack_of_other_matrices_stays():
    made = graph(
        STACK.replace("float[b,h,5,4] y", "float[b,h,4,5] y"),
        zero=np.asarray([0]),
        two=np.asarray([2]),
        flat=np.asarray([-1, 4, 5]),
        ends=np.asarray([4, 5]),
    )
    refused(made, merge_transposes.apply)


@pytest.mark.parametrize(
    ("text", "weights", "left"),
    [
        (
            "(float[b,6,4] x) => (float[b,24] y) { a = Reshape(x, s) y = Flatten(a) }",
            {"s": np.asarray([0, 2, 12])},
            {"Reshape": 1},
        ),
        (
            "(float[b,6,4] x) => (float[b,6,4] y) { r = Relu(x) a = Unsqueeze(r, s) y = Squeeze(a, s) }",
            {"s": np.asarray([1])},
            {"Relu": 1},
        ),
        (
            "(float[b,6,4] x) => (float[b,1,24] y) { a = Flatten(x) y = Unsqueeze(a, s) }",
            {"s": np.asarray([1])},
            {"Reshape": 1},
        ),
    ],
)
def test_reshapes_merge(text, weights, left):
    made = graph(text, **weights)
    proven(made, merge_reshapes.apply, x=normal(3, 6, 4))
    assert ops(made) == left


@pytest.mark.parametrize(
    "text",
    [
        "(float[a,b,c] x, int64[2] s) => (float[d,e] y) { f = Flatten(x) y = Reshape(f, s) }",
        "(float[b,6,4] x) => (float[b,24] y, float[b,24] f) { f = Flatten(x) y = Reshape(f, t) }",
    ],
    ids=["the target is not known", "the value in between is used"],
)
def test_reshapes_stay(text):
    refused(graph(text, t=np.asarray([-1, 24])), merge_reshapes.apply)


def test_slices_of_different_axes_merge():
    made = graph(
        "(float[n,6,9,9] x) => (float[n,6,a,b] y) "
        "{ s = Slice(x, zero, end, two, two) y = Slice(s, two, end, last, one) }",
        zero=np.asarray([0]),
        one=np.asarray([1]),
        two=np.asarray([2]),
        end=np.asarray([2**63 - 1]),
        last=np.asarray([-1]),
    )
    proven(made, merge_slices.apply, x=normal(2, 6, 9, 9))
    assert ops(made) == {"Slice": 1}


def test_slices_of_one_axis_stay():
    made = graph(
        "(float[9] x) => (float[a] y) { s = Slice(x, one, end, zero) y = Slice(s, one, end, zero) }",
        zero=np.asarray([0]),
        one=np.asarray([1]),
        end=np.asarray([7]),
    )
    refused(made, merge_slices.apply)


def test_a_cast_that_only_widens_is_read_through():
    made = graph("(int32[4] x) => (float[4] y) { a = Cast<to=7>(x) y = Cast<to=1>(a) }")
    proven(made, merge_casts.apply, x=np.asarray([-3, 0, 7, 2**31 - 1], np.int32))
    assert made.ir_model.graph.outputs[0].producer().inputs[0].name == "x"


def test_a_cast_that_loses_stays():
    refused(graph("(float[4] x) => (float[4] y) { a = Cast<to=7>(x) y = Cast<to=1>(a) }"), merge_casts.apply)


def test_what_widening_means():
    import onnx_ir as ir

    kinds = {
        k: k.numpy()
        for k in (ir.DataType.BOOL, ir.DataType.UINT8, ir.DataType.INT8, ir.DataType.INT16, ir.DataType.INT64)
    }
    for a, narrow in kinds.items():
        for b, wide in kinds.items():
            assert widens(a, b) == np.can_cast(narrow, wide, "safe")
    assert widens(ir.DataType.INT16, ir.DataType.FLOAT)
    assert not widens(ir.DataType.INT32, ir.DataType.FLOAT)
    assert not widens(ir.DataType.UINT16, ir.DataType.FLOAT16)
    assert widens(ir.DataType.BFLOAT16, ir.DataType.FLOAT)
    assert not widens(ir.DataType.BFLOAT16, ir.DataType.FLOAT16)
    assert not widens(ir.DataType.FLOAT, ir.DataType.INT64)


def test_equal_nodes_and_equal_tensors_become_one():
    w = normal(4, 4)
    made = graph(
        "(float[n,4] x) => (float[n,4] y) { a = MatMul(x, v) b = MatMul(x, w) y = Add(a, b) }",
        v=w,
        w=w.copy(),
    )
    proven(made, share_weights.apply, x=normal(3, 4))
    assert list(made.weights) == ["v"]
    proven(made, share_duplicates.apply, x=normal(3, 4))
    assert ops(made) == {"MatMul": 1, "Add": 1}


def test_small_constants_are_shared_first():
    two = np.float32(2)
    made = graph(
        "(float[n,4] x) => (float[n,4] y) { a = Mul(x, v) b = Mul(x, w) y = Add(a, b) }", v=two, w=two.copy()
    )
    proven(made, share_duplicates.apply, x=normal(3, 4))
    assert ops(made) == {"Mul": 1, "Add": 1}


def test_parameters_that_are_equal_by_accident_stay_apart():
    zeros = np.zeros(4, np.float32)
    made = graph(
        "(float[n,4] x) => (float[n,4] y) { a = Add(x, v) b = Relu(a) y = Add(b, w) }",
        v=zeros,
        w=zeros.copy(),
    )
    refused(made, share_duplicates.apply)
    refused(made, share_weights.apply)


def test_random_numbers_stay_apart():
    made = graph(
        "() => (float[2] y) { a = RandomNormal<shape=[2]>() b = RandomNormal<shape=[2]>() y = Sub(a, b) }"
    )
    refused(made, share_duplicates.apply)
