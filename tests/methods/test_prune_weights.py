"""prune_weights: so many zeros, where the pattern lets them be, and outputs kept by the weights that stay."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest
from onnx import TensorProto
from small_graphs import Net, attention, branching, calibration_for, conv_net, feeds_of, lstm, mlp

from hasten import methods, targets
from hasten.core.errors import MethodError, RecipeError
from hasten.core.recipe import Recipe, Step
from hasten.graph.evaluate import Evaluator
from hasten.methods._sparse import inputs
from hasten.methods._sparse.weights import Form

KINDS = ("l1", "l2", "gradient", "taylor", "fisher", "median", "random", "wanda", "outputs")


def pruned(graph, tmp_path, *after, data=None, **params):
    context = methods.Context(calibration=data, work=tmp_path, batch=4)
    return methods.apply(Recipe([Step("prune_weights", params), *after]), graph, context)


def reasons(change):
    return {skip.name: skip.reason for skip in change.skipped}


def told(change):
    return {site.name: site.what for site in change.sites}


def array(graph, name):
    return graph.weights[name].const_value.numpy()


def zero(graph, name):
    return float(np.mean(array(graph, name) == 0))


def convolutions(window=3, groups=1, kind="Conv"):
    """Three linear layers behind each other, whose inputs are alike."""
    net = Net(6)
    pads = {"pads": [window // 2] * 4}
    x = net.node("Conv", ["x", net.weight("w1", 32, 8, window, window, fan_in=72)], "c1", **pads)
    x = net.node("Relu", [x], "r1")
    shape = (32, 32 // groups, window, window)
    w = net.weight("w2", *shape, fan_in=288 // groups)
    x = net.node(kind, [x, w, net.weight("b2", 32)], "c2", group=groups, **pads)
    x = net.node("GlobalAveragePool", [net.node("Relu", [x], "r2")], "pooled")
    x = net.node("Flatten", [x], "flat")
    net.node("Gemm", [x, net.weight("w3", 32, 64), net.weight("b3", 64)], "y")
    shape = ["n", 8, 8, 8]
    return net.graph([("x", TensorProto.FLOAT, shape)], [("y", TensorProto.FLOAT, ["n", 64])])


@pytest.mark.parametrize("kind", KINDS)
def test_so_many_weights_of_each_layer_are_zero(kind, tmp_path):
    graph = convolutions()
    data = calibration_for(graph, tmp_path / "store")
    change = pruned(graph, tmp_path, data=data, importance=kind, sparsity=0.6, sparsity_of={"Conv_c1": 0.25})
    assert [site.name for site in change.sites] == ["Conv_c1", "Conv_c2", "Gemm_y"]
    for name, share in (("w1", 0.25), ("w2", 0.6), ("w3", 0.6)):
        size = array(graph, name).size
        slack = 0.02 if kind == "wanda" else 0.5 / size
        assert zero(change.graph, name) == pytest.approx(share, abs=slack)
    if kind not in {"wanda", "outputs"}:
        kept = array(change.graph, "w2") != 0
        np.testing.assert_array_equal(array(change.graph, "w2")[kept], array(graph, "w2")[kept])
        np.testing.assert_array_equal(array(change.graph, "b2"), array(graph, "b2"))


def test_magnitude_takes_the_smallest(tmp_path):
    graph = mlp()
    change = pruned(graph, tmp_path, sparsity=0.7)
    for name in ("w1", "w2"):
        before, after = np.abs(array(graph, name)), array(change.graph, name)
        assert before[after == 0].max() <= before[after != 0].min()
        assert np.sum(after == 0) == round(0.7 * before.size)
    assert told(change)["Gemm_h1"] == "70.0 % zero"


@pytest.mark.parametrize("kind", ["l2", "wanda", "outputs"])
@pytest.mark.parametrize("pattern", ["2:4", "1:4", "3:8"])
def test_every_group_along_the_input_axis_has_its_zeros(pattern, kind, tmp_path):
    kept, of = map(int, pattern.split(":"))
    graph = convolutions()
    data = calibration_for(graph, tmp_path / "store")
    change = pruned(graph, tmp_path, data=data, importance=kind, pattern=pattern)
    for name, channels in (("w1", 1), ("w2", 1), ("w3", 0)):
        rows = np.moveaxis(array(change.graph, name), channels, -1)
        assert (np.sum(rows.reshape(-1, of) != 0, axis=1) == kept).all(), name


@pytest.mark.parametrize("kind", ["Conv", "ConvTranspose"])
@pytest.mark.parametrize("groups", [1, 4])
def test_rows_are_what_an_output_sums(kind, groups, tmp_path):
    change = pruned(convolutions(groups=groups, kind=kind), tmp_path, pattern="2:4")
    weight = array(change.graph, "w2")
    if kind == "ConvTranspose":
        weight = weight.reshape(groups, 32 // groups, *weight.shape[1:])
        rows = np.moveaxis(weight, 1, -1)
    else:
        rows = np.moveaxis(weight, 1, -1)
    assert (np.sum(rows.reshape(-1, 4) != 0, axis=1) == 2).all()


def test_forms_turn_arrays_and_back():
    rng = np.random.default_rng(0)
    for shape, form in (
        ((12, 5, 3, 3), Form(1, (2, 6, 5, 9))),
        ((12, 5, 3, 3), Form(1, (2, 6, 5, 9), (0, 2, 1, 3))),
        ((7, 4), Form(1, (1, 7, 4, 1), (0, 2, 1, 3))),
    ):
        weight = rng.standard_normal(shape)
        rows = form.rows(weight)
        np.testing.assert_array_equal(form.array(rows, shape), weight)
        assert rows.shape[2] == weight.size // (rows.shape[0] * rows.shape[1])
        assert sorted(form.by_position()) == list(range(rows.shape[2]))
    assert Form(1, (2, 6, 5, 9)).by_position()[:5].tolist() == [0, 9, 18, 27, 36]


def error_of(graph, changed, feeds):
    wanted, got = (Evaluator(g, optimized=False).run(feeds) for g in (graph, changed))
    return max(np.square(wanted[n] - got[n]).sum() / np.square(wanted[n]).sum() for n in wanted)


@pytest.mark.parametrize("pattern", ["unstructured", "2:4"])
@pytest.mark.parametrize("make", [convolutions, mlp])
def test_what_layers_read_keeps_their_outputs(make, pattern, tmp_path):
    graph, feeds = make(), feeds_of(make(), batch=32, seed=3)
    data = calibration_for(graph, tmp_path / "store", 64)

    def error(**params):
        change = pruned(graph, tmp_path, data=data, pattern=pattern, **params)
        return error_of(graph, change.graph, feeds)

    plain = error()
    assert error(importance="wanda") < plain
    assert error(solve=True) < 0.7 * plain
    assert error(importance="outputs") < 0.5 * plain


def test_the_site_says_what_is_kept(tmp_path):
    graph = convolutions()
    data = calibration_for(graph, tmp_path / "store", 64)
    shares = {}
    for kind in ("l2", "outputs"):
        change = pruned(graph, tmp_path, data=data, importance=kind, correct_bias=True)
        what = told(change)["Conv_c2"]
        assert what.startswith("50.0 % zero, keeps ")
        assert what.endswith(" % of its outputs")
        shares[kind] = float(what.split()[4])
    assert shares["l2"] < shares["outputs"] <= 100
    # what is said of the outputs is what they are: of the layer behind the same input
    feeds = next(iter(data.batches(64))).feeds(graph.inputs)
    only = pruned(graph, tmp_path, data=data, importance="outputs", exclude=["Conv_c1", "Gemm_y"])
    wanted, found = (Evaluator(g, ["c2"], optimized=False).run(feeds)["c2"] for g in (graph, only.graph))
    bias = array(graph, "b2").reshape(1, -1, 1, 1)
    lost = np.square(found - wanted).sum() / np.square(wanted - bias).sum()
    assert 100 * (1 - lost) == pytest.approx(float(told(only)["Conv_c2"].split()[4]), abs=1.0)


@pytest.mark.parametrize("make", [convolutions, mlp, attention])
def test_biases_keep_the_mean(make, tmp_path):
    graph = make()
    data = calibration_for(graph, tmp_path / "store")
    batches = [batch.feeds(graph.inputs) for batch in data.batches(4)]
    first = pruned(graph, tmp_path, sparsity=0.8).sites[0].name
    names = [s.name for s in pruned(graph, tmp_path).sites if s.name != first]
    node = next(n for n in graph.ir_model.graph if n.name == first)
    output = str(node.outputs[0].name)
    if node.op_type == "MatMul":
        output = str(next(iter(node.outputs[0].uses())).node.outputs[0].name)
    means = {}
    for correct in (False, True):
        change = pruned(graph, tmp_path, data=data, sparsity=0.8, exclude=names, correct_bias=correct)
        runs = [Evaluator(g, [output], optimized=False) for g in (graph, change.graph)]
        moved = []
        for feeds in batches:
            wanted, found = (run.run(feeds)[output] for run in runs)
            channel = 1 if found.ndim == 4 else -1
            moved.append(np.moveaxis(found - wanted, channel, -1).reshape(-1, found.shape[channel]))
        means[correct] = np.abs(np.concatenate(moved).mean(axis=0)).max()
    assert means[True] < 0.05 * means[False]


def test_layers_ranked_together(tmp_path):
    graph = mlp()
    graph.weights["w1"].const_value = ir.tensor(20 * array(graph, "w1"), name="w1")
    sizes = {name: array(graph, name).size for name in ("w1", "w2")}

    def zeros(**params):
        change = pruned(graph, tmp_path, scope="global", exclude=["MatMul_m3"], **params)
        return {name: int(np.sum(array(change.graph, name) == 0)) for name in sizes}

    for how in ("none", "mean", "max", "sum", "lamp"):
        found = zeros(sparsity=0.6, normalization=how)
        assert sum(found.values()) == round(0.6 * sum(sizes.values()))
        if how == "none":
            assert found["w1"] < 0.2 * found["w2"]
            assert found["w2"] <= 0.99 * sizes["w2"]
        if how == "mean":
            assert found["w1"] / sizes["w1"] == pytest.approx(found["w2"] / sizes["w2"], abs=0.05)
    assert zeros(sparsity=0.6) == zeros(sparsity=0.6, normalization="lamp")
    own = zeros(sparsity=0.6, sparsity_of={"Gemm_h1": 0.25})
    assert own == {name: round(share * sizes[name]) for name, share in (("w1", 0.25), ("w2", 0.6))}


def test_ranked_together_by_outputs(tmp_path):
    graph = convolutions()
    data = calibration_for(graph, tmp_path / "store", 64)
    change = pruned(graph, tmp_path, data=data, scope="global", importance="outputs")
    total = sum(array(graph, n).size for n in ("w1", "w2", "w3"))
    found = {n: np.sum(array(change.graph, n) == 0) for n in ("w1", "w2", "w3")}
    assert sum(found.values()) == total // 2
    assert len({round(count / array(graph, n).size, 2) for n, count in found.items()}) > 1


def test_zeros_stay_zeros_and_go_first(tmp_path):
    graph = convolutions()
    data = calibration_for(graph, tmp_path / "store")
    once = pruned(graph, tmp_path, sparsity=0.3).graph
    for kind in KINDS:
        twice = pruned(once, tmp_path, data=data, sparsity=0.6, importance=kind).graph
        assert not array(twice, "w2")[array(once, "w2") == 0].any(), kind
        assert zero(twice, "w2") == pytest.approx(0.6, abs=0.01)
    again = pruned(once, tmp_path, sparsity=0.2)
    assert not again.effective
    assert set(reasons(again).values()) == {"as many of its weights are zero already"}


@pytest.mark.parametrize("steps", [[Step("quantize_static")], [Step("compress_weights", {"bits": 4})]])
def test_zeros_are_zero_codes(steps, tmp_path):
    graph = convolutions()
    data = calibration_for(graph, tmp_path / "store")
    before = pruned(graph, tmp_path, sparsity=0.75).graph
    change = pruned(graph, tmp_path, *steps, data=data, sparsity=0.75)
    codes = [
        v.const_value.numpy().astype(np.int8)
        for v in change.graph.weights.values()
        if v.dtype in {ir.DataType.INT8, ir.DataType.INT4} and v.const_value.size > 1000
    ]
    assert len(codes) == 3
    for code in codes:
        floats = next(array(before, n) for n in ("w1", "w2", "w3") if array(before, n).size == code.size)
        assert np.sum(code == 0) >= np.sum(floats == 0)


@pytest.mark.parametrize("make", [conv_net, mlp, attention])
@pytest.mark.parametrize("runtime", ["onnxruntime", "openvino"])
def test_runtimes_run_it_and_the_packed_file_is_smaller(make, runtime, tmp_path):
    graph = make()
    data = calibration_for(graph, tmp_path / "store")
    change = pruned(graph, tmp_path, data=data, sparsity=0.8, importance="outputs")
    sizes = []
    for which, one in (("before", graph), ("after", change.graph)):
        (packed,) = one.write(tmp_path / f"{which}.onnx.zst")
        sizes.append(packed.stat().st_size)
    assert sizes[1] < 0.75 * sizes[0]
    feeds, name = feeds_of(graph), graph.outputs[0].name
    wanted = Evaluator(change.graph, optimized=False).run(feeds)[name]
    target, options = targets.find(runtime), targets.options(runtime, {"threads": 1})
    (tmp_path / "out").mkdir()
    runner = target.open(target.export(change.graph, tmp_path / "out", options), tmp_path / "out", options)
    np.testing.assert_allclose(runner.run(feeds)[name], wanted, rtol=1e-3, atol=1e-4)


def test_what_is_only_smaller_is_not_called_faster(tmp_path):
    note = pruned(mlp(), tmp_path).notes[0]
    assert note.startswith("stored smaller, not computed faster: 50.0 % of 50,176 weights are zero")
    assert "GPU" not in note
    assert "NVIDIA GPUs from Ampere" in pruned(mlp(), tmp_path, pattern="2:4").notes[0]


def test_a_shared_weight_is_pruned_once_or_left_as_a_whole(tmp_path):
    net = Net()
    net.weight("w", 96, 96)
    net.node("MatMul", [net.node("MatMul", ["x", "w"], "h"), "w"], "y")
    graph = net.graph([("x", TensorProto.FLOAT, ["n", 96])], [("y", TensorProto.FLOAT, ["n", 96])])
    data = calibration_for(graph, tmp_path / "store")
    change = pruned(graph, tmp_path, sparsity_of={"MatMul_h": 0.4})
    assert told(change) == {"MatMul_h": "40.0 % zero", "MatMul_y": "40.0 % zero"}
    seen = pruned(graph, tmp_path, data=data, importance="outputs")
    unseen = "50.0 % zero, by magnitude (what its layer multiplies cannot be observed)"
    assert told(seen) == {"MatMul_h": unseen, "MatMul_y": unseen}
    left = pruned(graph, tmp_path, exclude=["MatMul_h", "nobody"])
    assert not left.effective
    assert reasons(left) == {
        "MatMul_h": "excluded by the recipe",
        "MatMul_y": "it shares its weight with MatMul_h, which is left",
    }
    assert left.notes == ("exclude names no layer: nobody",)


def test_a_table_that_is_also_looked_up_is_left(tmp_path):
    net = Net()
    x = net.node("Gather", [net.weight("w", 64, 64), "ids"], "looked")
    net.node("MatMul", [x, "w"], "y")
    graph = net.graph([("ids", TensorProto.INT64, ["n"])], [("y", TensorProto.FLOAT, ["n", 64])])
    assert reasons(pruned(graph, tmp_path)) == {
        "MatMul_y": "it shares its weight with Gather_looked, which is left"
    }


def test_reasons(tmp_path):
    net = Net()
    net.weight("wide", 2, 96, 96)
    net.constant("broken", np.full((96, 96), np.nan, np.float32))
    net.constant("double", np.ones((96, 96)))
    x = net.node("MatMul", ["x", "wide"], "a")
    x = net.node("MatMul", [x, "broken"], "b")
    x = net.node("MatMul", [x, x], "c")
    x = net.node("MatMul", [x, net.weight("small", 96, 2)], "d")
    x = net.node("MatMul", [x, net.weight("two", 2, 1024)], "e")
    x = net.node("MatMul", [x, net.weight("back", 1024, 96)], "f")
    x = net.node("Cast", [x], "g", to=TensorProto.DOUBLE)
    net.node("MatMul", [x, "double"], "h")
    graph = net.graph([("x", TensorProto.FLOAT, [2, 96, 96])], [("h", TensorProto.DOUBLE, [2, 96, 96])])
    found = reasons(pruned(graph, tmp_path, pattern="2:4"))
    assert found == {
        "MatMul_a": "its weight has 3 dimensions instead of 2",
        "MatMul_b": "its weight holds values that are not finite",
        "MatMul_c": "its weight is computed at run time",
        "MatMul_d": "its 192 numbers are fewer than min_elements",
        "MatMul_e": "the 2 channels that an output reads do not divide into groups of 4",
        "MatMul_h": "its weight is float64, not float32",
    }
    tiny = reasons(pruned(graph, tmp_path, sparsity_of={"MatMul_f": 0.0}))
    assert tiny["MatMul_f"] == "none of its weights is to be zero"


def test_quantized_weights_are_left(tmp_path):
    graph = mlp()
    context = methods.Context(calibration=calibration_for(graph, tmp_path / "store"), work=tmp_path)
    change = methods.apply(Recipe([Step("quantize_static"), Step("prune_weights")]), graph, context)
    assert "its weight is quantized already" in reasons(change).values()


@pytest.mark.parametrize(
    ("params", "said"),
    [
        ({"pattern": "2:4", "sparsity": 0.5}, "leave sparsity out"),
        ({"pattern": "2:4", "scope": "global"}, "leave scope out"),
        ({"pattern": "4:4"}, "N must be less than M"),
        ({"pattern": "half"}, "pattern"),
        ({"normalization": "lamp"}, "only matters to scope: global"),
        ({"sparsity": 1.0}, "sparsity"),
        ({"sparsity_of": {"a": 1.5}}, "sparsity_of"),
    ],
)
def test_what_has_no_meaning_is_refused(params, said, tmp_path):
    with pytest.raises(RecipeError, match=said):
        pruned(mlp(), tmp_path, **params)


def test_what_looks_at_samples_needs_some(tmp_path):
    for params in ({"importance": "wanda"}, {"importance": "fisher"}, {"solve": True}):
        with pytest.raises(MethodError, match=r"no samples to look at layers on; give --data"):
            pruned(mlp(), tmp_path, **params)


@pytest.mark.parametrize("make", [branching, lstm])
def test_layers_elsewhere_are_pruned_by_magnitude(make, tmp_path):
    graph = make()
    data = calibration_for(graph, tmp_path / "store")
    change = pruned(graph, tmp_path, data=data, importance="outputs")
    assert change.effective
    if make is branching:
        assert all("by magnitude" in site.what for site in change.sites)


def test_layers_are_observed_a_few_at_a_time(tmp_path, monkeypatch):
    graph = attention()
    data = calibration_for(graph, tmp_path / "store")
    (tmp_path / "a").mkdir()
    whole = pruned(graph, tmp_path / "a", data=data, importance="outputs")
    monkeypatch.setattr(inputs, "_MOMENTS_BYTES", 10_000)
    parts = pruned(graph, tmp_path, data=data, importance="outputs")
    assert parts.graph.fingerprint == whole.graph.fingerprint
    assert len(parts.sites) == 6


def test_gradients_tell_what_outputs_depend_on(tmp_path):
    """Half of a layer's outputs are multiplied by nothing: their weights are worth nothing."""
    net = Net(8)
    x = net.node("MatMul", ["x", net.weight("w", 32, 64)], "h")
    gate = net.constant("gate", np.repeat([1.0, 0.0], 32).astype(np.float32))
    x = net.node("Mul", [x, gate], "gated")
    net.node("MatMul", [x, net.weight("v", 64, 32)], "y")
    graph = net.graph([("x", TensorProto.FLOAT, ["n", 32])], [("y", TensorProto.FLOAT, ["n", 32])])
    data = calibration_for(graph, tmp_path / "store")
    for kind in ("gradient", "taylor", "fisher"):
        change = pruned(graph, tmp_path, data=data, importance=kind)
        kept = array(change.graph, "w") != 0
        assert kept[:, :32].all(), kind
        assert not kept[:, 32:].any(), kind


def test_the_diagonal_of_squares_is_what_differences_say(tmp_path):
    from hasten.methods._observe.weight_gradients import weight_gradients

    net = Net(9)
    net.node("MatMul", ["x", net.weight("w", 6, 5)], "y")
    graph = net.graph([("x", TensorProto.FLOAT, ["n", 6])], [("y", TensorProto.FLOAT, ["n", 5])])
    data = calibration_for(graph, tmp_path / "store", 400)
    context = methods.Context(calibration=data, work=tmp_path, batch=1)
    x = next(iter(data.batches(400))).feeds(graph.inputs)["x"].astype(np.float64)
    y = x @ array(graph, "w")
    size = np.sqrt(np.square(y).mean(axis=1, keepdims=True))
    squares = weight_gradients(graph, ["w", "none"], data, context, "error")
    assert list(squares) == ["w"]
    wanted = np.square(x / size).mean(axis=0)[:, None] * np.ones((1, 5))
    np.testing.assert_allclose(squares["w"], wanted, rtol=1e-4)
    found = weight_gradients(graph, ["w"], data, context, "norm")["w"]
    np.testing.assert_allclose(found, (x / size).T @ (y / size) / 400, rtol=1e-3, atol=1e-5)
