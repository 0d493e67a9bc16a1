"""What the runtimes say they execute, on real compiled models."""

import numpy as np
import pytest
from onnx import TensorProto, helper
from small_graphs import build

from hasten import api, targets
from hasten.core.executed import converts, executed
from hasten.core.recipe import Recipe
from hasten.core.record import Best, Scorecard
from hasten.graph.cost import layer_costs

from . import models

IMAGE = np.random.default_rng(0).normal(size=(16, 3, 8, 8)).astype(np.float32)


@pytest.fixture(params=["onnxruntime", "openvino"])
def name(request):
    return request.param


def opened(name, graph, folder):
    target = targets.find(name)
    options = targets.options(name, {"threads": 1})
    return target.open(target.export(graph, folder, options), folder, options)


def quantized(*exclude):
    steps = [{"optimize_graph": {}}, {"quantize_static": {"exclude": list(exclude)}}]
    return api.apply(models.classifier(channels=16), Recipe.parse({"steps": steps}), {"image": IMAGE}).graph


def needs_int8(name):
    if "int8" not in targets.find(name).spec().compute_dtypes:
        pytest.skip("this CPU has no int8 kernels")


def precisions(kernels):
    return {layer: kernel.precision for kernel in kernels for layer in kernel.layers}


def test_quantized_layers_run_in_integers(name, tmp_path):
    needs_int8(name)
    runner = opened(name, quantized(), tmp_path)
    before = runner.run({"image": IMAGE[:1]})["logits"]
    kernels = runner.kernels({"image": IMAGE[:1]})
    found = precisions(kernels)
    assert (found["Conv:c"], found["Gemm:logits"]) == ("int8", "int8")
    assert all(kernel.kind and kernel.time_us is not None and kernel.time_us >= 0 for kernel in kernels)
    assert not any(kernel.op_type in {"Const", "Constant", "Input", "Output"} for kernel in kernels)
    # The runner itself is left as it was.
    np.testing.assert_array_equal(runner.run({"image": IMAGE[:1]})["logits"], before)


def test_an_excluded_layer_runs_in_float(name, tmp_path):
    needs_int8(name)
    graph = quantized("Conv:c")
    kernels = opened(name, graph, tmp_path).kernels({"image": IMAGE[:1]})
    found = precisions(kernels)
    assert (found["Conv:c"], found["Gemm:logits"]) == ("float32", "int8")
    best = Best(trial="t", holdout=Scorecard(), layers=layer_costs(graph), kernels=kernels)
    assert "fell back" not in {each.finding for each in executed(best.kernels, best.layers, ["image"])}


def test_a_float_model_runs_in_float(name, tmp_path):
    graph = models.classifier(channels=16)
    kernels = opened(name, graph, tmp_path).kernels({"image": IMAGE[:2]})
    assert len(kernels) >= 2
    layers = [name for kernel in kernels if kernel.time_us is not None for name in kernel.layers]
    assert (layers.count("Conv:c"), layers.count("Gemm:logits")) == (1, 1)
    assert {kernel.precision for kernel in kernels} == {"float32"}
    assert not any(converts(kernel) for kernel in kernels)


def test_a_product_that_takes_its_bias_along_is_named(name, tmp_path):
    """Its kernel's time is the product's, not that of adding the bias."""
    rng = np.random.default_rng(0)
    constants = [("w", rng.normal(size=(32, 64)).astype("f")), ("b", rng.normal(size=64).astype("f"))]
    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["y"], name="product"),
        helper.make_node("Add", ["y", "b"], ["sum"], name="bias"),
        helper.make_node("Relu", ["sum"], ["out"], name="clipped"),
    ]
    graph = build(
        nodes,
        [("x", TensorProto.FLOAT, ("n", 4, 32))],
        [("out", TensorProto.FLOAT, ("n", 4, 64))],
        constants,
    )
    kernels = opened(name, graph, tmp_path).kernels({"x": rng.normal(size=(2, 4, 32)).astype("f")})
    (multiplies,) = [e for e in executed(kernels, layer_costs(graph)) if "product" in e.kernel.layers]
    assert (multiplies.layer, multiplies.intended) == ("product", "float32")
    assert multiplies.kernel.time_us is not None


