"""compress_weights: the graph decodes what numerics says, runtimes run it, and the file is smaller."""

from __future__ import annotations

from collections import Counter

import numpy as np
import onnx_ir as ir
import pytest
from onnx import TensorProto
from small_graphs import Net, attention, branching, calibration_for, conv_net, feeds_of, lstm, mlp

from hasten import methods, targets
from hasten.core.errors import MethodError, RecipeError
from hasten.core.recipe import Recipe, Step
from hasten.graph.evaluate import Evaluator
from hasten.methods._stored import inputs
from hasten.numerics import floats, nvfp4
from hasten.numerics.affine import Grid, asymmetric, symmetric
from hasten.numerics.blocks import extremes_of, largest_of
from hasten.numerics.clusters import codebook
from hasten.numerics.moments import mean_variance
from hasten.numerics.powers import powers


def compressed(graph, tmp_path, *before, data=None, **params):
    context = methods.Context(calibration=data, work=tmp_path, batch=4)
    return methods.apply(Recipe([*before, Step("compress_weights", params)]), graph, context)


def reasons(change):
    return {skip.name: skip.reason for skip in change.skipped}


def _symmetric(bits, group=None):
    def made(w, axis):
        along, size = (axis, None) if group is None else (1 - axis, group)
        return symmetric(largest_of(w, along, size), Grid(bits), along, size)

    return made


def _asymmetric(bits, group=None):
    def made(w, axis):
        along, size = (axis, None) if group is None else (1 - axis, group)
        return asymmetric(*extremes_of(w, along, size), Grid(bits, signed=False), along, size)

    return made


def _float(name, group=None):
    def made(w, axis):
        along, size = (axis, None) if group is None else (1 - axis, group)
        return floats.scaled(w, name, along, size)

    return made


SCHEMES = [
    ({}, _symmetric(8), 0.3),
    ({"bits": 4}, _symmetric(4), 0.18),
    ({"bits": 3, "group": 16}, _symmetric(3, 16), 0.24),
    ({"bits": 2, "group": 16}, _symmetric(2, 16), 0.18),
    ({"bits": 2, "symmetric": False}, _asymmetric(2), 0.13),
    ({"bits": 5, "symmetric": False, "group": 32}, _asymmetric(5, 32), 0.35),
    ({"scheme": "mean_variance", "bits": 6}, lambda w, axis: mean_variance(w, Grid(6), axis), 0.32),
    ({"scheme": "mean_variance", "sigmas": 3.0}, lambda w, a: mean_variance(w, Grid(8), a, 3.0), 0.32),
    ({"scheme": "log2"}, lambda w, axis: powers(w, 4, axis), 0.18),
    ({"scheme": "log2", "bits": 6, "midpoint": "geometric"}, lambda w, a: powers(w, 6, a, "geometric"), 0.3),
    ({"scheme": "clusters"}, lambda w, axis: codebook(w, 4), 0.16),
    ({"scheme": "clusters", "bits": 2}, lambda w, axis: codebook(w, 2), 0.11),
    ({"scheme": "float8_e4m3"}, _float("e4m3"), 0.3),
    ({"scheme": "float8_e5m2", "group": 16}, _float("e5m2", 16), 0.35),
    ({"scheme": "float4", "group": 16}, _float("e2m1", 16), 0.24),
    ({"scheme": "mxfp8"}, lambda w, axis: floats.microscaled(w, "e4m3", 1 - axis), 0.32),
    ({"scheme": "mxfp4"}, lambda w, axis: floats.microscaled(w, "e2m1", 1 - axis), 0.2),
    ({"scheme": "nvfp4"}, lambda w, axis: nvfp4.two_levels(w, 1 - axis), 0.21),
]
"""Parameters, the same in numerics, and the most that the file may keep of its weights' bytes."""

by_scheme = pytest.mark.parametrize(
    ("params", "quantizer", "share"),
    SCHEMES,
    ids=["-".join(map(str, p.values())) or "linear" for p, _, _ in SCHEMES],
)


def product():
    net = Net(4)
    net.node("MatMul", ["x", net.weight("w", 96, 100)], "y")
    return net.graph([("x", TensorProto.FLOAT, ["n", 96])], [("y", TensorProto.FLOAT, ["n", 100])])


