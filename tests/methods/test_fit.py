"""Layers solved anew for the original's outputs, wherever their bias is and whatever is added behind them."""

from __future__ import annotations

import numpy as np
import pytest
from onnx import TensorProto
from small_graphs import Net, calibration_for, feeds_of

from hasten import methods
from hasten.core.recipe import Recipe, Step
from hasten.graph import Graph
from hasten.graph.evaluate import Evaluator

FLOAT = TensorProto.FLOAT
TYPES = {np.float16: TensorProto.FLOAT16, np.float32: FLOAT, np.float64: TensorProto.DOUBLE}


def fits_better(graph: Graph, folder, by: float = 0.5, **params) -> None:
    """Fitted, half the multiply-accumulates are nearer to the original on samples that were not seen."""
    context = methods.Context(calibration=calibration_for(graph, folder / "store", 64), work=folder, batch=8)
    fitted, cut = (
        methods.apply(
            Recipe([Step("prune_channels", {"macs": 0.5, "align": 2, "fit": fit, **params})]), graph, context
        )
        for fit in (True, False)
    )
    assert fitted.effective
    assert error(graph, fitted.graph) < by * error(graph, cut.graph)


def error(graph: Graph, changed: Graph) -> float:
    """Over what varies in the outputs."""
    feeds = feeds_of(graph, 40, seed=5)
    wanted, found = (
        next(iter(Evaluator(each).run(feeds).values())).astype(np.float64) for each in (graph, changed)
    )
    return float(np.square(found - wanted).sum() / np.square(wanted - wanted.mean()).sum())


def of_type(net: Net, name: str, dtype: type, *shape: int) -> str:
    values = net.rng.normal(size=shape) / np.sqrt(shape[0] if len(shape) == 2 else 1)
    return net.constant(name, values.astype(dtype))


def two_layers(bias: np.ndarray, dtype: type = np.float32, behind: np.ndarray | None = None) -> Graph:
    """The second with this bias, and this behind it."""
    net = Net(1)
    first = [of_type(net, "w", dtype, 6, 16), of_type(net, "b", dtype, 16)]
    x = net.node("Relu", [net.node("Gemm", ["x", *first], "h")], "r")
    last = net.node("Gemm", [x, of_type(net, "v", dtype, 16, 4), net.constant("c", bias)], "y")
    if behind is not None:
        last = net.node("Add", [last, net.constant("d", behind)], "sum")
    kind = TYPES[dtype]
    return net.graph([("x", kind, ["n", 6])], [(last, kind, ["n", 4])])


@pytest.mark.parametrize("dtype", list(TYPES))
@pytest.mark.parametrize("shape", [(4,), (1, 4), (1,), ()])
def test_a_bias_counts_once(dtype, shape, tmp_path):
    fits_better(two_layers(np.full(shape, 3, dtype), dtype), tmp_path)


@pytest.mark.parametrize("shape", [(), (1,), (4,), (1, 4)])
def test_what_is_added_behind_a_layer_is_no_part_of_its_bias(shape, tmp_path):
    fits_better(two_layers(np.full(4, 3, np.float32), behind=np.full(shape, 2, np.float32)), tmp_path)


def test_a_bias_that_is_computed_counts_once(tmp_path):
    net = Net(2)
    x = net.node("Conv", ["x", net.weight("w", 16, 3, 3, 3, fan_in=27), net.weight("b", 16)], "h")
    bias = net.node("Add", [net.constant("c", np.full(4, 2, np.float32))] * 2, "twice")
    net.node("Conv", [net.node("Relu", [x], "r"), net.weight("v", 4, 16, 1, 1, fan_in=16), bias], "y")
    graph = net.graph([("x", FLOAT, ["n", 3, 9, 9])], [("y", FLOAT, ["n", 4, 7, 7])])
    fits_better(graph, tmp_path, by=0.7)


@pytest.mark.parametrize("added", [(5,), (8, 1, 1), (1, 8, 1, 1), (5, 1), ()])
@pytest.mark.parametrize("channels", [8, 5])
def test_what_a_convolution_is_added_to_is_along_its_channels_or_not(added, channels, tmp_path):
    """A row of the picture's width is a number for each column, also where there are as many channels."""
    added = tuple(channels if size == 8 else size for size in added)
    net = Net(3)
    x = net.node("Conv", ["x", net.weight("w", 16, 3, 3, 3, fan_in=27), net.weight("b", 16)], "h")
    second = [net.weight("v", channels, 16, 3, 3, fan_in=144), net.weight("c", channels)]
    x = net.node("Conv", [net.node("Relu", [x], "r"), *second], "k")
    x = net.node("Add", [x, net.constant("d", net.rng.normal(size=added).astype(np.float32) * 3)], "s")
    beside = net.node("Conv", ["x", net.weight("u", channels, 3, 5, 5, fan_in=75)], "beside")
    net.node("Add", [x, beside], "y")
    graph = net.graph([("x", FLOAT, ["n", 3, 9, 9])], [("y", FLOAT, ["n", channels, 5, 5])])
    fits_better(graph, tmp_path, by=0.8)


@pytest.mark.parametrize("wide", [16, 12])
def test_stacked_products_share_the_bias_behind_them(wide, tmp_path):
    net = Net(4)
    x = net.node("Relu", [net.node("MatMul", ["x", net.weight("w", 2, 6, wide, fan_in=6)], "h")], "r")
    x = net.node("MatMul", [x, net.weight("v", 2, wide, 16, fan_in=wide)], "k")
    net.node("Add", [x, net.weight("b", 16)], "y")
    graph = net.graph([("x", FLOAT, ["n", 2, 5, 6])], [("y", FLOAT, ["n", 2, 5, 16])])
    fits_better(graph, tmp_path, by=0.9)


@pytest.mark.parametrize("stride", [1, 2])
def test_a_transposed_convolution_keeps_its_mean(stride, tmp_path):
    """Of its window's places as many meet in an output as its strides leave."""
    net = Net(5)
    x = net.node(
        "Conv", ["x", net.weight("w", 16, 3, 1, 1, fan_in=3), net.constant("b", np.ones(16, "f4"))], "h"
    )
    weight = net.constant("v", net.rng.uniform(0, 1, (16, 4, 2, 2)).astype(np.float32))
    net.node("ConvTranspose", [net.node("Relu", [x], "r"), weight], "y", strides=[stride] * 2)
    graph = net.graph([("x", FLOAT, ["n", 3, 8, 8])], [("y", FLOAT, ["n", 4, None, None])])
    fits_better(graph, tmp_path)
