"""cast: what is stored or computed in 16 bits, what is not and why."""

from __future__ import annotations

from collections import Counter

import ml_dtypes
import numpy as np
import onnx_ir as ir
import pytest
from onnx import TensorProto, helper
from small_graphs import Net, attention, calibration_for, conv_net, feeds_of, lstm, mlp

from hasten import methods, targets
from hasten.core.recipe import Recipe, Step
from hasten.graph.evaluate import Evaluator
from hasten.methods._cast.precision import PRECISIONS


def cast(graph, tmp_path, calibration=None, **params):
    context = methods.Context(calibration=calibration, work=tmp_path)
    return methods.apply(Recipe([Step("cast", params)]), graph, context)


def reasons(change):
    return {skip.name: skip.reason for skip in change.skipped}


def error(graph, changed, feeds=None):
    """Normalized error ‖y − ŷ‖ / ‖y‖ of the first output."""
    feeds = feeds or feeds_of(graph)
    output = graph.outputs[0].name
    wanted = Evaluator(graph).run(feeds)[output]
    return np.linalg.norm(Evaluator(changed).run(feeds)[output] - wanted) / np.linalg.norm(wanted)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_constants_of_the_formats(dtype):
    real = {"float16": np.finfo(np.float16), "bfloat16": ml_dtypes.finfo(ml_dtypes.bfloat16)}[dtype]
    assert PRECISIONS[dtype].largest == float(real.max)


@pytest.mark.parametrize(("dtype", "bits"), [("float16", 11), ("bfloat16", 8)])
@pytest.mark.parametrize("make", [conv_net, mlp, lstm, attention])
def test_stored_weights_are_the_nearest_numbers(make, dtype, bits, tmp_path):
    graph = make()
    changed = cast(graph, tmp_path, dtype=dtype).graph
    stored = {name for name, value in changed.weights.items() if name.endswith(f".{dtype}")}
    assert stored
    for name in stored:
        value = graph.weights[name.removesuffix(f".{dtype}")].const_value.numpy()
        kept = changed.weights[name].const_value.numpy().astype(np.float32)
        # Round to nearest: half a unit in the last of ``bits`` places; below 2⁻¹⁴ float16 is a fixed grid
        assert np.all(np.abs(kept - value) <= np.maximum(np.abs(value) * 2.0**-bits, 2.0**-25))
    assert 0 < error(graph, changed) < 2.0 ** (2 - bits)
    assert len(changed.to_bytes()) < 0.62 * len(graph.to_bytes())


def test_onnx_runtime_widens_weights_once_when_loading(tmp_path):
    import onnxruntime as ort

    settings = ort.SessionOptions()
    settings.optimized_model_filepath = str(tmp_path / "loaded.onnx")
    settings.log_severity_level = 4
    changed = cast(conv_net(), tmp_path).graph
    ort.InferenceSession(changed.to_bytes(), settings, providers=["CPUExecutionProvider"])
    assert "Cast" not in {node.op_type for node in ir.load(tmp_path / "loaded.onnx").graph}


def test_a_weight_shared_by_layers_and_branches_is_stored_once(tmp_path):
    net = Net()
    net.weight("w", 32, 32)
    out = helper.make_tensor_value_info("inner", TensorProto.FLOAT, None)
    branch = helper.make_graph([helper.make_node("MatMul", ["h", "w"], ["inner"])], "then", [], [out])
    other = helper.make_graph([helper.make_node("Identity", ["h"], ["inner"])], "else", [], [out])
    net.node("MatMul", ["x", "w"], "h")
    net.node("If", ["which"], "y", then_branch=branch, else_branch=other)
    graph = net.graph(
        [("x", TensorProto.FLOAT, ["n", 32]), ("which", TensorProto.BOOL, [])],
        [("y", TensorProto.FLOAT, ["n", 32])],
    )
    feeds = {"x": net.rng.normal(size=(4, 32)).astype(np.float32), "which": np.array(True)}
    changed = cast(graph, tmp_path).graph
    assert list(changed.weights) == ["w.float16"]
    assert 0 < error(graph, changed, feeds) < 1e-3
    computed = cast(graph, tmp_path, what="compute")
    assert 0 < error(graph, computed.graph, feeds) < 2e-3
    assert reasons(computed) == {"If_y": "it holds the body of a loop or branch"}