def convolution():
    net = Net(5)
    net.node("Conv", ["x", net.weight("w", 64, 32, 3, 3, fan_in=288)], "y", pads=[1] * 4)
    shape = ["n", 64, 8, 8]
    return net.graph([("x", TensorProto.FLOAT, ["n", 32, 8, 8])], [("y", TensorProto.FLOAT, shape)])


def decoded(change):
    """The weight as the graph decodes it, with no optimization."""
    node = next(n for n in change.graph.ir_model.graph if n.op_type in {"MatMul", "Conv"})
    name = node.inputs[1].name
    return Evaluator(change.graph, [name], optimized=False).run(feeds_of(change.graph))[name]


@by_scheme
@pytest.mark.parametrize("make", [product, convolution])
def test_the_graph_decodes_what_numerics_says_to_the_last_bit(make, params, quantizer, share, tmp_path):
    graph = make()
    weight = graph.weights["w"].const_value.numpy()
    matrix, axis = (weight, 1) if weight.ndim == 2 else (weight.reshape(64, -1), 0)
    wanted = quantizer(matrix, axis).round_trip(matrix).reshape(weight.shape)
    change = compressed(graph, tmp_path, **params)
    np.testing.assert_array_equal(decoded(change), wanted)
    assert len(change.graph.to_bytes()) < share * weight.nbytes + 2500  # names, nodes and shared tables


@by_scheme
@pytest.mark.parametrize("make", [conv_net, mlp])
def test_both_runtimes_run_the_smaller_file(make, params, quantizer, share, tmp_path):
    graph = make()
    change = compressed(graph, tmp_path, **params)
    feeds, name = feeds_of(graph), graph.outputs[0].name
    wanted = Evaluator(change.graph, optimized=False).run(feeds)[name]
    for runtime in ("onnxruntime", "openvino"):
        target = targets.find(runtime)
        options = targets.options(runtime, {"threads": 1})
        folders = [tmp_path / f"{runtime}-{which}" for which in ("before", "after")]
        for folder in folders:
            folder.mkdir()
        before = target.export(graph, folders[0], options)
        after = target.export(change.graph, folders[1], options)
        assert after.size_bytes < 0.85 * before.size_bytes
        found = target.open(after, folders[1], options).run(feeds)[name]
        # runtimes may round the activations of linear products to 8 bits
        assert np.linalg.norm(found - wanted) < 0.02 * np.linalg.norm(wanted)


def merged(graph, tmp_path):
    """The operators ONNX Runtime makes of a graph."""
    import onnxruntime as ort

    settings = ort.SessionOptions()
    settings.optimized_model_filepath = str(tmp_path / "merged.onnx")
    settings.log_severity_level = 4
    ort.InferenceSession(graph.to_bytes(), settings, providers=["CPUExecutionProvider"])
    return Counter(node.op_type for node in ir.load(tmp_path / "merged.onnx").graph)


@by_scheme
@pytest.mark.parametrize("make", [conv_net, attention, lstm])
def test_nothing_is_decoded_at_every_inference(make, params, quantizer, share, tmp_path):
    graph = make()
    before, after = merged(graph, tmp_path), merged(compressed(graph, tmp_path, **params).graph, tmp_path)
    after.subtract(before)
    added = {kind for kind, count in after.items() if count > 0}
    assert added <= {"MatMulNBits"}
    linear = params.get("scheme", "linear") == "linear" and params.get("bits", 8) > 2
    assert bool(added) == (linear and make is not conv_net)


@pytest.mark.parametrize("make", [conv_net, attention])
def test_what_is_only_smaller_is_not_called_faster(make, tmp_path):
    for params in ({"scheme": "log2"}, {"scheme": "clusters"}, {"scheme": "float8_e4m3"}, {"bits": 2}):
        notes = compressed(make(), tmp_path, **params).notes
        assert notes[0].startswith("stored smaller, not computed faster")
        assert not any("multiplies" in note for note in notes)
    change = compressed(attention(), tmp_path, bits=4)
    assert "stored smaller, not computed faster: 1 of 7" in change.notes[0]  # the table
    assert "6 matrix products keep their codes" in change.notes[1]
    assert all("bits a weight" in site.what for site in change.sites)


