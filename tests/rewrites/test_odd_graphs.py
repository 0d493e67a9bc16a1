"""Rewrites of what is unusual stay equal, or are undone; none ends the others."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
from onnx import TensorProto, helper
from small_graphs import Net, build

from hasten import methods
from hasten.core.recipe import Recipe, Step
from hasten.graph import Graph
from hasten.graph.evaluate import Evaluator

FLOAT, INT64 = TensorProto.FLOAT, TensorProto.INT64
MAGIC = np.float32(1.5 * 2**23)
"""Added and taken away again, it rounds to integers."""


def optimized(graph: Graph, folder, **params: object) -> Graph:
    context = methods.Context(calibration=None, work=folder)
    return methods.apply(Recipe([Step("optimize_graph", params)]), graph, context).graph


def same(graph: Graph, changed: Graph, feeds: dict[str, np.ndarray]) -> None:
    wanted, found = (Evaluator(each, optimized=False).run(feeds) for each in (graph, changed))
    for name, value in wanted.items():
        np.testing.assert_allclose(found[name], value, rtol=1e-5, atol=1e-5)


def rows(*shape: int) -> np.ndarray:
    return (5 * np.random.default_rng(0).normal(size=shape)).astype(np.float32)


def test_one_hot_indices_may_count_from_the_end(tmp_path):
    net = Net(0)
    inputs = ["i", net.constant("depth", np.array(4)), net.constant("values", np.float32([0, 1]))]
    net.node("MatMul", [net.node("OneHot", inputs, "hot"), net.weight("w", 4, 3)], "y")
    graph = net.graph([("i", INT64, ["n"])], [("y", FLOAT, ["n", 3])])
    changed = optimized(graph, tmp_path)
    assert not [node for node in changed.ir_model.graph if node.op_type == "MatMul"]
    for index in ([0, 3], [-1, -4], [4, -5]):
        same(graph, changed, {"i": np.array(index)})


@pytest.mark.parametrize("then", ["nothing", "Resize"])
def test_rounding_by_a_large_number_stays(tmp_path, then):
    net = Net(0)
    x = net.node("Add", ["x", net.constant("large", MAGIC)], "a")
    x = net.node("Sub", [x, net.constant("again", MAGIC)], "y" if then == "nothing" else "b")
    if then == "Resize":
        scales = net.constant("scales", np.float32([1, 1, 2, 2]))
        net.node("Resize", [x, "", scales], "y", mode="linear")
    graph = net.graph([("x", FLOAT, ["n", 3, 8, 8])], [("y", FLOAT, ["n", 3, None, None])])
    same(graph, optimized(graph, tmp_path), {"x": rows(2, 3, 8, 8)})


@pytest.mark.parametrize("op_type", ["Bernoulli", "Dropout"])
def test_two_draws_are_not_one(tmp_path, op_type):
    net = Net(0)
    more = [net.constant("ratio", np.float32(0.5)), net.constant("trains", np.array(True))]
    more = more if op_type == "Dropout" else []
    a, b = (net.node(op_type, ["x", *more], name) for name in "ab")
    net.node("Sub", [a, b], "y")
    graph = net.graph([("x", FLOAT, ["n", 64])], [("y", FLOAT, ["n", 64])])
    changed = optimized(graph, tmp_path)
    assert Counter(node.op_type for node in changed.ir_model.graph)[op_type] == 2


def test_bounds_that_are_attributes_are_bounds(tmp_path):
    nodes = [
        helper.make_node("Clip", ["x"], ["c"], name="clip", min=-5.0, max=5.0),
        helper.make_node("Relu", ["c"], ["y"], name="relu"),
    ]
    graph = build(nodes, [("x", FLOAT, ["n", 8])], [("y", FLOAT, ["n", 8])], opset=10)
    same(graph, optimized(graph, tmp_path, skip=["raise_opset"]), {"x": 4 * rows(2, 8)})


def test_a_number_that_does_not_fit_its_type_ends_nothing(tmp_path):
    net = Net(0)
    end = net.node("Cast", [net.constant("large", np.array([2**31]))], "narrow", to=TensorProto.INT32)
    end = net.node("Cast", [end], "wide", to=INT64)
    x = net.node("Add", ["x", net.constant("nothing", np.float32(0))], "same")
    net.node("Slice", [x, net.constant("zero", np.array([0])), end, net.constant("axis", np.array([1]))], "y")
    graph = net.graph([("x", FLOAT, ["n", 8])], [("y", FLOAT, ["n", None])])
    changed = optimized(graph, tmp_path)
    assert not [node for node in changed.ir_model.graph if node.op_type == "Add"]
    same(graph, changed, {"x": rows(2, 8)})


def test_a_weight_that_is_an_output_stays_one(tmp_path):
    net = Net(0)
    net.node("MatMul", ["x", net.node("Neg", [net.weight("w", 8, 4)], "negative")], "y")
    graph = net.graph([("x", FLOAT, ["n", 8])], [("y", FLOAT, ["n", 4]), ("w", FLOAT, [8, 4])])
    changed = optimized(graph, tmp_path)
    assert not [node for node in changed.ir_model.graph if node.op_type == "Neg"]
    same(graph, changed, {"x": rows(2, 8)})


@pytest.mark.parametrize("channels", [1, "c"])
def test_a_factor_that_makes_more_channels_is_not_folded(tmp_path, channels):
    """What else can be folded still is."""
    net = Net(0)
    x = net.node("Mul", ["x", net.weight("s", 1, 4, 1, 1, fan_in=1)], "many")
    x = net.node("Conv", [x, net.weight("w", 8, 4, 3, 3)], "conv")
    x = net.node("Relu", [x], "relu")
    x = net.node("Mul", [x, net.weight("t", 8, 1, 1, fan_in=1)], "scaled")
    net.node("Conv", [x, net.weight("v", 2, 8, 1, 1)], "y")
    graph = net.graph([("x", FLOAT, ["n", channels, 8, 8])], [("y", FLOAT, ["n", 2, None, None])])
    changed = optimized(graph, tmp_path)
    assert [node.op_type for node in changed.ir_model.graph] == ["Mul", "Conv", "Relu", "Conv"]
    for count in (1, 4) if channels == "c" else (1,):
        same(graph, changed, {"x": rows(2, count, 8, 8)})