def test_weights_in_constant_nodes_are_stored_too(tmp_path):
    net = Net()
    w = (net.rng.normal(size=(32, 32)) / 6).astype(np.float32)
    value = helper.make_tensor("w", TensorProto.FLOAT, w.shape, w.tobytes(), raw=True)
    net.node("MatMul", ["x", net.node("Constant", [], "w", value=value)], "y")
    graph = net.graph([("x", TensorProto.FLOAT, ["n", 32])], [("y", TensorProto.FLOAT, ["n", 32])])
    change = cast(graph, tmp_path)
    assert [site.op_type for site in change.sites] == ["MatMul"]
    assert 0 < error(graph, change.graph) < 1e-3


def test_weights_that_do_not_fit_stay(tmp_path):
    net = Net()
    net.constant("huge", np.full((32, 32), 7e4, np.float32))
    net.constant("tiny", np.full((32, 32), 1e-12, np.float32))
    x = net.node(
        "Mul", [net.node("MatMul", ["x", "huge"], "a"), net.constant("small", np.float32(1e-3))], "s"
    )
    net.node("Add", [net.node("MatMul", ["x", "tiny"], "b"), x], "y")
    graph = net.graph([("x", TensorProto.FLOAT, ["n", 32])], [("y", TensorProto.FLOAT, ["n", 32])])
    found = reasons(cast(graph, tmp_path))
    assert found["huge"] == "it holds 7e+04, beyond float16's largest number 65504"
    assert "rounds to zero" in found["tiny"]
    assert cast(graph, tmp_path, dtype="bfloat16").effective
    computed = reasons(cast(graph, tmp_path, what="compute"))
    assert "constant huge holds 7e+04" in computed["MatMul_a"]
    assert "constant tiny" in computed["MatMul_b"]


def test_stored_weights_are_excluded_by_their_own_or_their_layers_name(tmp_path):
    for name in ("w3", "Conv_c3"):
        change = cast(conv_net(), tmp_path, exclude=(name,))
        assert reasons(change) == {"w3": "excluded by the recipe"}
        assert not change.notes
    assert cast(conv_net(), tmp_path, exclude=("nobody",)).notes == ("exclude names no layer: nobody",)


@pytest.mark.parametrize("make", [conv_net, mlp, lstm, attention])
def test_computing_in_float16_keeps_the_signature_and_about_eleven_bits(make, tmp_path):
    graph = make()
    change = cast(graph, tmp_path, what="compute")
    changed = change.graph
    assert changed.inputs == graph.inputs
    assert [(o.name, o.dtype) for o in changed.outputs] == [(o.name, o.dtype) for o in graph.outputs]
    assert 0 < error(graph, changed) < 0.01
    assert len(changed.to_bytes()) < 0.65 * len(graph.to_bytes())
    types = {v.dtype for v in changed.weights.values()} & {ir.DataType.FLOAT, ir.DataType.FLOAT16}
    assert ir.DataType.FLOAT16 in types


def test_operators_that_need_range_or_digits_stay_in_float32(tmp_path):
    change = cast(attention(), tmp_path, what="compute")
    found = reasons(change)
    assert "sums" in found["Softmax_weights"]
    assert "beyond float16's largest number" in found["Mul_far_away"]
    assert found["Sub_hidden"] == "it computes with sizes, positions or masks made of integers"
    assert found["Add_masked"] == "its values may exceed 32752"
    assert {"MatMul_m_q", "MatMul_scores", "Gelu_gelu", "LayerNormalization_n1"} <= {
        s.name for s in change.sites
    }


