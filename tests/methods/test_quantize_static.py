"""quantize_static: where integers are put, what runtimes make of them, and what stays in float."""

from __future__ import annotations

from collections import Counter

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from onnx import TensorProto, helper
from quantized import (
    FLOAT,
    convolve,
    error,
    fused,
    kernels,
    of_rank,
    operators,
    picture_net,
    reasons,
    samples_of,
)
from small_graphs import Net, attention, calibration_for, conv_net, feeds_of

from hasten import methods
from hasten.core.errors import MethodError
from hasten.core.recipe import Recipe, Step
from hasten.graph import Graph
from hasten.graph.evaluate import Evaluator
from hasten.methods._observe import samples as observed
from hasten.methods._qdq import calibrate


def residual_net():
    """Two blocks with a sum, ReLU6 in between, depthwise and grouped, a pool and a classifier."""
    net = Net(5)
    x = net.node("Relu", [convolve(net, "x", "c0")], "r0")
    low, high = net.constant("low", np.float32(0)), net.constant("high", np.float32(6))
    y = net.node("Clip", [convolve(net, x, "c1", group=8), low, high], "r1")
    x = net.node("Add", [convolve(net, y, "c2", kernel=1), x], "s2")
    y = net.node("Relu", [convolve(net, x, "c3", group=2)], "r3")
    x = net.node("Relu", [net.node("Add", [convolve(net, y, "c4", bias=False), x], "s4")], "r4")
    x = net.node("MaxPool", [x], "p5", kernel_shape=[2, 2], strides=[2, 2])
    x = net.node("Flatten", [net.node("GlobalAveragePool", [convolve(net, x, "c6")], "g6")], "f6")
    net.node("Gemm", [x, net.weight("g.w", 10, 8, fan_in=8), net.weight("g.b", 10)], "logits", transB=1)
    return picture_net(net, ["logits"], rank=2)


def test_onnx_runtime_computes_a_residual_net_in_integers(quantize, tmp_path):
    graph = residual_net()
    change = quantize(graph)
    assert len(change.sites) == 7
    assert not change.skipped
    made = fused(change.graph, tmp_path)
    assert made["QLinearConv"] == 6
    assert made["QLinearAdd"] == 2
    assert made["QGemm"] == made["QLinearGlobalAveragePool"] == 1
    assert made["QuantizeLinear"] == 1
    assert not set(made) & {"Conv", "Add", "Relu", "Clip", "Gemm"}
    assert error(graph, change.graph) < 0.05


@pytest.mark.parametrize("layout", ["both", "openvino"])
def test_openvino_computes_a_residual_net_in_integers(quantize, layout):
    change = quantize(residual_net(), layout=layout)
    found = [kernel for op, kernel in kernels(change.graph) if op in {"Convolution", "GroupConvolution"}]
    assert len(found) == 6
    # groups of more than one and few channels run by OpenVINO's reference kernels
    assert sum(kernel.endswith(("I8", "i8")) for kernel in found) >= 5
    assert not [op for op, _ in kernels(change.graph) if op in {"Eltwise", "Math"}]


@pytest.mark.parametrize("activations", ["uint8", "int8"])
@pytest.mark.parametrize("ranges", ["minmax", "moving", "percentile", "mse", "entropy", "sigma", "outputs"])
def test_every_range_and_type_keeps_the_function(quantize, ranges, activations):
    graph = residual_net()
    change = quantize(graph, activations=activations, range=ranges)
    # 8 bits through seven layers of a random net: some per cent
    assert error(graph, change.graph) < (
        0.1 if ranges == "entropy" else 0.06
    )  # entropy cuts off more of what is rare
    pairs = [n for n in change.graph.ir_model.graph if n.op_type == "QuantizeLinear"]
    stored = {n.inputs[2].const_value.numpy().dtype.name for n in pairs}
    assert stored == {activations}


def functions_net():
    """What detectors are made of: SiLU, a split, a sum, joins, an enlargement."""
    net = Net(6)

    def silu(x, name):
        return net.node("Mul", [x, net.node("Sigmoid", [x], f"{name}.g")], name)

    x = silu(convolve(net, "x", "c0"), "a0")
    net.node("Split", [x], "left", "right", axis=1, num_outputs=2)
    y = silu(convolve(net, "right", "c1", 4), "a1")
    x = net.node("Concat", ["left", "right", net.node("Add", ["right", y], "s1")], "j1", axis=1)
    x = silu(convolve(net, x, "c2", 12), "a2")
    net.constant("scales", np.array([1, 1, 2, 2], np.float32))
    x = net.node("Resize", [x, "", "scales"], "up", mode="nearest")
    convolve(net, x, "boxes", 12)
    return picture_net(net, ["boxes"])


