"""Quantizing what is unusual: clips beside values that are not clipped, names used twice, odd biases."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from onnx import TensorProto, helper, numpy_helper
from quantized import samples_of
from small_graphs import Net

from hasten import methods
from hasten.core.recipe import Recipe, Step
from hasten.graph import Graph
from hasten.graph.evaluate import Evaluator

FLOAT = TensorProto.FLOAT
RNG = np.random.default_rng(0)


def apply(graph: Graph, folder: Path, step: Step, x: np.ndarray | None = None) -> Graph:
    samples = None if x is None else samples_of(folder / "store", "x", x)
    return methods.apply(Recipe([step]), graph, methods.Context(calibration=samples, work=folder)).graph


def off(graph: Graph, changed: Graph, feeds: dict[str, np.ndarray]) -> float:
    wanted, found = (
        next(iter(Evaluator(each, optimized=False).run(feeds).values())) for each in (graph, changed)
    )
    return float(np.abs(found - wanted).max() / np.abs(wanted).max())


@pytest.mark.parametrize("layout", ["both", "openvino"])
@pytest.mark.parametrize("activations", ["uint8", "int8"])
@pytest.mark.parametrize("clip", ["Relu", "Clip"])
@pytest.mark.parametrize("beside", ["a convolution", "the input"])
def test_a_clip_is_kept_where_its_values_share_a_range_with_others(
    tmp_path, layout, activations, clip, beside
):
    net = Net(0)
    x = net.node("Conv", ["x", net.weight("w1", 8, 4, 3, 3, fan_in=36)], "a", pads=[1] * 4)
    bounds = (
        [net.constant("low", np.float32(0)), net.constant("high", np.float32(1))] if clip == "Clip" else []
    )
    parts = [net.node(clip, [x, *bounds], "clipped"), "x"]
    if beside == "a convolution":
        parts[1] = net.node("Conv", ["x", net.weight("w2", 8, 4, 3, 3, fan_in=36)], "b", pads=[1] * 4)
    x = net.node("Concat", parts, "both", axis=1)
    net.node("Conv", [x, net.weight("w3", 6, 12 if beside == "the input" else 16, 1, 1, fan_in=12)], "y")
    graph = net.graph([("x", FLOAT, ["n", 4, 8, 8])], [("y", FLOAT, ["n", 6, 8, 8])])
    images = RNG.normal(size=(16, 4, 8, 8)).astype(np.float32)
    step = Step("quantize_static", {"layout": layout, "activations": activations})
    assert off(graph, apply(graph, tmp_path, step, images), {"x": images[:2]}) < 0.06


@pytest.mark.parametrize("form", [{}, {"form": "weights"}], ids=str)
def test_branches_may_use_one_name_for_two_weights(tmp_path, form):
    def branch(name: str) -> onnx.GraphProto:
        weight = numpy_helper.from_array(RNG.normal(size=(96, 96)).astype(np.float32), "w")
        node = helper.make_node("MatMul", ["x", "w"], ["product"], name=f"product_{name}")
        made = helper.make_tensor_value_info("product", FLOAT, None)
        return helper.make_graph([node], name, [], [made], [weight])

    node = helper.make_node("If", ["k"], ["y"], then_branch=branch("yes"), else_branch=branch("no"))
    inputs = [helper.make_tensor_value_info("x", FLOAT, ["n", 96])]
    inputs.append(helper.make_tensor_value_info("k", TensorProto.BOOL, []))
    body = helper.make_graph([node], "g", inputs, [helper.make_tensor_value_info("y", FLOAT, ["n", 96])])
    model = helper.make_model(body, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)
    graph = Graph(ir.serde.deserialize_model(model))
    changed = apply(graph, tmp_path, Step("quantize_dynamic", form))
    x = RNG.normal(size=(2, 96)).astype(np.float32)
    for k in (True, False):
        assert off(graph, changed, {"x": x, "k": np.asarray(k)}) < 0.05


def test_a_bias_for_each_row_is_not_added_to_columns(tmp_path):
    net = Net(0)
    bias = net.constant("b", (20 * RNG.normal(size=(8, 1))).astype(np.float32))
    net.node("Gemm", ["x", net.weight("w", 16, 8), bias], "y")
    graph = net.graph([("x", FLOAT, [8, 16])], [("y", FLOAT, [8, 8])])
    x = RNG.normal(size=(32, 16)).astype(np.float32)
    changed = apply(graph, tmp_path, Step("quantize_static"), x)
    assert off(graph, changed, {"x": x[:8]}) < 0.02


def test_lists_of_tensors_are_not_looked_at_for_their_size(tmp_path):
    net = Net(0)
    x = net.node("MatMul", ["x", net.weight("w", 4, 4)], "z")
    x = net.node("SequenceConstruct", [x, x], "list")
    net.node("SequenceAt", [x, net.constant("first", np.array(0))], "y")
    graph = net.graph([("x", FLOAT, ["n", 4])], [("y", FLOAT, ["n", 4])])
    x = RNG.normal(size=(8, 4)).astype(np.float32)
    changed = apply(graph, tmp_path, Step("cast", {"what": "compute"}), x)
    assert off(graph, changed, {"x": x}) < 0.01