def test_a_variance_is_not_computed_in_16_bits(tmp_path):
    """E[x²] − E[x]² of numbers around 100 loses everything in bfloat16, whose step there is 0.5."""
    net = Net()
    axes = net.constant("axes", np.array([-1]))
    mean = net.node("ReduceMean", ["x", axes], "mean")
    squares = net.node("ReduceMean", [net.node("Mul", ["x", "x"], "square"), axes], "squares")
    variance = net.node("Sub", [squares, net.node("Mul", [mean, mean], "meansq")], "variance")
    deviation = net.node("Sqrt", [variance], "deviation")
    net.node("Div", [net.node("Sub", ["x", mean], "centred"), deviation], "y")
    graph = net.graph([("x", TensorProto.FLOAT, ["n", 64])], [("y", TensorProto.FLOAT, ["n", 64])])
    found = reasons(cast(graph, tmp_path, what="compute", dtype="bfloat16"))
    assert set(found) == {
        "ReduceMean_mean",
        "ReduceMean_squares",
        "Mul_square",
        "Mul_meansq",
        "Sub_variance",
        "Sqrt_deviation",
    }


def test_calibration_finds_values_that_would_overflow(tmp_path):
    net = Net()
    x = net.node("MatMul", ["x", net.weight("w1", 32, 32)], "a")
    x = net.node("Mul", [x, net.constant("up", np.float32(3e4))], "large")
    x = net.node("Mul", [x, net.constant("down", np.float32(1e-4))], "small")
    net.node("MatMul", [x, net.weight("w2", 32, 32)], "y")
    graph = net.graph([("x", TensorProto.FLOAT, ["n", 32])], [("y", TensorProto.FLOAT, ["n", 32])])
    blind = cast(graph, tmp_path, what="compute")
    assert not blind.skipped
    seen = cast(graph, tmp_path, calibration_for(graph, tmp_path / "store"), what="compute")
    assert set(reasons(seen)) == {"Mul_large", "Mul_small"}
    assert error(graph, seen.graph) < 0.01


def test_sizes_of_a_resize_stay_in_float32(tmp_path):
    net = Net()
    x = net.node("Conv", ["x", net.weight("w", 8, 3, 1, 1, fan_in=3)], "c")
    scales = net.constant("scales", np.array([1, 1, 2, 2], np.float32))
    net.node("Resize", [x, "", scales], "y", mode="nearest")
    graph = net.graph([("x", TensorProto.FLOAT, ["n", 3, 4, 4])], [("y", TensorProto.FLOAT, ["n", 8, 8, 8])])
    change = cast(graph, tmp_path, what="compute")
    assert Counter(s.op_type for s in change.sites) == {"Conv": 1, "Resize": 1}
    assert change.graph.weights["scales"].dtype == ir.DataType.FLOAT
    assert error(graph, change.graph, {"x": net.rng.normal(size=(2, 3, 4, 4)).astype(np.float32)}) < 2e-3


def test_an_inner_value_that_is_also_an_output(tmp_path):
    net = Net()
    net.node("MatMul", ["x", net.weight("w1", 32, 32)], "h")
    net.node("MatMul", ["h", net.weight("w2", 32, 32)], "y")
    vector = [32]
    graph = net.graph(
        [("x", TensorProto.FLOAT, vector)],
        [("h", TensorProto.FLOAT, vector), ("y", TensorProto.FLOAT, vector)],
    )
    changed = cast(graph, tmp_path, what="compute").graph
    x = {"x": net.rng.normal(size=32).astype(np.float32)}
    found, wanted = Evaluator(changed).run(x), Evaluator(graph).run(x)
    for name in ("h", "y"):
        np.testing.assert_allclose(found[name], wanted[name], rtol=0.02, atol=0.01)


def test_unknown_operators_stay(tmp_path):
    net = Net()
    x = net.node("FusedGelu", ["x"], "g", domain="somebody.else")
    net.node("Relu", [x], "y")
    import onnx

    body = helper.make_graph(
        net.nodes,
        "net",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [4])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [4])],
    )
    imports = [helper.make_opsetid("", 21), helper.make_opsetid("somebody.else", 1)]
    model: onnx.ModelProto = helper.make_model(body, opset_imports=imports, ir_version=10)
    from hasten.graph import Graph

    found = reasons(cast(Graph(ir.serde.deserialize_model(model)), tmp_path, what="compute"))
    assert found == {"FusedGelu_g": "FusedGelu of somebody.else is not known to take 16 bits"}


