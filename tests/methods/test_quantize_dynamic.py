"""quantize_dynamic: what is written, that it computes the same to 8 bits, and what runtimes make of it."""

from __future__ import annotations

from collections import Counter

import numpy as np
import onnx_ir as ir
import pytest
from onnx import TensorProto
from quantized import fused, operators
from small_graphs import Net, attention, branching, conv_net, feeds_of, lstm, mlp

from hasten import methods, targets
from hasten.core import target
from hasten.core.errors import MethodError
from hasten.core.recipe import Recipe, Step
from hasten.graph.evaluate import Evaluator


def quantized(graph, tmp_path, **params):
    context = methods.Context(calibration=None, work=tmp_path)
    return methods.apply(Recipe([Step("quantize_dynamic", params)]), graph, context)


def error(graph, changed, feeds=None):
    """Normalized error ‖y − ŷ‖ / ‖y‖ of the first output."""
    feeds = feeds or feeds_of(graph)
    output = graph.outputs[0].name
    wanted = Evaluator(graph).run(feeds)[output]
    return np.linalg.norm(Evaluator(changed).run(feeds)[output] - wanted) / np.linalg.norm(wanted)


def reference(x, weight, bias, bits=8):
    """The same arithmetic, written plainly: ONNX's DynamicQuantizeLinear, then integers."""
    low, high = min(x.min(), 0), max(x.max(), 0)
    x_scale = np.float32((high - low) / 255)
    x_zero = np.clip(np.rint(-low / x_scale), 0, 255)
    x_q = np.clip(np.rint(x / x_scale) + x_zero, 0, 255)
    w_scale = np.abs(weight).max(0) / (2 ** (bits - 1) - 1)
    w_q = np.rint(weight / w_scale)
    return ((x_q - x_zero) @ w_q) * (x_scale * w_scale) + bias


@pytest.mark.parametrize(
    "bits",
    [
        pytest.param(
            8, marks=pytest.mark.skipif(target.sums_saturate(), reason="this CPU adds pairs in 16 bits")
        ),
        7,
    ],
)
def test_a_product_is_what_the_formula_says(tmp_path, bits):
    net = Net()
    net.node("Gemm", ["x", net.weight("w", 128, 96), net.weight("b", 96)], "y")
    graph = net.graph([("x", TensorProto.FLOAT, ["n", 128])], [("y", TensorProto.FLOAT, ["n", 96])])
    changed = quantized(graph, tmp_path, reduce_range=bits == 7).graph
    x = np.random.default_rng(1).normal(size=(5, 128)).astype(np.float32)
    w, b = (graph.weights[name].const_value.numpy() for name in "wb")
    found = Evaluator(changed, optimized=False).run({"x": x})["y"]
    # Integers are exact; what is left is the rounding of a few float32 factors
    np.testing.assert_allclose(found, reference(x, w, b, bits), rtol=1e-5, atol=1e-5)
    stored = next(v.const_value.numpy() for n, v in changed.weights.items() if n.endswith(".int8"))
    assert stored.dtype == np.int8
    assert np.abs(stored.astype(int)).max() == 2 ** (bits - 1) - 1


def test_what_each_layer_becomes(tmp_path):
    change = quantized(attention(), tmp_path)
    assert {site.op_type for site in change.sites} == {"MatMul", "Gather"}
    assert len(change.sites) == 7
    reasons = {skip.name: skip.reason for skip in change.skipped}
    assert reasons == dict.fromkeys(
        ("MatMul_scores", "MatMul_mixed"), "both factors are computed at run time"
    )
    found = operators(change.graph)
    assert found["MatMulInteger"] == 6
    # The three projections read the same activations, which are quantized once
    assert found["DynamicQuantizeLinear"] == 4


def test_the_layers_keep_their_names(tmp_path):
    change = quantized(attention(), tmp_path)
    names = {node.name: node.op_type for node in change.graph.ir_model.graph}
    assert {names[s.name] for s in change.sites} == {"MatMulInteger", "Gather"}


