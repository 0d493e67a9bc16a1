"""quantize_static: weights as integers of 8 and fewer bits, rounded to nearest or for the outputs."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest
from quantized import FLOAT, error, fused, of_rank, picture_net, reasons, samples_of
from small_graphs import Net, attention, conv_net, feeds_of

from hasten import methods
from hasten.core import target
from hasten.core.errors import MethodError
from hasten.graph.evaluate import Evaluator
from hasten.methods._observe import moments as reconstruct
from hasten.methods._qdq.layers import find_layers


def test_weights_are_per_channel_and_biases_have_the_scale_of_the_products(quantize):
    graph = conv_net()
    changed = quantize(graph, reduce_range=False).graph
    node = next(n for n in changed.ir_model.graph if n.name == "Gemm_h4")
    x, w, b = (value.producer() for value in node.inputs)
    assert w.attributes["axis"].as_int() == 0  # transB: outputs come first
    x_scale, w_scale, b_scale = (n.inputs[1].const_value.numpy() for n in (x, w, b))
    assert w_scale.shape == (512,)
    np.testing.assert_array_equal(b_scale, x_scale * w_scale)
    weight, bias = (graph.weights[name].const_value.numpy() for name in ("w4", "b4"))
    integers = w.inputs[0].const_value.numpy()
    assert integers.dtype == np.int8
    assert (np.abs(integers.astype(int)).max(axis=1) == 127).all()
    # at most half a step off
    assert (np.abs(integers * w_scale[:, None] - weight) <= 0.5001 * w_scale[:, None]).all()
    biases = b.inputs[0].const_value.numpy()
    assert biases.dtype == np.int32
    assert (np.abs(biases * b_scale.astype(np.float64) - bias) <= 0.5001 * b_scale).all()


def test_a_channel_of_tiny_weights_keeps_its_bias(quantize):
    net = Net(7)
    w = net.rng.normal(size=(8, 8, 3, 3)).astype(np.float32)
    w[0], w[1] = 0.0, w[1] * 1e-12
    bias = np.array([3.0, -2.0, 0, 0, 0, 0, 0, 0], np.float32)
    net.node("Conv", ["x", net.constant("w", w), net.constant("b", bias)], "y")
    graph = picture_net(net, ["y"])
    changed = quantize(graph).graph
    found = Evaluator(changed).run(feeds_of(graph))["y"]
    # the outputs of these channels are their biases; all outputs share one scale of 8 bits
    step = np.ptp(Evaluator(graph).run(feeds_of(graph))["y"]) / 200
    np.testing.assert_allclose(found[:, 0], 3.0, atol=step)
    np.testing.assert_allclose(found[:, 1], -2.0, atol=step)


def test_one_scale_that_would_erase_channels_is_refused(quantize):
    net = Net(8)
    w = net.rng.normal(size=(8, 8, 1, 1)).astype(np.float32)
    w[:3] *= 1e-4
    net.node("Conv", ["x", net.constant("w", w)], "y")
    graph = picture_net(net, ["y"])
    assert quantize(graph).effective
    change = quantize(graph, per_channel=False)
    assert not change.effective
    assert reasons(change) == {"Conv_y": "one scale for all its channels would erase 3 of them (per_channel)"}


def test_four_bits_are_stored_in_half_the_bytes(quantize):
    graph = conv_net()
    change = quantize(graph, weights="int4")
    stored = {n: v.const_value for n, v in change.graph.weights.items() if n.endswith(".integers")}
    weights = [t for t in stored.values() if t.dtype == ir.DataType.INT4]
    assert weights
    assert all(t.nbytes == (t.size + 1) // 2 for t in weights)
    assert all(np.abs(t.numpy().astype(int)).max() <= 8 for t in weights)
    assert any("smaller, not faster" in note for note in change.notes)
    feeds = feeds_of(graph)
    wanted, found = (Evaluator(g).run(feeds) for g in (graph, change.graph))
    for name, value in wanted.items():
        assert np.linalg.norm(found[name] - value) < 0.5 * np.linalg.norm(value)


def test_four_bits_need_an_operator_set_that_has_them(quantize):
    graph = conv_net()
    graph.ir_model.opset_imports[""] = 17
    with pytest.raises(MethodError, match="int4 needs 21"):
        quantize(graph, weights="int4")


def test_single_layers_may_take_other_bits(quantize):
    graph = conv_net()
    names = [site.name for site in quantize(graph).sites]
    change = quantize(graph, weights_of={names[0]: "int4", "nowhere": "int4"})
    stored = [
        v.const_value.dtype.name.lower()
        for name, v in change.graph.weights.items()
        if name.endswith(".integers") and v.const_value.dtype != ir.DataType.INT32
    ]
    assert sorted(stored) == sorted(["int4", *["int8"] * (len(stored) - 1)])
    assert ["4 bits" in site.what for site in change.sites if "weights" in site.what].count(True) == 1
    assert "weights_of names nothing in the graph: nowhere" in change.notes


def test_activations_of_16_bits_have_256_times_the_levels(quantize):
    scales = {}
    for activations in ("uint8", "uint16"):
        graph = quantize(conv_net(), activations=activations).graph
        Evaluator(graph).run(feeds_of(graph))
        pairs = [node for node in graph.ir_model.graph if node.op_type == "QuantizeLinear"]
        assert {node.inputs[2].const_value.dtype.name for node in pairs} == {activations.upper()}
        scales[activations] = {node.name: node.inputs[1].const_value.numpy() for node in pairs}
    assert scales["uint8"].keys() == scales["uint16"].keys()
    for name, scale in scales["uint8"].items():
        np.testing.assert_allclose(scale / scales["uint16"][name], 65535 / 255, rtol=1e-5)


@pytest.mark.parametrize(("asked", "largest"), [(True, 63), (False, 127)])
def test_seven_bits_leave_room_for_pairs_of_products(quantize, asked, largest):
    change = quantize(conv_net(), reduce_range=asked)
    weights = [
        v.const_value.numpy().astype(int)
        for name, v in change.graph.weights.items()
        if v.const_value.dtype == ir.DataType.INT8 and name.endswith(".integers")
    ]
    assert max(np.abs(w).max() for w in weights) == largest
    assert ("weights use 7 bits: asked for" in change.notes) is asked


def test_the_cpu_decides_when_nobody_asks(quantize, monkeypatch):
    monkeypatch.setattr(target.platform, "machine", lambda: "x86_64")
    for flags, noted in ((frozenset({"avx2"}), True), (frozenset({"avx2", "avx512_vnni"}), False)):
        monkeypatch.setattr(target, "cpu_flags", lambda flags=flags: flags)
        notes = quantize(conv_net()).notes
        assert any("weights use 7 bits" in note for note in notes) is noted


def test_a_shared_weight_is_stored_once(quantize):
    net = Net(9)
    w = net.weight("w", 8, 8, 3, 3, fan_in=72)
    x = net.node("Relu", [net.node("Conv", ["x", w], "c1", pads=[1] * 4)], "r1")
    net.node("Conv", [x, w], "y", pads=[1] * 4)
    graph = picture_net(net, ["y"])
    changed = quantize(graph).graph
    assert (
        sum(
            v.const_value.dtype == ir.DataType.INT8 and v.const_value.size > 8
            for v in changed.weights.values()
        )
        == 1
    )
    assert "w" not in changed.weights
    assert error(graph, changed) < 0.05


def test_a_weight_behind_a_transpose_is_read_through_it(quantize, tmp_path):
    net = Net(10)
    w = net.node("Transpose", [net.weight("w", 24, 16, fan_in=16)], "wt", perm=[1, 0])
    net.node("MatMul", ["x", w], "y")
    graph = net.graph([("x", FLOAT, ["n", 16])], [("y", FLOAT, ["n", 24])])
    change = quantize(graph)
    assert fused(change.graph, tmp_path) == {"QuantizeLinear": 1, "MatMulIntegerToFloat": 1}
    assert error(graph, change.graph) < 0.05


def error_of(graph, changed, feeds):
    wanted, got = (Evaluator(g, optimized=False).run(feeds) for g in (graph, changed))
    return max(np.square(wanted[n] - got[n]).sum() / np.square(wanted[n]).sum() for n in wanted)


@pytest.mark.parametrize("make", [conv_net, attention])
def test_rounding_for_outputs_beats_rounding_to_nearest(quantize, make):
    graph, feeds = make(), feeds_of(make(), batch=8)
    plain = quantize(graph, weights="int4")
    solved = quantize(graph, weights="int4", rounding="outputs")
    assert [s.name for s in solved.sites] == [s.name for s in plain.sites]
    assert error_of(graph, solved.graph, feeds) < error_of(graph, plain.graph, feeds)


def strided_and_grouped():
    net = Net()
    net.node("Conv", ["x", net.weight("a", 8, 4, 3, 3), net.weight("ab", 8)], "h", pads=[1, 0, 1, 2])
    net.node("Conv", ["h", net.weight("b", 8, 1, 3, 2)], "i", group=8, strides=[2, 1], dilations=[1, 2])
    net.node("Conv", ["i", net.weight("c", 6, 4, 1, 1), net.weight("cb", 6)], "y", group=2)
    return net.graph(
        [("x", FLOAT, ["batch", 4, 12, 12])], [of_rank(4, "y"), of_rank(4, "h"), of_rank(4, "i")]
    )


def test_what_is_gathered_are_the_layers_inputs(tmp_path):
    """Rows times gathered inputs must be the outputs: of every stride, padding, dilation and grouping."""
    graph = strided_and_grouped()
    found, _ = find_layers(graph.ir_model.graph, frozenset({"Conv"}), frozenset())
    x = np.random.default_rng(0).standard_normal((1, 4, 12, 12)).astype(np.float32)
    context = methods.Context(calibration=None, work=tmp_path)
    moments = reconstruct.observe(graph, found, samples_of(tmp_path / "s", "x", [x[0]]), context)
    outputs = Evaluator(graph).run({"x": x})
    for layer in found:
        y = outputs[layer.node.outputs[0].name][0]
        positions = reconstruct._evenly(y[0].size, reconstruct.POSITIONS)
        bias = 0 if not layer.has_bias else layer.node.inputs[2].const_value.numpy()[:, None]
        seen = y.reshape(len(y), -1)[:, positions] - bias
        rows, known = reconstruct.as_rows(layer, layer.array), moments[layer.name]
        assert known.count == len(positions)
        mean = np.einsum("goi,gi->go", rows, known.mean).reshape(-1)
        np.testing.assert_allclose(mean, seen.mean(axis=1), atol=1e-4)
        power = np.einsum("goi,gij,goj->go", rows, known.second, rows).reshape(-1)
        np.testing.assert_allclose(power, np.square(seen).mean(axis=1), rtol=1e-3)
        np.testing.assert_array_equal(reconstruct.as_weight(layer, rows), layer.array)


def test_biases_keep_the_mean_outputs(quantize, tmp_path):
    graph = strided_and_grouped()
    data = samples_of(
        tmp_path / "s", "x", np.random.default_rng(1).standard_normal((24, 4, 12, 12)).astype(np.float32) + 1
    )
    feeds = next(iter(data.batches(24))).feeds(graph.inputs)
    wanted = Evaluator(graph).run(feeds)["h"].mean(axis=(0, 2, 3))
    off = {}
    for rounding in ("nearest", "outputs"):
        made = quantize(graph, data, weights="int4", rounding=rounding).graph
        off[rounding] = np.abs(Evaluator(made, optimized=False).run(feeds)["h"].mean(axis=(0, 2, 3)) - wanted)
    assert off["outputs"].max() < 0.3 * off["nearest"].max()


def test_a_weight_that_layers_share_stays_shared_and_nearest(quantize):
    net = Net()
    weight = net.weight("w", 8, 8)
    net.node("MatMul", ["x", weight], "h")
    net.node("Relu", ["h"], "r")
    net.node("MatMul", ["r", weight], "y")
    graph = net.graph([("x", FLOAT, ["batch", 8])], [("y", FLOAT, ["batch", 8])])
    made = [quantize(graph, rounding=rounding).graph for rounding in ("nearest", "outputs")]
    stored = [
        [v.const_value.numpy() for v in g.ir_model.graph.initializers.values() if v.dtype == ir.DataType.INT8]
        for g in made
    ]
    assert [len([a for a in arrays if a.ndim == 2]) for arrays in stored] == [1, 1]
    np.testing.assert_array_equal(*[next(a for a in arrays if a.ndim == 2) for arrays in stored])


@pytest.mark.parametrize(("reduced", "said"), [(False, True), (True, False)])
def test_layers_that_would_saturate_without_vnni_are_named(quantize, tmp_path, reduced, said):
    net = Net()
    # Neighbouring channels that are always large and weighted alike: the sum of two products needs 17 bits.
    net.node("Conv", ["x", net.constant("w", np.ones((2, 4, 3, 3), np.float32))], "y")
    graph = net.graph([("x", FLOAT, ["batch", 4, 6, 6])], [of_rank(4, "y")])
    data = samples_of(tmp_path / "s", "x", [np.full((4, 6, 6), 1.0 + i, np.float32) for i in range(8)])
    notes = quantize(graph, data, reduce_range=reduced).notes
    assert any("would saturate" in note for note in notes) == said
