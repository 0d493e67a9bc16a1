"""quantize_static: where integers are put, what runtimes make of them, and what stays in float."""

from __future__ import annotations

from collections import Counter

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from onnx import TensorProto, helper
from small_graphs import Net, attention, calibration_for, conv_net, feeds_of

from hasten import methods
from hasten.core.data import Calibration, StoreWriter
from hasten.core.errors import MethodError
from hasten.core.recipe import Recipe, Step
from hasten.graph import Graph
from hasten.graph.evaluate import Evaluator
from hasten.methods._observe import moments as reconstruct
from hasten.methods._observe import samples as observed
from hasten.methods._qdq import calibrate
from hasten.methods._qdq.layers import find_layers

FLOAT = TensorProto.FLOAT


@pytest.fixture
def quantize(tmp_path):
    """Applies quantize_static with these parameters, calibrated on random samples."""

    def apply(graph, data=None, **params):
        context = methods.Context(
            calibration=data or calibration_for(graph, tmp_path / f"store-{id(graph)}"), work=tmp_path
        )
        return methods.apply(Recipe([Step("quantize_static", params)]), graph, context)

    return apply


def samples_of(folder, name, arrays):
    writer = StoreWriter(folder, [name])
    for array in arrays:
        writer.append({name: np.asarray(array)})
    return Calibration(writer.close(), range(len(arrays)))


def of_rank(rank, name, kind=FLOAT):
    """An output of unknown dimensions."""
    return name, kind, [None] * rank


def picture_net(net, outputs, rank=4, channels=8, size=12):
    """The graph of what was collected, from a picture to these outputs."""
    made = [of_rank(rank, name) for name in outputs]
    return net.graph([("x", FLOAT, ["batch", channels, size, size])], made)


def convolve(net, x, y, channels=8, *, kernel=3, group=1, bias=True):
    weight = net.weight(
        f"{y}.w", channels, channels // group, kernel, kernel, fan_in=kernel**2 * channels // group
    )
    inputs = [x, weight, net.weight(f"{y}.b", channels)] if bias else [x, weight]
    return net.node("Conv", inputs, y, pads=[kernel // 2] * 4, group=group)


def operators(graph):
    return Counter(node.op_type for node in graph.ir_model.graph)


def fused(graph, tmp_path):
    """The operators ONNX Runtime makes of a graph."""
    import onnxruntime as ort

    settings = ort.SessionOptions()
    settings.optimized_model_filepath = str(tmp_path / "fused.onnx")
    settings.log_severity_level = 4
    ort.InferenceSession(graph.to_bytes(), settings, providers=["CPUExecutionProvider"])
    return Counter(node.op_type for node in ir.load(tmp_path / "fused.onnx").graph)


def kernels(graph, batch=2):
    """(operator, kernel) of every node that OpenVINO executes."""
    import openvino as ov

    core = ov.Core()
    model = core.read_model(graph.to_bytes())
    shapes = {i.get_any_name(): i.get_partial_shape() for i in model.inputs}
    for shape in shapes.values():
        for axis, dimension in enumerate(shape):
            if dimension.is_dynamic:
                shape[axis] = batch if axis == 0 else 6
    model.reshape(shapes)
    compiled = core.compile_model(model, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    told = [node.get_rt_info() for node in compiled.get_runtime_model().get_ordered_ops()]
    return [(t["layerType"].astype(str), t["primitiveType"].astype(str)) for t in told]


def error(graph, changed, output=None):
    """Normalized error ‖y − ŷ‖ / ‖y‖ of an output."""
    feeds = feeds_of(graph)
    name = output or graph.outputs[0].name
    wanted = Evaluator(graph).run(feeds)[name]
    return np.linalg.norm(Evaluator(changed).run(feeds)[name] - wanted) / np.linalg.norm(wanted)


def reasons(change):
    return {skip.name: skip.reason for skip in change.skipped}


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


def test_weights_are_per_channel_and_biases_have_the_scale_of_the_products(quantize):
    graph = conv_net()
    changed = quantize(graph).graph
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
    from hasten.methods import quantize_static

    monkeypatch.setattr(quantize_static.platform, "machine", lambda: "x86_64")
    for flags, noted in ((frozenset({"avx2"}), True), (frozenset({"avx2", "avx512_vnni"}), False)):
        monkeypatch.setattr(quantize_static, "cpu_flags", lambda flags=flags: flags)
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