def test_a_model_in_16_bits_already_is_left(tmp_path):
    net = Net()
    net.constant("w", net.rng.normal(size=(32, 32)).astype(np.float16))
    net.node("MatMul", ["x", "w"], "y")
    graph = net.graph([("x", TensorProto.FLOAT16, ["n", 32])], [("y", TensorProto.FLOAT16, ["n", 32])])
    for what in ("weights", "compute"):
        change = cast(graph, tmp_path, what=what)
        assert not change.effective
        assert change.graph is graph


@pytest.mark.parametrize(("what", "dtype"), [("weights", "bfloat16"), ("compute", "bfloat16")])
def test_openvino_runs_bfloat16(what, dtype, tmp_path):
    graph = attention()
    changed = cast(graph, tmp_path, what=what, dtype=dtype).graph
    target = targets.find("openvino")
    options = targets.options("openvino", {"threads": 1})
    runner = target.open(target.export(changed, tmp_path, options), tmp_path, options)
    feeds = feeds_of(graph)
    found, wanted = runner.run(feeds)["tokens"], Evaluator(graph).run(feeds)["tokens"]
    assert found.dtype == np.float32
    # Eight significant bits in each of a handful of consecutive layers
    assert 0 < np.linalg.norm(found - wanted) / np.linalg.norm(wanted) < 0.03


def kernels_of(changed, feeds, folder):
    """What OpenVINO executes, by the name of the layer; the last of a name counts."""
    options = targets.options("openvino", {"threads": 1})
    target = targets.find("openvino")
    runner = target.open(target.export(changed, folder, options), folder, options)
    return {name: kernel.precision for kernel in runner.kernels(feeds) for name in kernel.layers}


def can_compute_in_bfloat16():
    return "bfloat16" in targets.find("openvino").spec().compute_dtypes


@pytest.mark.skipif(not can_compute_in_bfloat16(), reason="this CPU does not compute in bfloat16")
def test_openvino_computes_each_layer_in_its_own_precision(tmp_path):
    """Integers, bfloat16 and float32 side by side in one graph."""
    graph = conv_net()
    names = [node.name for node in graph.ir_model.graph if node.op_type == "Conv"]
    calibration = calibration_for(graph, tmp_path / "store")
    context = methods.Context(calibration=calibration, work=tmp_path)
    steps = [
        Step("optimize_graph", {}),
        Step("quantize_static", {"exclude": names[1:], "layout": "openvino"}),
        Step("cast", {"dtype": "bfloat16", "what": "compute", "exclude": names[2:]}),
    ]
    changed = methods.apply(Recipe(steps), graph, context).graph
    feeds = feeds_of(graph)
    found = kernels_of(changed, feeds, tmp_path)
    assert [found[name] for name in names[:3]] == ["int8", "bfloat16", "float32"]
    assert 0 < error(graph, changed, feeds) < 0.1


def test_what_follows_float32_stays_in_float32(tmp_path):
    """An operator that does little would only pay for casts around it."""
    net = Net()
    x = net.node("Relu", [net.node("MatMul", ["x", net.weight("a", 32, 32)], "h")], "r")
    x = net.node("Relu", [net.node("MatMul", [x, net.weight("b", 32, 32)], "g")], "s")
    net.node("Add", [x, "r"], "y")
    graph = net.graph([("x", TensorProto.FLOAT, ["n", 32])], [("y", TensorProto.FLOAT, ["n", 32])])
    change = cast(graph, tmp_path, what="compute", exclude=("MatMul_h",))
    assert {site.name for site in change.sites} == {"MatMul_g", "Relu_s", "Add_y"}
    assert not cast(graph, tmp_path, what="compute", exclude=("MatMul_h", "MatMul_g")).effective


def test_convolutions_in_bfloat16_take_the_operator_set_that_has_them(tmp_path):
    graph = conv_net()
    assert graph.opset < 22
    change = cast(graph, tmp_path, what="compute", dtype="bfloat16")
    assert change.graph.opset == 22
    assert "Conv" in {site.op_type for site in change.sites}
    assert graph.opset < 22
    assert 0 < error(graph, change.graph) < 0.05
