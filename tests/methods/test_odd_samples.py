"""Pruning on samples that are few, all alike, not finite inside the model, or that do not fill a batch."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from onnx import TensorProto
from small_graphs import Net

from hasten import methods
from hasten.core.data import Calibration, StoreWriter
from hasten.core.recipe import Recipe, Step
from hasten.graph import Graph
from hasten.graph.evaluate import Evaluator

FLOAT = TensorProto.FLOAT


def run(graph: Graph, x: np.ndarray, folder: Path, method: str, batch: int = 1, **params) -> methods.Change:
    writer = StoreWriter(folder / "store", ["x"])
    for sample in x:
        writer.append({"x": sample})
    samples = Calibration(writer.close(), range(len(x)))
    context = methods.Context(calibration=samples, work=folder, batch=batch)
    return methods.apply(Recipe([Step(method, params)]), graph, context)


def error(graph: Graph, changed: Graph, x: np.ndarray) -> float:
    """Over what varies in the outputs."""
    wanted, found = (next(iter(Evaluator(each).run({"x": x}).values())) for each in (graph, changed))
    return float(np.square(found - wanted).sum() / np.square(wanted - wanted.mean()).sum())


def drawn(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def mlp(batch: int | str = "n", *, biases: bool = True) -> Graph:
    net = Net(1)
    x = "x"
    for number, (read, made) in enumerate([(8, 32), (32, 32), (32, 4)]):
        weights = [x, net.weight(f"w{number}", read, made)]
        if biases:
            weights.append(net.weight(f"b{number}", made))
        x = net.node("Gemm" if biases else "MatMul", weights, f"h{number}")
        x = x if number == 2 else net.node("Relu", [x], f"r{number}")
    return net.graph([("x", FLOAT, [batch, 8])], [("h2", FLOAT, [batch, 4])])


@pytest.mark.parametrize("biases", [True, False])
@pytest.mark.parametrize("fit", [True, False])
@pytest.mark.parametrize("count", [1, 2, 3])
def test_channels_by_a_few_samples(count, fit, biases, tmp_path):
    graph = mlp(biases=biases)
    for seed in range(3):
        folder = tmp_path / str(seed)
        folder.mkdir()
        x = drawn(count, 8, seed=seed)
        change = run(graph, x, folder, "prune_channels", macs=0.5, align=1, fit=fit)
        # Of so few samples little can be learned; what rounding makes of them once cost thousands.
        assert error(graph, change.graph, drawn(50, 8, seed=9)) < 0.65
        assert all(0 < float(site.what.split()[-5].rstrip("%")) <= 100 for site in change.sites)


@pytest.mark.parametrize("fit", [True, False])
def test_channels_by_samples_that_are_alike(fit, tmp_path):
    graph, x = mlp(), np.repeat(drawn(1, 8), 20, axis=0)
    change = run(graph, x, tmp_path, "prune_channels", macs=0.5, align=1, fit=fit)
    assert error(graph, change.graph, drawn(50, 8, seed=9)) < 0.65
    assert all(0 < float(site.what.split()[-5].rstrip("%")) <= 100 for site in change.sites)


@pytest.mark.parametrize(("importance", "solve"), [("l2", True), ("outputs", False)])
def test_zeros_by_samples_that_are_alike(importance, solve, tmp_path):
    graph, x = mlp(), np.repeat(drawn(1, 8), 20, axis=0)
    change = run(graph, x, tmp_path, "prune_weights", importance=importance, solve=solve, min_elements=0)
    assert error(graph, change.graph, drawn(50, 8, seed=9)) < 0.25


def test_a_width_that_is_read_without_bound_stays_and_says_so(tmp_path):
    net = Net(2)
    x = net.node("Gemm", ["x", net.weight("w", 8, 16), net.weight("b", 16)], "h")
    x = net.node("Exp", [net.node("Abs", [x], "a")], "e")
    positive = net.constant("v", net.rng.uniform(0.1, 1, (16, 12)).astype(np.float32))
    x = net.node("Sigmoid", [net.node("Gemm", [x, positive], "k")], "s")
    net.node("Gemm", [x, net.weight("u", 12, 4)], "y")
    graph = net.graph([("x", FLOAT, ["n", 8])], [("y", FLOAT, ["n", 4])])
    x = drawn(24, 8)
    x[3] *= 1000  # infinite behind Exp, 1 behind Sigmoid
    assert np.isfinite(Evaluator(graph).run({"x": x})["y"]).all()
    change = run(graph, x, tmp_path, "prune_channels", macs=0.7, align=1)
    reasons = {skip.name: skip.reason for skip in change.skipped}
    assert reasons["Gemm_h"] == "what Gemm_k reads is empty or not finite on the calibration samples"
    assert [site.name for site in change.sites] == ["Gemm_k"]
    assert error(graph, change.graph, drawn(50, 8, seed=9)) < 0.2


def test_half_precision_is_observed_in_single(tmp_path):
    """What is read squares to more than half precision holds."""
    net, half = Net(3), TensorProto.FLOAT16
    weights = [(10 * net.rng.normal(size=(6, 32))).astype(np.float16), np.zeros(32, np.float16)]
    names = [net.constant(f"w{i}", array) for i, array in enumerate(weights)]
    x = net.node("Add", [net.node("MatMul", ["x", names[0]], "h"), names[1]], "s")
    last = net.constant("v", (net.rng.normal(size=(32, 4)) / 60).astype(np.float16))
    net.node("MatMul", [net.node("Relu", [x], "r"), last], "y")
    graph = net.graph([("x", half, ["n", 64, 6])], [("y", half, ["n", 64, 4])])
    change = run(graph, drawn(24, 64, 6).astype(np.float16), tmp_path, "prune_channels", macs=0.5, align=2)
    assert change.effective
    assert error(graph, change.graph, drawn(8, 64, 6, seed=9).astype(np.float16)) < 0.1


STEPS = [
    ("prune_channels", {"macs": 0.5, "align": 1}),
    ("prune_channels", {"macs": 0.5, "align": 1, "importance": "taylor"}),
    ("prune_weights", {"importance": "outputs", "min_elements": 0}),
    ("search_structure", {"left": 0.5, "align": 1, "among": ["channels"]}),
    ("iterate", {"shrink": {"prune_channels": {"align": 1}}, "to": 0.5, "rounds": 1}),
]


@pytest.mark.parametrize("count", [32, 30, 8])
@pytest.mark.parametrize(("method", "params"), STEPS)
def test_a_model_of_a_fixed_batch_gets_whole_batches(method, params, count, tmp_path):
    graph = mlp(4)
    x = drawn(count, 8)
    change = run(graph, x, tmp_path, method, batch=4, **params)
    assert change.effective
    kept = [error(graph, change.graph, drawn(4, 8, seed=seed)) for seed in range(5, 10)]
    assert np.median(kept) < 0.8


def test_convolutions_of_a_fixed_batch_are_replaced(tmp_path):
    net = Net(4)
    x = net.node("Conv", ["x", net.weight("w", 8, 4, 3, 3, fan_in=36), net.weight("b", 8)], "h", pads=[1] * 4)
    net.node("Conv", [net.node("Relu", [x], "r"), net.weight("v", 6, 8, 1, 1, fan_in=8)], "y")
    graph = net.graph([("x", FLOAT, [4, 4, 9, 9])], [("y", FLOAT, [4, 6, 9, 9])])
    change = run(graph, drawn(32, 4, 9, 9), tmp_path, "restructure", batch=4, macs=0.5, harm=5.0)
    assert change.effective
    assert error(graph, change.graph, drawn(4, 4, 9, 9, seed=9)) < 0.5


@pytest.mark.parametrize(
    "step",
    [
        {"quantize_static": {}},
        {"quantize_static": {"rounding": "outputs", "range": "outputs", "weights": "int4"}},
        {"equalize": {}},
        {"factorize": {"keep": 0.9, "align": 1}},
        {"prune_layers": {"ratio": 0.5}},
        {"compress_weights": {"bits": 4, "rounding": "outputs", "min_elements": 1}},
        {"cast": {"what": "compute"}},
        {"optimize_graph": {}},
    ],
    ids=str,
)
def test_every_method_fills_the_batches_of_a_fixed_size(step, tmp_path):
    """Seven samples for a model that takes four at a time, of which a few are used here and others there."""
    net = Net(4)
    x = net.node("Relu", [net.node("MatMul", ["x", net.weight("w1", 8, 8)], "m1")], "r1")
    x = net.node("Add", ["x", net.node("MatMul", [x, net.weight("w2", 8, 8)], "m2")], "sum")
    net.node("MatMul", [x, net.weight("w3", 8, 6)], "y")
    graph = net.graph([("x", FLOAT, [4, 8])], [("y", FLOAT, [4, 6])])
    ((method, params),) = step.items()
    change = run(graph, drawn(7, 8), tmp_path, method, **params)
    assert error(graph, change.graph, drawn(4, 8, seed=9)) < 1.5
