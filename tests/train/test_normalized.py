"""Normalizations for the time of a training: there they change nothing, they learn, and leave no trace."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest
import torch
from onnx import TensorProto
from small_graphs import Net, calibration_for, conv_net, mlp

from hasten import methods
from hasten.core.data import Calibration, StoreWriter
from hasten.core.errors import InputError, MethodError
from hasten.core.recipe import Recipe, Step
from hasten.graph import Graph
from hasten.graph.evaluate import Evaluator
from hasten.train import Settings, fit
from hasten.train.normalized import normalized

QUICK = {"learning_rate": 0.05, "optimizer": "sgd", "threads": 1, "batch_size": 16, "clip_norm": None}


def residual_net() -> Graph:
    """Convolutions of all kinds: without a bias, grouped, transposed, read twice, behind a residual."""
    net = Net(5)
    x = net.node("Conv", ["image", net.weight("w1", 8, 3, 3, 3, fan_in=27)], "c1", pads=[1] * 4)
    y = net.node("Conv", [x, net.weight("w2", 8, 4, 3, 3, fan_in=36)], "c2", pads=[1] * 4, group=2)
    x = net.node("Relu", [net.node("Add", [x, y], "sum")], "r")
    up = [x, net.weight("w3", 8, 3, 2, 2, fan_in=32), net.weight("b3", 6)]
    x = net.node("ConvTranspose", up, "up", strides=[2, 2], group=2)
    x = net.node("Conv", [x, net.weight("w4", 5, 6, 1, 1, fan_in=6), net.weight("b4", 5)], "c4")
    x = net.node("Flatten", [net.node("GlobalAveragePool", [net.node("Tanh", [x], "t")], "g")], "f")
    net.node("Gemm", [x, net.weight("w5", 5, 4, fan_in=5), net.weight("b5", 4)], "logits")
    return net.graph(
        [("image", TensorProto.FLOAT, ["batch", 3, 8, 8])], [("logits", TensorProto.FLOAT, ["batch", 4])]
    )


def samples(graph: Graph, folder: Path, count: int = 64) -> Calibration:
    """Pictures of noise, one channel brighter than the others: the label."""
    rng = np.random.default_rng(2)
    shape = graph.inputs[0].shape
    writer = StoreWriter(folder, ["image", "labels"])
    for _ in range(count):
        brightest = rng.integers(shape[1])
        image = rng.normal(size=shape[1:]).astype(np.float32)
        image[brightest] += 1
        writer.append({"image": image, "labels": np.asarray(brightest)})
    return Calibration(writer.close(), range(count))


def run(graph: Graph, data: Calibration) -> np.ndarray:
    return Evaluator(graph).run(data.gather(data.indices).inputs)["logits"]


def operators(graph: Graph) -> list[str]:
    return [node.op_type for node in graph.ir_model.graph]


@pytest.mark.parametrize(("make", "layers"), [(residual_net, 4), (conv_net, 2)])
def test_at_first_nothing_changes_and_the_statistics_are_the_data_s(make, layers, tmp_path):
    graph = make()
    data = samples(graph, tmp_path)
    made = normalized(graph, data, Settings())
    assert len(made.layers) == layers
    assert len(made.own) == 4 * layers
    np.testing.assert_allclose(run(made.graph, data), run(graph, data), rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(run(made.folded(made.graph), data), run(graph, data), rtol=1e-4, atol=1e-5)
    assert operators(made.folded(made.graph)) == operators(graph)
    last = "c4" if make is residual_net else "c3"
    values = Evaluator(graph, [last]).run(data.gather(data.indices).inputs)[last].astype(np.float64)
    for kind, expected in (("mean", values.mean((0, 2, 3))), ("variance", values.var((0, 2, 3)))):
        found = made.graph.weights[f"{last}.normalized.{kind}"].const_value.numpy()
        np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-6)


def test_shapes_need_not_be_known(tmp_path):
    graph = residual_net()
    graph.ir_model.opset_imports["com.microsoft"] = 1
    for node in graph.ir_model.graph:
        if node.op_type == "Relu":
            node.domain, node.op_type = "com.microsoft", "Gelu"
        for value in node.outputs:
            value.shape = value.shape if value.is_graph_output() else None
    data = samples(graph, tmp_path)
    made = normalized(graph, data, Settings())
    behind = next(n for n in made.graph.ir_model.graph if n.name.endswith("c4.normalized"))
    assert behind.inputs[0].shape is None
    np.testing.assert_allclose(run(made.folded(made.graph), data), run(graph, data), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("settings", [{}, {"ema": 0.9}, {"held_back": 0.25}, {"optimizer": "adamw"}])
def test_what_was_learned_is_folded_and_equals_the_module(settings, tmp_path):
    graph = residual_net()
    data = samples(graph, tmp_path)
    fitted = fit(graph, data, settings=Settings(epochs=15, normalize=True, **{**QUICK, **settings}))
    assert operators(fitted.graph) == operators(graph)
    assert set(fitted.trained) == {"w1", "w2", "w3", "b3", "w4", "b4", "w5", "b5"}
    assert set(fitted.graph.weights) == {*fitted.trained, "w1.bias", "w2.bias"}
    assert fitted.history.losses[-1] < 0.8 * fitted.history.losses[0]
    with torch.no_grad():
        expected = fitted.module(torch.from_numpy(data.gather(data.indices).inputs["image"]))
    np.testing.assert_allclose(run(fitted.graph, data), expected, rtol=1e-3, atol=1e-4)


def test_a_normalization_that_was_there_learns_its_statistics(tmp_path):
    graph = conv_net()
    fitted = fit(graph, samples(graph, tmp_path), settings=Settings(epochs=2, normalize=True, **QUICK))
    before, after = (g.weights["mean"].const_value.numpy() for g in (graph, fitted.graph))
    assert np.abs(before - after).max() > 0.01


def test_only_layers_that_are_trained_are_normalized(tmp_path):
    graph = residual_net()
    data = samples(graph, tmp_path)
    fitted = fit(graph, data, settings=Settings(epochs=2, normalize=True, trainable="w[24]", **QUICK))
    assert fitted.trained == ("w2", "w4")
    assert set(fitted.graph.weights) - set(graph.weights) == {"w2.bias"}
    same = {n for n in graph.weights if _same(graph, fitted.graph, n)}
    assert same == {"w1", "w3", "b3", "w5", "b5"}


def _same(one: Graph, other: Graph, name: str) -> bool:
    return np.array_equal(*(g.weights[name].const_value.numpy() for g in (one, other)))


def test_a_resumed_training_equals_an_uninterrupted_one(tmp_path):
    graph = residual_net()
    data = samples(graph, tmp_path / "data")
    settings = Settings(steps=12, normalize=True, ema=0.9, checkpoint_every=4, **QUICK)
    whole = fit(graph, data, settings=settings)

    def stop(event):
        if event.step == 8:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fit(graph, data, settings=settings, folder=tmp_path / "kept", listener=stop)
    resumed = fit(graph, data, settings=settings, folder=tmp_path / "kept", resume=True)
    assert resumed.history.losses == whole.history.losses
    assert resumed.graph.fingerprint == whole.graph.fingerprint


def test_zeros_stay_zeros(tmp_path):
    graph = residual_net()
    weight = graph.weights["w2"].const_value.numpy().copy()
    weight[np.abs(weight) < np.median(np.abs(weight))] = 0
    graph.weights["w2"].const_value = ir.tensor(weight, name="w2")
    context = methods.Context(calibration=samples(graph, tmp_path / "data"), work=tmp_path)
    params = {"epochs": 3, "normalize": True, "keep_zeros": True, "batch_size": 16, "learning_rate": 0.01}
    change = methods.apply(Recipe([Step("finetune", params)]), graph, context)
    after = change.graph.weights["w2"].const_value.numpy()
    np.testing.assert_array_equal(after == 0, weight == 0)
    assert {site.name for site in change.sites} == {"w1", "w2", "w3", "b3", "w4", "b4", "w5", "b5"}


def test_distill_with_features_compares_what_is_behind_the_normalization(tmp_path):
    original = residual_net()
    student = original.copy()
    for name in ("w1", "w2"):
        weight = 0.7 * student.weights[name].const_value.numpy()
        student.weights[name].const_value = ir.tensor(weight.astype(np.float32), name=name)
    context = methods.Context(
        calibration=samples(original, tmp_path / "data"), work=tmp_path, original=original
    )
    params = {
        "epochs": 20,
        "normalize": True,
        "features": ["sum"],
        "learning_rate": 0.01,
        "optimizer": "sgd",
        "batch_size": 16,
    }
    change = methods.apply(Recipe([Step("distill", params)]), student, context)
    data = context.calibration
    wrong = [np.square(run(g, data) - run(original, data)).mean() for g in (student, change.graph)]
    assert wrong[1] < 0.5 * wrong[0]


@pytest.mark.parametrize(
    ("what", "message"),
    [("no convolution", "no convolution to normalize"), ("one at a time", "takes 1 sample")],
)
def test_what_cannot_be_normalized_is_refused(what, message, tmp_path):
    graph = mlp() if what == "no convolution" else residual_net()
    if what == "one at a time":
        graph.ir_model.graph.inputs[0].shape = ir.Shape([1, 3, 8, 8])
    data = calibration_for(graph, tmp_path / "data", 32)
    with pytest.raises(InputError, match=message):
        fit(graph, data, settings=Settings(epochs=1, normalize=True, **QUICK))
    context = methods.Context(calibration=data, work=tmp_path)
    with pytest.raises(MethodError, match=message):
        methods.apply(Recipe([Step("finetune", {"normalize": True})]), graph, context)


def test_a_module_keeps_its_own(tmp_path):
    data = samples(residual_net(), tmp_path)
    with pytest.raises(InputError, match="normalize is for graphs"):
        fit(torch.nn.Flatten(), data, settings=Settings(epochs=1, normalize=True, **QUICK))
