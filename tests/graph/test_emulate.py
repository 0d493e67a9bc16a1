"""bfloat16 emulated in float32: every operator's result is the nearest number of bfloat16."""

from __future__ import annotations

import ml_dtypes
import numpy as np
import onnx_ir as ir
import pytest
from onnx import TensorProto
from small_graphs import Net

from hasten.graph import Graph
from hasten.graph.emulate import emulated
from hasten.graph.evaluate import Evaluator

BFLOAT16 = TensorProto.BFLOAT16


def narrow(array):
    return array.astype(ml_dtypes.bfloat16).astype(np.float32)


def two_layers() -> Graph:
    """x in bfloat16 times a, plus b, in bfloat16; then times 3 in float32."""
    net = Net()
    for name in "ab":
        net.constant(name, net.rng.normal(size=(16, 16)).astype(ml_dtypes.bfloat16))
    net.node("Cast", ["x"], "narrow", to=BFLOAT16)
    net.node("MatMul", ["narrow", "a"], "product")
    net.node("Add", ["product", "b"], "sum")
    net.node("Cast", ["sum"], "wide", to=TensorProto.FLOAT)
    net.node("Mul", ["wide", net.constant("three", np.float32(3))], "y")
    graph = net.graph([("x", TensorProto.FLOAT, [16, 16])], [("y", TensorProto.FLOAT, [16, 16])])
    for node in graph.ir_model.graph:
        if node.outputs[0].name in {"narrow", "product", "sum"}:
            node.outputs[0].type = ir.TensorType(ir.DataType.BFLOAT16)
    return graph


@pytest.mark.parametrize("optimized", [True, False])
def test_results_are_rounded_after_every_operator(optimized):
    graph = two_layers()
    a, b = (graph.weights[name].const_value.numpy().astype(np.float32) for name in "ab")
    x = np.random.default_rng(1).normal(size=(16, 16)).astype(np.float32)
    found = Evaluator(graph, ["product", "sum"], optimized=optimized).run({"x": x})
    product = narrow(narrow(x) @ a)
    # Sums of 16 products in another order may round to the neighbour: one in 2⁸
    np.testing.assert_allclose(found["product"], product, rtol=2.0**-7)
    total = narrow(found["product"] + b)
    np.testing.assert_array_equal(found["sum"], total)
    np.testing.assert_array_equal(found["y"], 3 * total)


def test_a_graph_of_floats_is_left_alone():
    net = Net()
    net.node("Cast", [net.node("Cast", ["x"], "narrow", to=BFLOAT16)], "y", to=TensorProto.FLOAT)
    graph = net.graph([("x", TensorProto.FLOAT, [4])], [("y", TensorProto.FLOAT, [4])])
    assert emulated(graph) is graph


def test_a_signature_of_bfloat16_stays():
    net = Net()
    net.node("Add", ["x", "x"], "y")
    graph = net.graph([("x", BFLOAT16, [4])], [("y", BFLOAT16, [4])])
    assert emulated(graph) is graph


def test_the_graph_given_keeps_its_types():
    graph = two_layers()
    assert emulated(graph) is not graph
    assert graph.weights["a"].dtype == ir.DataType.BFLOAT16
    assert [node.op_type for node in graph.ir_model.graph].count("Cast") == 2