def test_a_shared_weight_is_stored_once_and_left_as_a_whole(tmp_path):
    net = Net()
    net.weight("w", 96, 96)
    net.node("MatMul", [net.node("MatMul", ["x", "w"], "h"), "w"], "y")
    graph = net.graph([("x", TensorProto.FLOAT, ["n", 96])], [("y", TensorProto.FLOAT, ["n", 96])])
    change = compressed(graph, tmp_path)
    assert [site.name for site in change.sites] == ["MatMul_h", "MatMul_y"]
    assert [v.dtype for v in change.graph.weights.values()].count(ir.DataType.INT8) == 1
    left = compressed(graph, tmp_path, exclude=["MatMul_h", "nobody"])
    assert not left.effective
    assert reasons(left) == {
        "MatMul_h": "excluded by the recipe",
        "MatMul_y": "it shares its weight with MatMul_h, which is left",
    }
    assert left.notes == ("exclude names no layer: nobody",)


def test_weights_inside_branches_are_decoded_there(tmp_path):
    graph, rng = branching(), np.random.default_rng(1)
    for params in ({}, {"scheme": "clusters", "bits": 8}):
        change = compressed(graph, tmp_path, **params)
        assert {site.name for site in change.sites} == {"MatMul_then", "MatMul_else"}
        assert len(change.graph.to_bytes()) < 0.4 * len(graph.to_bytes())
        for which in (True, False):
            feeds = {"x": rng.normal(size=(4, 96)).astype(np.float32), "which": np.array(which)}
            wanted, found = (Evaluator(g).run(feeds)["y"] for g in (graph, change.graph))
            assert 0 < np.linalg.norm(found - wanted) < 0.02 * np.linalg.norm(wanted)


def test_reasons(tmp_path):
    net = Net()
    net.weight("wide", 2, 96, 96)
    net.constant("broken", np.full((96, 96), np.nan, np.float32))
    net.constant("double", np.ones((96, 96)))
    x = net.node("MatMul", ["x", "wide"], "a")
    x = net.node("MatMul", [x, "broken"], "b")
    x = net.node("MatMul", [x, x], "c")
    x = net.node("MatMul", [x, net.weight("small", 96, 2)], "d")
    x = net.node("MatMul", [x, net.weight("wide2", 2, 96)], "e")
    x = net.node("Cast", [x], "f", to=TensorProto.DOUBLE)
    net.node("MatMul", [x, "double"], "g")
    graph = net.graph([("x", TensorProto.FLOAT, [2, 96, 96])], [("g", TensorProto.DOUBLE, [2, 96, 96])])
    assert reasons(compressed(graph, tmp_path)) == {
        "MatMul_a": "its weight has 3 dimensions instead of 2",
        "MatMul_b": "its weight holds values that are not finite",
        "MatMul_c": "its weight is computed at run time",
        "MatMul_d": "its 192 numbers are fewer than min_elements",
        "MatMul_e": "its 192 numbers are fewer than min_elements",
        "MatMul_g": "its weight is float64, not float32",
    }
    tiny = reasons(compressed(graph, tmp_path, scheme="mxfp4", min_elements=0))
    assert tiny["MatMul_e"] == "the 2 weights of a channel do not divide into blocks of 32"
    assert "blocks of 16" in reasons(compressed(graph, tmp_path, scheme="nvfp4", min_elements=0))["MatMul_e"]
    assert "would not get fewer" in reasons(compressed(graph, tmp_path, min_elements=0))["MatMul_e"]


@pytest.mark.parametrize(
    "params",
    [
        {"scheme": "mxfp4", "group": 16},
        {"scheme": "float8_e4m3", "bits": 4},
        {"scheme": "log2", "symmetric": False},
        {"sigmas": 2.0},
        {"midpoint": "geometric"},
        {"scheme": "clusters", "rounding": "outputs"},
        {"scheme": "float4", "range": "mse"},
    ],
)
def test_what_a_scheme_does_not_have_is_refused(params, tmp_path):
    with pytest.raises(RecipeError, match=r"is nothing that scheme \w+ has; leave it out"):
        compressed(mlp(), tmp_path, **params)


def test_an_old_operator_set_is_refused_with_the_remedy(tmp_path):
    net = Net()
    net.node("MatMul", ["x", net.weight("w", 96, 96)], "y")
    graph = net.graph([("x", TensorProto.FLOAT, [4, 96])], [("y", TensorProto.FLOAT, [4, 96])], opset=17)
    with pytest.raises(MethodError, match=r"operator set 17 .* 21; apply optimize_graph first"):
        compressed(graph, tmp_path)
    assert compressed(graph, tmp_path, Step("optimize_graph")).effective


