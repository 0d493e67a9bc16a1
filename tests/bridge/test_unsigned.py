"""Unsigned integers against numpy, over the whole range of 16, 32 and 64 bits."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest
from onnx import helper

from hasten.bridge import to_torch
from hasten.bridge.dtypes import from_numpy
from hasten.graph import Graph

DTYPES = (np.uint16, np.uint32, np.uint64)

OPERATORS = {
    "Add": np.add,
    "Sub": np.subtract,
    "Mul": np.multiply,
    "Div": np.floor_divide,
    "Mod": np.remainder,
    "Max": np.maximum,
    "Min": np.minimum,
    "Greater": np.greater,
    "LessOrEqual": np.less_equal,
    "Equal": np.equal,
    "BitwiseXor": np.bitwise_xor,
    "Pow": np.power,
}


def pairs(dtype):
    """Two arrays of numbers of every size, the ends of the range among them."""
    top = np.iinfo(dtype).max
    edges = np.array([0, 1, 2, 3, top // 2, top // 2 + 1, top // 2 + 2, top - 1, top], dtype)
    rng = np.random.default_rng(1)
    drawn = (
        rng.integers(0, top, 200, dtype, endpoint=True) >> rng.integers(0, 16, 200).astype(dtype)
    ).astype(dtype)
    numbers = np.concatenate((edges, drawn))
    a, b = np.meshgrid(numbers, numbers[:60])
    return a.reshape(-1), b.reshape(-1)


def run(op_type, *arrays, **attributes):
    names = [f"i{i}" for i in range(len(arrays))]
    infos = [
        helper.make_tensor_value_info(n, helper.np_dtype_to_tensor_dtype(a.dtype), a.shape)
        for n, a in zip(names, arrays, strict=True)
    ]
    graph = helper.make_graph(
        [helper.make_node(op_type, names, ["y"], **attributes)],
        "one",
        infos,
        [helper.make_empty_tensor_value_info("y")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 26)])
    return to_torch(Graph(ir.from_proto(model)))(*(from_numpy(a) for a in arrays)).numpy()


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("op_type", OPERATORS)
def test_pairs(op_type, dtype):
    a, b = pairs(dtype)
    b = np.maximum(b, 1) if op_type in ("Div", "Mod") else b % 70 if op_type == "Pow" else b
    b = b.astype(dtype)
    with np.errstate(over="ignore"):
        expected = OPERATORS[op_type](a, b)
    found = run(op_type, a, b)
    assert found.dtype == expected.dtype
    np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize("dtype", [np.uint8, *DTYPES])
@pytest.mark.parametrize("direction", ["LEFT", "RIGHT"])
def test_shifts(direction, dtype):
    width = np.iinfo(dtype).bits
    a = np.repeat(pairs(np.uint64)[0][:40].astype(dtype), width + 3)
    count = np.tile(np.arange(width + 3, dtype=dtype), 40)
    wide = [
        int(x) << int(n) if direction == "LEFT" else int(x) >> int(n) for x, n in zip(a, count, strict=True)
    ]
    expected = np.array([w & np.iinfo(dtype).max for w in wide], dtype)
    np.testing.assert_array_equal(run("BitShift", a, count, direction=direction), expected)


@pytest.mark.parametrize("dtype", DTYPES)
def test_reductions(dtype):
    x = pairs(dtype)[0][:60].reshape(3, 20)
    axes = np.array([1], np.int64)
    for op_type, function in {
        "ReduceMax": np.max,
        "ReduceMin": np.min,
        "ReduceSum": np.sum,
        "ReduceProd": np.prod,
    }.items():
        expected = function(x, 1, keepdims=True) if "M" in op_type else function(x, 1, dtype, keepdims=True)
        np.testing.assert_array_equal(run(op_type, x, axes), expected)
    np.testing.assert_array_equal(run("ArgMax", x, axis=1, keepdims=0), x.argmax(1))