def test_onnx_runtime_fuses_every_product_with_its_bias(tmp_path):
    found = fused(quantized(attention(), tmp_path).graph, tmp_path)
    assert found["MatMulInteger"] == 0
    assert found["Cast"] == 2  # of the mask and of the embedding, none of a product
    assert found["DynamicQuantizeMatMul"] + found["MatMulIntegerToFloat"] == 6
    found = fused(quantized(mlp(), tmp_path).graph, tmp_path)
    assert found["DynamicQuantizeMatMul"] == 2
    assert found["Add"] == 0


@pytest.mark.parametrize("form", ["integer", "weights"])
@pytest.mark.parametrize("make", [attention, mlp, lstm, conv_net])
def test_eight_bits_are_enough_and_channels_help(make, form, tmp_path):
    graph = make()
    channels = error(graph, quantized(graph, tmp_path, form=form).graph)
    tensor = error(graph, quantized(graph, tmp_path, form=form, per_channel=False).graph)
    # Uniform rounding to 1/255 of the range: about 1 % of values that are normally distributed
    assert 0 < channels < 0.03
    assert channels < 1.2 * tensor


@pytest.mark.parametrize(
    ("attributes", "x_shape", "w_shape", "bias_shape"),
    [
        ({}, (7, 96), (96, 128), (128,)),
        ({"transB": 1}, (7, 96), (128, 96), (1, 128)),
        ({"transA": 1}, (96, 7), (96, 128), (1,)),
        ({"alpha": 0.25, "beta": 3.0}, (7, 96), (96, 128), (7, 128)),
        ({"alpha": -2.0, "transA": 1, "transB": 1}, (96, 7), (128, 96), ()),
        ({"beta": 0.5}, (7, 96), (96, 128), None),
    ],
)
@pytest.mark.parametrize("form", ["integer", "weights"])
def test_every_form_of_gemm(attributes, x_shape, w_shape, bias_shape, form, tmp_path):
    net = Net()
    inputs = ["x", net.weight("w", *w_shape)]
    if bias_shape is not None:
        inputs.append(net.constant("b", net.rng.normal(size=bias_shape).astype(np.float32)))
    net.node("Gemm", inputs, "y", **attributes)
    graph = net.graph([("x", TensorProto.FLOAT, x_shape)], [("y", TensorProto.FLOAT, (7, 128))])
    changed = quantized(graph, tmp_path, form=form).graph
    assert "Gemm" not in operators(changed)
    assert error(graph, changed, {"x": net.rng.normal(size=x_shape).astype(np.float32)}) < 0.02


def test_a_bias_computed_at_run_time_is_scaled(tmp_path):
    net = Net()
    net.node("Gemm", ["x", net.weight("w", 96, 128), "b"], "y", beta=0.5)
    graph = net.graph(
        [("x", TensorProto.FLOAT, (7, 96)), ("b", TensorProto.FLOAT, (7, 128))],
        [("y", TensorProto.FLOAT, (7, 128))],
    )
    feeds = {k: net.rng.normal(size=s).astype(np.float32) for k, s in (("x", (7, 96)), ("b", (7, 128)))}
    assert error(graph, quantized(graph, tmp_path).graph, feeds) < 0.02


@pytest.mark.parametrize("shape", [(96,), (4, 96), (2, 3, 96), (2, 3, 4, 96)])
def test_activations_of_any_rank(shape, tmp_path):
    net = Net()
    net.node("MatMul", ["x", net.weight("w", 96, 100)], "y")
    graph = net.graph([("x", TensorProto.FLOAT, shape)], [("y", TensorProto.FLOAT, (*shape[:-1], 100))])
    x = net.rng.normal(size=shape).astype(np.float32)
    assert error(graph, quantized(graph, tmp_path).graph, {"x": x}) < 0.02