def test_functions_are_integers_for_one_runtime_and_fused_by_the_other(quantize, tmp_path):
    graph = functions_net()
    both, one = quantize(graph), quantize(graph, layout="openvino")
    made = fused(both.graph, tmp_path)
    assert made["QLinearConv"] == 4
    assert made["QLinearSigmoid"] == made["QLinearMul"] == 3
    assert made["QLinearConcat"] == made["QLinearAdd"] == 1
    assert not set(made) & {"Conv", "Sigmoid", "Mul", "Add", "Concat"}
    convolutions = [kernel for op, kernel in kernels(one.graph) if op == "Convolution"]
    assert len(convolutions) == 4
    assert all("I8" in kernel for kernel in convolutions)
    assert operators(one.graph)["QuantizeLinear"] < 0.5 * operators(both.graph)["QuantizeLinear"]
    assert len(kernels(one.graph)) < len(kernels(both.graph))
    assert error(graph, one.graph) <= error(graph, both.graph) < 0.06


@pytest.mark.parametrize("layout", ["both", "openvino"])
@pytest.mark.parametrize("excluded", [(), ("Conv_s1", "Conv_s2")])
def test_openvino_computes_gates_of_means_right_with_dynamic_shapes(quantize, layout, excluded):
    """A convolution that leaves float values to a global pool gives wrong means there (OpenVINO 2026.4)."""
    import openvino as ov

    net = Net(19)
    x = net.node("Conv", ["x", net.weight("w", 96, 16, 1, 1, fan_in=16)], "c")
    g = net.node("GlobalAveragePool", [x], "g")
    g = net.node("Relu", [net.node("Conv", [g, net.weight("w1", 24, 96, 1, 1, fan_in=96)], "s1")], "r")
    g = net.node("HardSigmoid", [net.node("Conv", [g, net.weight("w2", 96, 24, 1, 1, fan_in=24)], "s2")], "h")
    net.node("Add", [x, net.node("Mul", [x, g], "m")], "y")
    graph = net.graph([("x", FLOAT, ["n", 16, "height", "width"])], [of_rank(4, "y")])
    changed = quantize(graph, layout=layout, exclude=list(excluded)).graph
    x = np.random.default_rng(2).normal(size=(1, 16, 40, 40)).astype(np.float32) + 0.3
    wanted = Evaluator(changed).run({"x": x})["y"]
    model = ov.Core().read_model(changed.to_bytes())
    compiled = ov.Core().compile_model(model, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    found = compiled({"x": x})[0]
    # the runtimes sum in different orders, so a few values fall on the other side of a rounding
    assert np.linalg.norm(found - wanted) < 0.01 * np.linalg.norm(wanted)


@pytest.mark.parametrize("layout", ["both", "openvino"])
def test_what_is_joined_or_moved_keeps_one_scale(quantize, layout):
    changed = quantize(functions_net(), layout=layout).graph
    scales = {}
    for node in changed.ir_model.graph:
        if node.op_type == "QuantizeLinear":
            scales[node.name.removesuffix(".quantize")] = float(node.inputs[1].const_value.numpy())
    joined = {name: scales[name] for name in ("a0", "s1", "left", "right", "j1") if name in scales}
    assert {"a0", "s1"} <= set(joined)
    assert len(set(joined.values())) == 1


def test_products_of_a_transformer(quantize, tmp_path):
    graph = attention()
    change = quantize(graph)
    assert Counter(site.op_type for site in change.sites) == {"MatMul": 6, "Gather": 1}
    assert set(reasons(change)) == {"MatMul_scores", "MatMul_mixed"}
    made = fused(change.graph, tmp_path)
    assert made["MatMulIntegerToFloat"] == 6
    assert sum(op == "FullyConnected" and "I8" in kernel for op, kernel in kernels(change.graph)) == 6
    # three products read the same rounded value; the residual and the scores read floats
    assert made["QuantizeLinear"] == 4
    assert error(graph, change.graph, "tokens") < 0.03


@pytest.mark.parametrize("function", ["", "Relu", "Gelu"])
@pytest.mark.parametrize("shape", [["n", 64], ["n", "length", 64], [1, 6, 64]])
def test_products_with_a_bias_are_integers_whatever_follows(quantize, tmp_path, shape, function):
    net = Net(21)
    x = net.node("Add", [net.weight("b", 32), net.node("MatMul", ["x", net.weight("w", 64, 32)], "m")], "a")
    if function:
        x = net.node(function, [x], "f")
    net.node("MatMul", [x, net.weight("w2", 32, 64)], "y")
    graph = net.graph([("x", FLOAT, shape)], [("y", FLOAT, shape)])
    change = quantize(graph)
    made = fused(change.graph, tmp_path)
    assert made["MatMulIntegerToFloat"] + made["QGemm"] == 2
    assert not set(made) & {"Gemm", "MatMul", "DequantizeLinear"}
    assert [site.name for site in change.sites] == ["MatMul_m", "MatMul_y"]
    feeds = feeds_of(graph, batch=1)
    wanted, found = (Evaluator(each).run(feeds)["y"] for each in (graph, change.graph))
    assert np.linalg.norm(found - wanted) < 0.06 * np.linalg.norm(wanted)


@pytest.mark.parametrize("layout", ["both", "openvino"])
def test_products_as_convolutions_are_integers_of_both_runtimes(quantize, tmp_path, layout):
    graph = attention()
    kept, convolved = (quantize(graph, layout=layout, products=how) for how in ("kept", "convolutions"))
    weighted = {site.name for site in kept.sites if site.op_type == "MatMul"}
    assert weighted
    assert weighted == {site.name for site in convolved.sites if site.op_type == "Conv"}
    found = [kernel for op, kernel in kernels(convolved.graph) if op == "Convolution"]
    assert len(found) == len(weighted)
    assert all(kernel.endswith(("I8", "i8")) for kernel in found)
    if layout == "both":
        assert fused(convolved.graph, tmp_path)["QLinearConv"] == len(weighted)
    assert error(graph, convolved.graph) < 2 * error(graph, kept.graph)
    reads = {layer.inputs[0] for layer in convolved.graph.ir_model.graph if layer.op_type == "Conv"}
    assert len(reads) == len(weighted) - 2  # three of them read one value
    assert {spec.name for spec in convolved.graph.outputs} == {spec.name for spec in graph.outputs}


@pytest.mark.parametrize("dimensions", [1, 3])
def test_convolutions_of_other_dimensions(quantize, tmp_path, dimensions):
    net = Net(11)
    w = net.weight("w", 8, 4, *[3] * dimensions, fan_in=4 * 3**dimensions)
    net.node("Conv", ["x", w, net.weight("b", 8)], "y")
    graph = net.graph([("x", FLOAT, ["n", 4, *[7] * dimensions])], [of_rank(2 + dimensions, "y")])
    change = quantize(graph)
    assert fused(change.graph, tmp_path)["QLinearConv"] == 1
    assert error(graph, change.graph) < 0.02


def test_transposed_convolutions_only_where_there_is_a_kernel(quantize):
    net = Net(12)
    x = convolve(net, "x", "c")
    w = net.weight("w", 8, 6, 2, 2, fan_in=8)
    net.node("ConvTranspose", [x, w, net.weight("b", 6)], "y", strides=[2, 2])
    graph = picture_net(net, ["y"])
    both, one = quantize(graph), quantize(graph, layout="openvino")
    assert reasons(both) == {"ConvTranspose_y": "ONNX Runtime has no integer kernel for it"}
    assert [site.name for site in one.sites] == ["Conv_c", "ConvTranspose_y"]
    assert error(graph, one.graph) < 0.03
    scale = (
        next(n for n in one.graph.ir_model.graph if n.name == "ConvTranspose_y")
        .inputs[1]
        .producer()
        .inputs[1]
    )
    assert scale.shape == [6]


def unfit_net():
    """One layer of every kind that cannot compute in integers, and what is wrong with it."""
    net = Net(13)
    big = ["x", net.weight("w", 16, 16)]
    net.node("Gemm", big, "alpha", alpha=0.5)
    net.node("Gemm", big, "left", transA=1)
    net.node("Gemm", [*big, "x"], "bias")
    net.node("MatMul", [net.weight("w2", 16, 16), "x"], "swapped")
    net.node("MatMul", ["x", "x"], "both")
    net.node("Gemm", ["w", "w2"], "fixed")
    net.node("MatMul", ["x", net.weight("w3", 2, 16, 16)], "deep")
    net.node("MatMul", ["x", net.constant("nan", np.full((16, 4), np.nan, np.float32))], "nan_out")
    net.node(
        "MatMul",
        [net.node("Cast", ["x"], "wide", to=TensorProto.DOUBLE), net.constant("w4", np.ones((16, 4)))],
        "double",
    )
    net.node(
        "MatMul",
        [net.node("Mul", ["x", net.constant("zero", np.float32(0))], "none"), net.weight("w5", 16, 4)],
        "dead",
    )
    net.node("MatMul", [net.node("Div", ["x", "zero"], "infinite"), net.weight("w6", 16, 4)], "endless")
    outputs = ["alpha", "left", "bias", "swapped", "both", "fixed", "deep", "nan_out", "dead", "endless"]
    made = [*(of_rank(2, name) for name in outputs if name != "deep"), of_rank(3, "deep")]
    made.append(of_rank(2, "double", TensorProto.DOUBLE))
    return net.graph([("x", FLOAT, [16, 16])], made)


def test_layers_that_would_break_stay_in_float_with_the_reason(quantize, tmp_path):
    graph = unfit_net()
    samples = samples_of(
        tmp_path / "s", "x", np.random.default_rng(0).normal(size=(4, 16, 16)).astype(np.float32)
    )
    change = quantize(graph, samples)
    assert not change.effective
    assert change.graph is graph
    found = {name.partition("_")[2]: reason for name, reason in reasons(change).items()}
    expected = {
        "alpha": "alpha is not 1",
        "left": "activation is transposed",
        "bias": "bias is computed at run time",
        "swapped": "weight is on the left",
        "both": "both factors are activations",
        "fixed": "applied to is constant",
        "deep": "weight has 3 dimensions",
        "nan_out": "not finite",
        "double": "float64, not float32",
        "dead": "zero throughout",
        "endless": "not finite",
    }
    assert set(found) == set(expected)
    for name, words in expected.items():
        assert words in found[name], name


def test_layers_inside_branches_stay_in_float(quantize):
    net = Net(14)
    w = onnx.numpy_helper.from_array(net.rng.normal(size=(8, 8)).astype(np.float32), "w")
    product = helper.make_node("MatMul", ["x", "w"], ["yes"], name="inside")
    same = helper.make_node("Identity", ["x"], ["no"], name="same")
    out = [helper.make_tensor_value_info(*of_rank(2, name)) for name in ("yes", "no")]
    branch = {
        "then_branch": helper.make_graph([product], "then", [], out[:1], [w]),
        "else_branch": helper.make_graph([same], "else", [], out[1:]),
    }
    net.node("If", [net.constant("sure", np.array(True))], "y", **branch)
    graph = net.graph([("x", FLOAT, ["n", 8])], [of_rank(2, "y")])
    change = quantize(graph)
    assert not change.effective
    assert reasons(change) == {"inside": "it is inside the body of a loop or branch"}


def test_applied_twice_it_changes_nothing_more(quantize):
    once = quantize(residual_net())
    twice = quantize(once.graph)
    assert not twice.effective
    assert set(reasons(twice).values()) == {"it is quantized already"}


def test_excluded_layers_stay_in_float_and_unknown_names_are_told(quantize):
    change = quantize(residual_net(), exclude=["Conv_c1", "Add_s2", "Conv_nowhere"])
    assert reasons(change) == {"Conv_c1": "excluded by the recipe"}
    assert "exclude names nothing in the graph: Conv_nowhere" in change.notes
    assert not [note for note in change.notes if "Add_s2" in note]
    node = next(n for n in change.graph.ir_model.graph if n.name == "Conv_c1")
    assert node.inputs[1].is_initializer()


def test_values_that_are_outputs_keep_their_names(quantize, tmp_path):
    net = Net(15)
    x = net.node("Relu", [convolve(net, "x", "c1")], "middle")
    convolve(net, x, "end")
    graph = picture_net(net, ["middle", "end"])
    change = quantize(graph)
    assert [spec.name for spec in change.graph.outputs] == ["middle", "end"]
    for name in ("middle", "end"):
        assert error(graph, change.graph, name) < 0.03
    assert fused(change.graph, tmp_path)["QLinearConv"] == 2


def test_old_operator_sets_and_missing_samples_are_refused(tmp_path):
    net = Net(16)
    convolve(net, "x", "y")
    old = net.graph([("x", FLOAT, ["n", 8, 12, 12])], [of_rank(4, "y")], opset=12)
    context = methods.Context(calibration=calibration_for(old, tmp_path / "store"), work=tmp_path)
    with pytest.raises(MethodError, match="put optimize_graph before"):
        methods.apply(Recipe(["quantize_static"]), old, context)
    with pytest.raises(MethodError, match="--data"):
        methods.apply(
            Recipe(["quantize_static"]), conv_net(), methods.Context(calibration=None, work=tmp_path)
        )
    changed = methods.apply(Recipe(["optimize_graph", "quantize_static"]), old, context)
    assert [site.name for site in changed.sites][-1] == "Conv_y"


def test_the_oldest_operator_set_will_do(quantize, tmp_path):
    net = Net(20)
    x = net.node("Relu", [convolve(net, "x", "c1")], "r1")
    net.node("Add", [convolve(net, x, "c2"), x], "y")
    graph = net.graph([("x", FLOAT, ["n", 8, 12, 12])], [of_rank(4, "y")], opset=13)
    change = quantize(graph)
    assert change.graph.opset == 13
    assert fused(change.graph, tmp_path)["QLinearConv"] == 2
    assert error(graph, change.graph) < 0.05


def test_calibration_in_parts_finds_the_same(quantize, monkeypatch):
    graph = functions_net()
    whole = quantize(graph, range="mse")
    monkeypatch.setattr(observed, "MEMORY_BYTES", 10_000)
    monkeypatch.setattr(calibrate, "key", lambda *_: "apart")
    parts = quantize(graph, range="mse")
    assert parts.graph.fingerprint == whole.graph.fingerprint


def test_a_second_application_does_not_calibrate_again(tmp_path):
    graph = residual_net()
    told = []
    context = methods.Context(
        calibration=calibration_for(graph, tmp_path / "store"),
        work=tmp_path,
        progress=lambda what, done: told.append((what, done)),
    )
    first = methods.apply(Recipe(["quantize_static"]), graph, context)
    assert told[-1] == ("calibrating", 1.0)
    assert [done for _, done in told] == sorted(done for _, done in told)
    told.clear()
    again = methods.apply(Recipe(["quantize_static"]), graph, context)
    methods.apply(Recipe([Step("quantize_static", {"exclude": ["Conv_c4"], "range": "mse"})]), graph, context)
    assert not told
    assert first.graph.fingerprint == again.graph.fingerprint


def test_only_so_many_samples_are_read(quantize, tmp_path):
    net = Net(17)
    net.node("MatMul", ["x", net.weight("w", 4, 4)], "y")
    graph = net.graph([("x", FLOAT, ["n", 4])], [("y", FLOAT, ["n", 4])])
    arrays = np.outer(np.arange(1, 9), np.ones(4)).astype(np.float32)
    samples = samples_of(tmp_path / "s", "x", arrays)
    scale = {}
    for count in (1, 2, 8):
        changed = quantize(graph, samples, samples=count).graph
        node = next(n for n in changed.ir_model.graph if n.op_type == "QuantizeLinear")
        scale[count] = float(node.inputs[1].const_value.numpy())
    # values 1 to 8; of two samples the first and the fifth are read
    assert scale == pytest.approx({1: 1 / 255, 2: 5 / 255, 8: 8 / 255})


def test_tables_that_are_looked_up_are_stored_as_integers(quantize):
    graph = attention()
    assert quantize(graph, embeddings=False).graph.weights["table"].dtype == ir.DataType.FLOAT
    changed = quantize(graph).graph
    assert changed.weights["table.integers"].dtype == ir.DataType.INT8
    assert changed.weights["table.scale"].shape == [200, 1]
    assert "table" not in changed.weights


def test_deep_nets_are_no_problem(quantize):
    net = Net(18)
    x = "x"
    for i in range(400):
        x = net.node("Add", [net.node("Relu", [x], f"r{i}"), x], f"s{i}")
        if i % 50 == 0:
            x = convolve(
                net,
                net.node("Mul", [x, net.constant(f"k{i}", np.float32(1e-12))], f"m{i}"),
                f"c{i}",
                kernel=1,
            )
    graph = picture_net(net, [x], size=2)
    assert len(quantize(graph).sites) == 8


def test_the_graph_that_was_given_stays_usable(quantize):
    graph = residual_net()
    before = graph.to_bytes()
    quantize(graph)
    assert graph.to_bytes() == before
    assert isinstance(graph, Graph)