def test_a_quantized_layer_is_found_whatever_its_name(name, tmp_path):
    """ONNX Runtime turns its axes, and appends to a name that has slashes of its own."""
    graph = models.classifier(channels=16)
    convolution = next(node for node in graph.ir_model.graph if node.op_type == "Conv")
    convolution.name = "net/body/conv"
    recipe = Recipe.parse({"steps": [{"quantize_static": {}}]})
    made = api.apply(graph, recipe, {"image": IMAGE}).graph
    kernels = opened(name, made, tmp_path).kernels({"image": IMAGE[:1]})
    assert any("net/body/conv" in k.layers and "Conv" in k.op_type and k.time_us is not None for k in kernels)


def test_what_a_node_was_taken_apart_into_has_its_name(name, tmp_path):
    nodes = [
        helper.make_node("Sin", ["x"], ["a"], name="before"),
        helper.make_node("LayerNormalization", ["a", "scale"], ["b"], name="norm", axis=-1),
        helper.make_node("HardSwish", ["b"], ["y"], name="after"),
    ]
    floats = [(value, TensorProto.FLOAT, [4, 64]) for value in ("x", "y")]
    graph = build(nodes, floats[:1], floats[1:], [("scale", np.linspace(1, 2, 64, dtype="f"))])
    kernels = opened(name, graph, tmp_path).kernels({"x": np.ones((4, 64), np.float32)})
    named = [layer for kernel in kernels for layer in kernel.layers]
    assert "norm" in named
    assert set(named) <= {"before", "norm", "after"}


def test_a_pair_that_does_not_fuse_is_found(name, tmp_path):
    constants = [("scale", np.float32(0.01)), ("zero", np.uint8(128))]
    nodes = [
        helper.make_node("Sin", ["x"], ["a"], name="before"),
        helper.make_node("QuantizeLinear", ["a", "scale", "zero"], ["q"], name="a.quantize"),
        helper.make_node("DequantizeLinear", ["q", "scale", "zero"], ["b"], name="a.dequantize"),
        helper.make_node("CumSum", ["b", "axis"], ["y"], name="after"),
    ]
    float_vector = ("x", TensorProto.FLOAT, [1, 64]), ("y", TensorProto.FLOAT, [1, 64])
    axis = ("axis", np.array(1, np.int64))
    graph = build(nodes, float_vector[:1], float_vector[1:], [*constants, axis])
    kernels = opened(name, graph, tmp_path).kernels({"x": np.ones((1, 64), np.float32)})
    best = Best(trial="t", holdout=Scorecard(), layers=layer_costs(graph), kernels=kernels)
    lone = [each for each in executed(best.kernels, best.layers, ["x"]) if each.finding == "not fused"]
    assert lone, [(k.name, k.op_type, k.kind, k.layers) for k in kernels]
    assert all(each.share is not None for each in lone)
    assert any("a.quantize" in each.kernel.layers for each in lone)


def test_a_layer_that_onnxruntime_takes_back_to_float_is_found(tmp_path):
    needs_int8("onnxruntime")
    graph = quantized("Conv:c")
    runner = opened("onnxruntime", graph, tmp_path)
    options = targets.options("onnxruntime", {"threads": 1, "graph_level": "disabled"})
    artifact, folder = targets.artifact_of(tmp_path / "model.onnx", {"threads": 1})
    plain = targets.find("onnxruntime").open(artifact, folder, options)
    feeds = {"image": IMAGE[:1]}
    layers = layer_costs(graph)
    # Without its rewrites the runtime fuses no pair: the quantized layer is computed in float.
    findings = {}
    for kind, kernels in (("all", runner.kernels(feeds)), ("disabled", plain.kernels(feeds))):
        best = Best(trial="t", holdout=Scorecard(), layers=layers, kernels=kernels)
        findings[kind] = {each.layer: each.finding for each in executed(best.kernels, best.layers)}
    assert findings["all"]["Gemm:logits"] == ""
    assert findings["disabled"]["Gemm:logits"] == "fell back"