@pytest.mark.parametrize("form", ["integer", "weights"])
@pytest.mark.parametrize("shape", [(100, 7), (2, 100, 7), (2, 3, 100, 7)])
def test_a_weight_on_the_left(shape, form, tmp_path):
    net = Net()
    net.node("MatMul", [net.weight("w", 96, 100, fan_in=100), "x"], "y")
    graph = net.graph([("x", TensorProto.FLOAT, shape)], [("y", TensorProto.FLOAT, (*shape[:-2], 96, 7))])
    changed = quantized(graph, tmp_path, form=form).graph
    x = net.rng.normal(size=shape).astype(np.float32)
    assert error(graph, changed, {"x": x}) < 0.02
    assert operators(changed)["Transpose"] == 2


def test_a_weight_used_twice_is_stored_once(tmp_path):
    net = Net()
    net.weight("w", 96, 96)
    net.node("MatMul", [net.node("MatMul", ["x", "w"], "h"), "w"], "y")
    graph = net.graph([("x", TensorProto.FLOAT, ["n", 96])], [("y", TensorProto.FLOAT, ["n", 96])])
    for form in ("integer", "weights"):
        changed = quantized(graph, tmp_path, form=form).graph
        assert [v.dtype for v in changed.weights.values()].count(ir.DataType.INT8) == 1
        assert operators(changed)["DequantizeLinear"] == (form == "weights")


def test_weights_in_constant_nodes_and_inside_branches(tmp_path):
    graph, rng = branching(), np.random.default_rng(1)
    change = quantized(graph, tmp_path)
    assert {site.name for site in change.sites} == {"MatMul_then", "MatMul_else"}
    for which in (True, False):
        feeds = {"x": rng.normal(size=(4, 96)).astype(np.float32), "which": np.array(which)}
        assert 0 < error(graph, change.graph, feeds) < 0.02


def test_lstm_becomes_the_runtimes_quantized_lstm(tmp_path):
    change = quantized(lstm(), tmp_path)
    assert operators(change.graph)["DynamicQuantizeLSTM"] == 1
    assert change.graph.ir_model.opset_imports["com.microsoft"] == 1
    tensor = quantized(lstm(), tmp_path, per_channel=False)
    assert error(lstm(), tensor.graph) < 0.04  # of 7 bits, where the CPU has no VNNI


@pytest.mark.parametrize("op_type", ["GRU", "RNN"])
def test_recurrent_layers_without_a_quantized_kernel(op_type, tmp_path):
    net = Net()
    gates = {"GRU": 3, "RNN": 1}[op_type]
    weights = [net.weight("W", 1, gates * 96, 32, fan_in=32), net.weight("R", 1, gates * 96, 96, fan_in=96)]
    net.node(op_type, ["x", *weights], "y", hidden_size=96)
    graph = net.graph([("x", TensorProto.FLOAT, [5, "n", 32])], [("y", TensorProto.FLOAT, [5, 1, "n", 96])])
    left = quantized(graph, tmp_path)
    assert not left.effective
    assert left.graph is graph
    assert "no dynamically quantized" in left.skipped[0].reason
    stored = quantized(graph, tmp_path, form="weights").graph
    assert len(stored.to_bytes()) < 0.3 * len(graph.to_bytes())
    assert 0 < error(graph, stored, {"x": net.rng.normal(size=(5, 2, 32)).astype(np.float32)}) < 0.02


def test_only_rows_that_are_looked_up_are_multiplied(tmp_path):
    change = quantized(attention(), tmp_path)
    table = next(v for n, v in change.graph.weights.items() if n == "table.int8")
    assert {use.node.op_type for use in table.uses()} == {"Gather"}
    plain = quantized(attention(), tmp_path, embeddings=False)
    assert "Gather" not in {site.op_type for site in plain.sites}
    assert len(change.graph.to_bytes()) < len(plain.graph.to_bytes()) < len(attention().to_bytes())


