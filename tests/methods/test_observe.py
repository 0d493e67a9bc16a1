"""What layers read, counted by how much the outputs depend on it."""

from __future__ import annotations

import numpy as np
import pytest
from onnx import TensorProto
from small_graphs import Net, calibration_for, conv_net

from hasten import methods
from hasten.core.data import Calibration, StoreWriter
from hasten.core.errors import MethodError
from hasten.core.recipe import Recipe, Step
from hasten.graph.evaluate import Evaluator
from hasten.methods._observe.gradients import Gradients
from hasten.methods._observe.moments import inputs_of, observe
from hasten.methods._observe.outputs import Outputs
from hasten.methods._qdq.layers import find_layers

FLOAT = TensorProto.FLOAT


def masked_mean():
    """Tokens through a layer, then the mean of those that a mask keeps."""
    net = Net(3)
    h = net.node("MatMul", ["x", net.weight("w", 6, 5)], "h")
    kept = net.node(
        "Mul", [h, net.node("Unsqueeze", ["mask", net.constant("last", np.array([2]))], "m")], "k"
    )
    net.node("ReduceSum", [kept, net.constant("tokens", np.array([1]))], "y", keepdims=0)
    inputs = [("x", FLOAT, ["n", 7, 6]), ("mask", FLOAT, ["n", 7])]
    return net.graph(inputs, [("y", FLOAT, ["n", 5])])


def layers_of(graph):
    found, _ = find_layers(graph.ir_model.graph, frozenset({"Conv", "MatMul", "Gemm"}), frozenset())
    return found