def error_of(graph, changed, feeds):
    wanted, got = (Evaluator(g, optimized=False).run(feeds) for g in (graph, changed))
    return max(np.square(wanted[n] - got[n]).sum() / np.square(wanted[n]).sum() for n in wanted)


@pytest.mark.parametrize("symmetric", [True, False])
@pytest.mark.parametrize("make", [conv_net, mlp])
def test_what_layers_read_makes_their_outputs_better(make, symmetric, tmp_path):
    graph, feeds = make(), feeds_of(make(), batch=8)
    data = calibration_for(graph, tmp_path / "store", 64)

    def error(**params):
        change = compressed(graph, tmp_path, data=data, bits=3, group=16, symmetric=symmetric, **params)
        return error_of(graph, change.graph, feeds)

    plain = error()
    assert error(range="outputs") < 0.9 * plain
    assert error(rounding="outputs") < 0.75 * plain
    assert error(rounding="outputs", range="mse") < 0.75 * plain


@pytest.mark.parametrize("symmetric", [True, False])
@pytest.mark.parametrize("group", [None, 16])
@pytest.mark.parametrize("make", [product, convolution])
def test_solved_codes_are_decoded_like_others(make, group, symmetric, tmp_path):
    graph = make()
    data = calibration_for(graph, tmp_path / "store")
    params = {"bits": 4, "group": group, "symmetric": symmetric}
    weight = graph.weights["w"].const_value.numpy()
    plain = decoded(compressed(graph, tmp_path, **params))
    solved = decoded(compressed(graph, tmp_path, data=data, rounding="outputs", **params))
    # The same grid, but not the nearest points of it.
    assert 0 < np.abs(solved - plain).max() <= 8 * np.abs(plain - weight).max()


def test_layers_that_cannot_be_observed_are_rounded_to_the_nearest(tmp_path):
    graph = branching()
    data = calibration_for(graph, tmp_path / "store")
    change = compressed(graph, tmp_path, data=data, rounding="outputs", bits=4)
    assert all("rounded to the nearest (what its layer" in site.what for site in change.sites)
    plain = compressed(graph, tmp_path, bits=4)
    assert change.graph.weights.keys() == plain.graph.weights.keys()


def test_moments_are_gathered_for_few_layers_at_a_time(tmp_path, monkeypatch):
    graph = attention()
    data = calibration_for(graph, tmp_path / "store")
    (tmp_path / "a").mkdir()
    whole = compressed(graph, tmp_path / "a", data=data, rounding="outputs", bits=4)
    monkeypatch.setattr(inputs, "_MOMENTS_BYTES", 10_000)
    parts = compressed(graph, tmp_path, data=data, rounding="outputs", bits=4)
    assert parts.graph.fingerprint == whole.graph.fingerprint
    assert sum("rounded for the outputs" in site.what for site in whole.sites) == 6


def test_positions_may_count_by_gradients(tmp_path):
    graph = attention()
    data = calibration_for(graph, tmp_path / "store")
    params = {"rounding": "outputs", "bits": 4, "data": data}
    alike = compressed(graph, tmp_path, **params)
    weighed = compressed(graph, tmp_path, importance="gradients", **params)
    again = compressed(graph, tmp_path, importance="gradients", **params)
    assert weighed.graph.fingerprint == again.graph.fingerprint != alike.graph.fingerprint
    with pytest.raises(RecipeError, match="importance only matters to"):
        compressed(graph, tmp_path, importance="gradients")


def test_outputs_need_samples(tmp_path):
    for params in ({"rounding": "outputs"}, {"range": "outputs"}):
        with pytest.raises(MethodError, match=r"no samples to look at outputs on; give --data"):
            compressed(mlp(), tmp_path, **params)


def test_single_layers_may_take_other_bits(tmp_path):
    graph = mlp()
    names = [site.name for site in compressed(graph, tmp_path, bits=4, min_elements=0).sites]
    change = compressed(graph, tmp_path, bits=4, min_elements=0, bits_of={names[-1]: 8, "nobody": 8})
    stored = [site.what.partition(":")[0] for site in change.sites]
    assert len(set(stored[:-1])) == 1
    assert stored[-1] != stored[0]
    assert "bits_of names no layer: nobody" in change.notes
    with pytest.raises(RecipeError, match="bits_of"):
        compressed(graph, tmp_path, scheme="float4", bits_of={names[0]: 8})