def test_reasons(tmp_path):
    def reasons(graph, **params):
        return {skip.name: skip.reason for skip in quantized(graph, tmp_path, **params).skipped}

    found = reasons(conv_net(), exclude=("Gemm_h4",))
    assert "slower than in float" in found["Conv_c1"]
    assert found["Gemm_h4"] == "excluded by the recipe"
    assert "too few" in found["Gemm_logits"]
    assert reasons(mlp(), min_elements=0) == {}
    net = Net()
    net.weight("wide", 2, 96, 96)
    net.constant("broken", np.full((96, 96), np.nan, np.float32))
    net.constant("double", np.ones((96, 96)))
    x = net.node("MatMul", ["x", "wide"], "a")
    x = net.node("MatMul", [x, "broken"], "b")
    x = net.node("Cast", [x], "c", to=TensorProto.DOUBLE)
    net.node("MatMul", [x, "double"], "d")
    graph = net.graph([("x", TensorProto.FLOAT, [2, 4, 96])], [("d", TensorProto.DOUBLE, [2, 4, 96])])
    assert reasons(graph) == {
        "MatMul_a": "its weight has 3 dimensions instead of 2",
        "MatMul_b": "its weight holds values that are not finite",
        "MatMul_d": "its weight is float64, not float32",
    }


def test_an_old_operator_set_is_refused_with_the_remedy(tmp_path):
    net = Net()
    net.node("MatMul", ["x", net.weight("w", 96, 96)], "y")
    graph = net.graph([("x", TensorProto.FLOAT, [4, 96])], [("y", TensorProto.FLOAT, [4, 96])], opset=11)
    assert quantized(graph, tmp_path).effective
    with pytest.raises(MethodError, match=r"operator set 11 .* 13; apply optimize_graph first"):
        quantized(graph, tmp_path, form="weights")


@pytest.mark.parametrize(
    ("machine", "flags", "reduced"),
    [
        ("x86_64", {"avx2"}, True),
        ("x86_64", {"avx2", "avx512_vnni"}, False),
        ("AMD64", {"avx2", "avx_vnni"}, False),
        ("aarch64", {"asimddp"}, False),
        ("arm64", set(), False),
    ],
)
def test_range_is_reduced_where_this_cpu_would_saturate(machine, flags, reduced, tmp_path, monkeypatch):
    monkeypatch.setattr(target.platform, "machine", lambda: machine)
    monkeypatch.setattr(target, "cpu_flags", lambda: frozenset(flags))
    change = quantized(mlp(), tmp_path)
    assert any("7 bits" in note for note in change.notes) == reduced
    assert any("7 bits" in site.what for site in change.sites) == reduced
    assert not quantized(mlp(), tmp_path, form="weights").notes[0].startswith("weights use 7")


def test_an_unknown_layer_to_exclude_is_noted(tmp_path):
    assert "exclude names no layer: nobody" in quantized(mlp(), tmp_path, exclude=("nobody",)).notes


def test_openvino_quantizes_the_weights_form_itself(tmp_path):
    """Its product is one int8 layer, and the group size that the note names divides every summed axis."""
    import openvino as ov

    change = quantized(attention(), tmp_path, form="weights")
    assert any("divisible by 96" in note for note in change.notes)
    target = targets.find("openvino")
    options = targets.options("openvino", {"threads": 1})
    artifact = target.export(change.graph, tmp_path, options)
    assert artifact.size_bytes < 0.6 * len(attention().to_bytes())
    compiled = ov.Core().compile_model(str(tmp_path / artifact.entry), "CPU")
    kinds = Counter(
        (
            str(op.get_rt_info()["layerType"].astype(str)),
            str(op.get_rt_info()["runtimePrecision"].astype(str)),
        )
        for op in compiled.get_runtime_model().get_ops()
    )
    assert kinds["FullyConnected", "i8"] == 6
    feeds = feeds_of(attention())
    found = target.open(artifact, tmp_path, options).run(feeds)["tokens"]
    wanted = Evaluator(attention()).run(feeds)["tokens"]
    assert np.linalg.norm(found - wanted) / np.linalg.norm(wanted) < 0.03