def test_padding_counts_nothing(tmp_path):
    graph, rng = masked_mean(), np.random.default_rng(0)
    x = rng.standard_normal((12, 7, 6)).astype(np.float32)
    mask = (np.arange(7) < rng.integers(1, 8, (12, 1))).astype(np.float32)
    x += 10 * (1 - mask[:, :, None])  # padding is loud
    writer = StoreWriter(tmp_path / "store", ["x", "mask"])
    for tokens, kept in zip(x, mask, strict=True):
        writer.append({"x": tokens, "mask": kept})
    samples = Calibration(writer.close(), range(12))
    context = methods.Context(calibration=samples, work=tmp_path, batch=5)
    layers = layers_of(graph)
    found = observe(graph, layers, samples, context, "gradients")[layers[0].name]
    # Samples are kept once each whatever their length: the signs are ±1 and the sum adds all tokens alike,
    # but each batch's outputs are brought to one size.
    real = [x[i][mask[i] > 0] for i in range(12)]
    sizes = [np.sqrt(np.square(_outputs(graph, x[i : i + 5], mask[i : i + 5])).mean()) for i in (0, 5, 10)]
    weights = np.concatenate([np.full(len(rows), sizes[i // 5] ** -2.0) for i, rows in enumerate(real)])
    rows = np.concatenate(real).astype(np.float64)
    np.testing.assert_allclose(found.mean[0], weights @ rows / weights.sum(), rtol=1e-4, atol=1e-5)
    wanted = (rows * weights[:, None]).T @ rows / weights.sum()
    np.testing.assert_allclose(found.second[0], wanted, rtol=1e-3, atol=1e-4)
    alike = observe(graph, layers, samples, context)[layers[0].name]
    assert np.trace(alike.second[0]) > 5 * np.trace(found.second[0])


def _outputs(graph, x, mask):
    from hasten.graph.evaluate import Evaluator

    return Evaluator(graph).run({"x": x, "mask": mask})["y"]


def test_gradients_are_those_of_differences(tmp_path):
    graph = conv_net()
    layer = layers_of(graph)[0]
    samples = calibration_for(graph, tmp_path / "store", 4)
    feeds = next(iter(samples.batches(2))).feeds(graph.inputs)
    name = str(layer.node.outputs[0].name)
    gradients = Gradients(graph, [name], seed=3)
    value, slope = gradients.of(feeds)[name]
    assert value.shape == slope.shape
    assert np.abs(slope).max() > 0
    same = Gradients(graph, [name], seed=3).of(feeds)[name][1]
    np.testing.assert_array_equal(slope, same)


def test_every_layer_gets_as_many_weights_as_positions(tmp_path):
    graph = conv_net()
    samples = calibration_for(graph, tmp_path / "store", 8)
    context = methods.Context(calibration=samples, work=tmp_path, batch=4)
    layers = layers_of(graph)
    alike, weighed = (observe(graph, layers, samples, context, way) for way in ("equal", "gradients"))
    assert alike.keys() == weighed.keys() != set()
    for name, moments in weighed.items():
        assert moments.count == alike[name].count
        assert moments.second.shape == alike[name].second.shape
        assert np.linalg.eigvalsh(moments.second).min() > -1e-4


def test_layers_that_read_the_same_share_moments(tmp_path):
    net = Net(5)
    for y in ("a", "b"):
        net.node("MatMul", ["x", net.weight(f"{y}w", 6, 4)], y)
    shape = ["n", 3, 4]
    graph = net.graph([("x", FLOAT, ["n", 3, 6])], [("a", FLOAT, shape), ("b", FLOAT, shape)])
    samples = calibration_for(graph, tmp_path / "store", 4)
    context = methods.Context(calibration=samples, work=tmp_path)
    layers = layers_of(graph)
    found = observe(graph, layers, samples, context)
    one, other = (found[layer.name] for layer in layers)
    np.testing.assert_array_equal(one.second, other.second)
    assert len(list(tmp_path.glob("moments-*/*.npz"))) == 1
    apart = observe(graph, layers, samples, context, "gradients")
    assert not np.array_equal(*(apart[layer.name].second for layer in layers))
    values = np.zeros((2, 3, 6), np.float32)
    assert inputs_of(layers[0], values, 2).shape == (1, 4, 6)


def test_an_operator_without_a_gradient_is_named():
    graph = masked_mean()
    next(node for node in graph.ir_model.graph if node.op_type == "Mul").op_type = "Unheard"
    with pytest.raises(MethodError, match=r"importance: gradients cannot be had of this graph: .*Unheard"):
        Gradients(graph, ["h"], seed=0)


@pytest.mark.parametrize(
    ("kernel", "attributes"),
    [
        ((3, 3), {"pads": [1, 1, 1, 1]}),
        ((5, 3), {"pads": [0, 2, 1, 0], "strides": [2, 3], "dilations": [2, 1]}),
        ((1, 1), {}),
        ((3,), {"pads": [2, 1], "strides": [2]}),
    ],
)
@pytest.mark.parametrize("group", [1, 2])
def test_windows_are_what_the_convolution_multiplies(tmp_path, kernel, attributes, group):
    """Rows times weights are the outputs, at every position there is."""
    net = Net(6)
    weight = net.weight("w", 4, 6 // group, *kernel)
    net.node("Conv", ["x", weight], "y", group=group, **attributes)
    space = [11, 9][: len(kernel)]
    graph = net.graph([("x", FLOAT, ["n", 6, *space])], [("y", FLOAT, ["n", 4, *[None] * len(kernel)])])
    (layer,) = layers_of(graph)
    x = net.rng.normal(size=(2, 6, *space)).astype(np.float32)
    y = Evaluator(graph).run({"x": x})["y"]
    rows = inputs_of(layer, x, 10**6)
    weights = layer.array.reshape(group, 4 // group, -1)
    made = np.einsum("gpi,goi->gpo", rows, weights).reshape(group, 2, -1, 4 // group)
    wanted = y.reshape(2, group, 4 // group, -1).transpose(1, 0, 3, 2)
    np.testing.assert_allclose(made, wanted, rtol=1e-4, atol=1e-5)


def deciding(kind: str) -> Net:
    """Scores, of which only what is decided comes out."""
    net = Net(8)
    x = net.node("Relu", [net.node("Gemm", ["x", net.weight("w", 6, 32), net.weight("b", 32)], "h")], "r")
    scores = net.node("Gemm", [x, net.weight("v", 32, 4), net.weight("c", 4)], "z")
    if kind == "classes":
        net.node("ArgMax", [scores], "y", axis=1, keepdims=0)
    else:
        net.node("Greater", [scores, net.constant("zero", np.zeros(1, np.float32))], "y")
    return net


@pytest.mark.parametrize("kind", ["classes", "flags"])
def test_decisions_are_wrong_by_the_share_that_differs(kind, tmp_path):
    element, shape = (TensorProto.INT64, ["n"]) if kind == "classes" else (TensorProto.BOOL, ["n", 4])
    graph = deciding(kind).graph([("x", FLOAT, ["n", 6])], [("y", element, shape)])
    samples = calibration_for(graph, tmp_path / "store", 60)
    context = methods.Context(calibration=samples, work=tmp_path, batch=7)
    outputs = Outputs(graph, samples, context)
    assert outputs.error(graph) == 0
    step = Step("prune_channels", {"macs": 0.3, "align": 1})
    changed = methods.apply(Recipe([step]), graph, context).graph
    feeds = next(samples.batches(60)).feeds(graph.inputs)
    wanted, found = (Evaluator(each).run(feeds)["y"] for each in (graph, changed))
    share = float(np.mean(wanted != found))
    assert share > 0
    assert outputs.error(changed) == pytest.approx(share)
    bounded = {"shrink": {"prune_channels": {"align": 1}}, "to": 0.1, "rounds": 1, "largest_loss": 1e-3}
    rounds = methods.apply(Recipe([Step("iterate", {**bounded, "halvings": 0})]), graph, context)
    assert not rounds.effective
    assert "undone" in rounds.notes[0]


def test_beside_numbers_decisions_do_not_count(tmp_path):
    net = deciding("classes")
    outputs = [("y", TensorProto.INT64, ["n"]), ("z", FLOAT, ["n", 4])]
    graph = net.graph([("x", FLOAT, ["n", 6])], outputs)
    samples = calibration_for(graph, tmp_path / "store", 20)
    seen = Outputs(graph, samples, methods.Context(calibration=samples, work=tmp_path, batch=4))

    def decided_otherwise(feeds):
        return Evaluator(graph).run(feeds) | {"y": np.full(len(feeds["x"]), 9)}

    assert seen.wrong(decided_otherwise) == 0
