"""restructure: forms that are the layer where nothing is lost, cheaper where something is, and what stays."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from onnx import TensorProto
from small_graphs import Net, calibration_for, conv_net, feeds_of

from hasten import methods
from hasten.core.data import Calibration, StoreWriter
from hasten.core.errors import MethodError, RecipeError
from hasten.core.recipe import Recipe, Step
from hasten.graph import Graph
from hasten.graph.cost import layer_costs, total_macs
from hasten.graph.editor import Editor
from hasten.graph.evaluate import Evaluator
from hasten.graph.names import name_nodes
from hasten.graph.reading import constant
from hasten.methods._factors.forms import Form, Positions, composed
from hasten.methods._factors.layers import Factorable, find_layers
from hasten.methods._factors.write import write
from hasten.methods._substitutes.forms import forms_of
from hasten.numerics.low_rank import Target

FLOAT = TensorProto.FLOAT
KINDS = ("separable", "smaller_kernel")


def run(graph: Graph, work: Path, data: Calibration | None = None, **params: object) -> methods.Change:
    data = data or calibration_for(graph, work / f"store-{len(list(work.iterdir()))}")
    context = methods.Context(calibration=data, work=work)
    return methods.apply(Recipe([Step("restructure", params)]), graph, context)


def outputs(graph: Graph, feeds: dict[str, np.ndarray] | None = None) -> np.ndarray:
    return next(iter(Evaluator(graph, optimized=False).run(feeds or feeds_of(graph)).values()))


def reasons(change: methods.Change) -> dict[str, str]:
    return {skip.name: skip.reason for skip in change.skipped}


def told(change: methods.Change) -> dict[str, str]:
    return {site.name: site.what for site in change.sites}


def ops(graph: Graph) -> Counter[str]:
    return Counter(node.op_type for node in graph.ir_model.graph)


def images(folder: Path, arrays: np.ndarray) -> Calibration:
    writer = StoreWriter(folder, ["x"])
    for array in arrays:
        writer.append({"x": array})
    return Calibration(writer.close(), range(len(arrays)))


def vgg(seed: int = 0, activation: str = "Relu", kernel: int = 3) -> Graph:
    """Six convolutions of smooth kernels, as trained ones are, two poolings and a classifier."""
    net = Net(seed)
    x, before = "x", 3
    taps = np.exp(-np.abs(np.arange(kernel) - kernel // 2))
    smooth = np.outer(taps, taps) / np.square(np.outer(taps, taps)).sum() ** 0.5
    for i, width in enumerate((8, 16, 16, 24, 24, 24)):
        scale = smooth * (2 / before) ** 0.5
        array = net.rng.normal(size=(width, before, 1, 1)) * scale + 0.04 * net.rng.normal(
            size=(width, before, kernel, kernel)
        )
        weight = net.constant(f"w{i}", array.astype(np.float32))
        made = net.node("Conv", [x, weight, net.weight(f"b{i}", width)], f"c{i}", pads=[kernel // 2] * 4)
        if activation == "Mish":
            gate = net.node("Tanh", [net.node("Softplus", [made], f"s{i}")], f"t{i}")
            x = net.node("Mul", [made, gate], f"a{i}")
        elif activation == "Swish":
            x = net.node("Mul", [net.node("Sigmoid", [made], f"s{i}"), made], f"a{i}")
        else:
            x = net.node(activation, [made], f"a{i}")
        if i in (1, 3):
            x = net.node("MaxPool", [x], f"p{i}", kernel_shape=[2, 2], strides=[2, 2])
        before = width
    pooled = net.node("GlobalAveragePool", [x], "pooled")
    flat = net.node("Flatten", [pooled], "flat")
    net.node("Gemm", [flat, net.weight("w", before, 5), net.weight("b", 5)], "y")
    return net.graph([("x", FLOAT, ["n", 3, 12, 12])], [("y", FLOAT, ["n", 5])])


def smooth_images(count: int, seed: int = 9) -> np.ndarray:
    """Sums of a few waves: neighbours are alike, as in pictures."""
    rng = np.random.default_rng(seed)
    rows, columns = np.mgrid[:12, :12] / 12
    waves = rng.normal(size=(count, 3, 4, 1, 1)) * np.sin(
        2
        * np.pi
        * (rng.uniform(0, 2, (count, 3, 4, 1, 1)) * rows + rng.uniform(0, 2, (count, 3, 4, 1, 1)) * columns)
        + rng.uniform(0, 6, (count, 3, 4, 1, 1))
    )
    return waves.sum(axis=2).astype(np.float32)


CONVOLUTIONS = st.integers(1, 2).flatmap(
    lambda axes: st.fixed_dictionaries(
        {
            "kernel": st.lists(st.integers(1, 5), min_size=axes, max_size=axes),
            "strides": st.lists(st.integers(1, 2), min_size=axes, max_size=axes),
            "dilations": st.lists(st.integers(1, 2), min_size=axes, max_size=axes),
            "pads": st.lists(st.integers(0, 3), min_size=2 * axes, max_size=2 * axes),
            "groups": st.sampled_from([1, 1, 2, 4]),
            "bias": st.booleans(),
        }
    )
)


def convolution(shape: dict, seed: int) -> Graph:
    net = Net(seed)
    weight = net.weight("w", 4, 4 // shape["groups"], *shape["kernel"], fan_in=9)
    window = {name: shape[name] for name in ("strides", "dilations", "pads")}
    inputs = ["x", weight, *([net.weight("b", 4)] if shape["bias"] else [])]
    net.node("Conv", inputs, "y", group=shape["groups"], **window)
    axes = len(shape["kernel"])
    return net.graph([("x", FLOAT, ["n", 4, *[11] * axes])], [("y", FLOAT, [None] * (axes + 2))])


def with_form(graph: Graph, pick: int, number: int) -> tuple[Graph, Graph, Form]:
    """One layer in a form of a number, and the graph with the weight that the form makes, in its place."""
    made, plain = graph.copy(), graph.copy()
    layers: list[Factorable] = []
    for each in (made, plain):
        name_nodes(each)
        layers += find_layers(each.ir_model.graph, frozenset(), grouped=True)[0]
    layer = layers[0]
    rng = np.random.default_rng(2)
    size = (layer.groups, 3 * layer.inputs, layer.inputs)
    x = rng.normal(size=size)
    moment = x.swapaxes(1, 2) @ x / size[1]
    ones = (1,) * len(layer.kernel)
    target = Target(layer.rows, moment[0] if layer.groups == 1 else moment)
    forms = forms_of(layer, target, Positions(ones, ones), KINDS, 99)
    form = forms[pick % len(forms)]
    number = 1 + number % max(1, min(form.largest, 12))
    factors = form.factors(number)
    assert target.lost(composed(factors)) == pytest.approx(form.lost(number), abs=1e-8)
    write(Editor(made), layer, factors)
    same = composed(factors).reshape(layer.array.shape).astype(np.float32)
    Editor(plain).set_input(layers[1].node, 1, same)
    return made, plain, form


@settings(deadline=None, max_examples=120)
@given(CONVOLUTIONS, st.integers(0, 2), st.integers(0, 40), st.integers(0, 99))
def test_the_operators_compute_what_the_weight_that_they_make_computes(shape, pick, number, seed):
    reach = [d * (k - 1) for d, k in zip(shape["dilations"], shape["kernel"], strict=True)]
    assume(0 < max(reach) < 9)
    made, plain, form = with_form(convolution(shape, seed), pick, number)
    expected = outputs(plain)
    np.testing.assert_allclose(outputs(made), expected, rtol=0, atol=1e-4 * np.abs(expected).max())
    assert form.cost(form.largest).macs > 0


def test_everything_is_kept_by_as_many_kernels_as_taps():
    graph = convolution(
        {
            "kernel": [3, 2],
            "strides": [1, 2],
            "dilations": [1, 1],
            "pads": [1, 0, 1, 2],
            "groups": 1,
            "bias": True,
        },
        1,
    )
    made, _, form = with_form(graph, 0, 3)
    assert form.told(4) == "separable:4"  # as many as outputs: fewer than taps
    assert form.lost(4) < 1e-9
    np.testing.assert_allclose(outputs(made), outputs(graph), rtol=0, atol=1e-4)


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    return images(tmp_path_factory.mktemp("pictures"), smooth_images(96))


@pytest.mark.parametrize("left", [0.7, 0.4])
def test_macs_are_left_as_asked_and_the_outputs_stay_near(tmp_path, pictures, left):
    graph = vgg()
    feeds = {"x": smooth_images(8, seed=1)}
    change = run(graph, tmp_path, pictures, macs=left, harm=9.0)
    share = total_macs(change.graph, feeds) / total_macs(graph, feeds)
    assert share <= left
    assert f"{share:.1%} of the multiply-accumulates" in change.notes[0]
    assert any("separable:" in what for what in told(change).values())
    assert set(reasons(change)) | set(told(change)) == {f"Conv_c{i}" for i in range(6)} | {"Gemm_y"}
    before, after = outputs(graph, feeds), outputs(change.graph, feeds)
    assert np.square(after - before).mean() < (0.02 if left == 0.7 else 0.3) * before.var()
    assert all("MACs become" in what and "alone it keeps" in what for what in told(change).values())


def test_by_times_slow_layers_are_replaced_and_not_those_that_are_slow_to_start(tmp_path, pictures):
    graph = vgg()
    feeds = {"x": smooth_images(1, seed=1)}
    macs = {layer.name: layer.macs / 1e4 for layer in layer_costs(graph, feeds)}
    slow = {name: 1000.0 if name == "Conv_c4" else time for name, time in macs.items()}
    change = run(graph, tmp_path, pictures, macs=0.8, harm=9.0, times=slow)
    assert set(told(change)) == {"Conv_c4"}
    to_start = {name: 100.0 + time / 100 for name, time in macs.items()}
    left = run(graph, tmp_path, pictures, macs=0.8, harm=9.0, replace=["separable"], times=to_start)
    assert not left.sites
    assert any(reason.endswith("and less time") for reason in reasons(left).values())
    with pytest.raises(RecipeError, match="times say nothing about activations"):
        run(graph, tmp_path, pictures, replace=["activation"], times=slow)
    with pytest.raises(MethodError, match=r"times: no layer is called 'elsewhere'"):
        run(graph, tmp_path, pictures, times={"elsewhere": 1.0})


def test_fitting_in_order_makes_up_for_what_lies_before(tmp_path):
    graph, many = vgg(), images(tmp_path / "many", smooth_images(200))
    feeds = {"x": smooth_images(32, seed=1)}
    wanted = outputs(graph, feeds)
    errors, notes = [], []
    for fit in (False, True):
        change = run(graph, tmp_path, many, macs=0.4, harm=9.0, fit=fit)
        errors.append(float(np.square(outputs(change.graph, feeds) - wanted).mean()))
        notes.append(change.notes[0])
    assert errors[1] < 0.3 * errors[0]
    assert ["before the last weights were fitted" in note for note in notes] == [False, True]


def test_a_fit_that_makes_what_is_held_back_worse_is_not_kept(tmp_path):
    few = images(tmp_path / "few", smooth_images(6))
    plain, fitted = (run(vgg(), tmp_path, few, macs=0.6, harm=9.0, fit=fit) for fit in (False, True))
    assert "did not lower that" in fitted.notes[0]
    assert fitted.graph.fingerprint == plain.graph.fingerprint


def test_blocks_that_are_reconstructed_come_nearer(tmp_path, pictures):
    graph = vgg()
    steps = [
        Step("restructure", {"macs": 0.5, "harm": 9.0, "multiplier": 1}),
        Step("reconstruct", {"steps": 60}),
    ]
    context = methods.Context(calibration=pictures, work=tmp_path)
    feeds = {"x": smooth_images(32, seed=1)}
    wanted = outputs(graph, feeds)
    errors = []
    for recipe in (Recipe(steps[:1]), Recipe(steps)):
        made = methods.apply(recipe, graph, context).graph
        errors.append(float(np.square(outputs(made, feeds) - wanted).mean()))
    assert errors[1] < 0.8 * errors[0]


@pytest.mark.parametrize("method", ["restructure", "factorize"])
def test_exact_rewrites_do_not_put_together_what_was_taken_apart(tmp_path, pictures, method):
    params = (
        {"macs": 0.5, "harm": 9.0} if method == "restructure" else {"rank": "macs", "keep": 0.6, "align": 4}
    )
    context = methods.Context(calibration=pictures, work=tmp_path)
    apart = methods.apply(Recipe([Step(method, params)]), vgg(), context)
    assert apart.effective
    after = methods.apply(Recipe([Step("optimize_graph")]), apart.graph, context).graph
    feeds = {"x": smooth_images(2, seed=1)}
    assert total_macs(after, feeds) == total_macs(apart.graph, feeds)
    assert ops(after)["Conv"] == ops(apart.graph)["Conv"] > 6


def test_layers_become_what_is_said(tmp_path, pictures):
    graph = vgg(kernel=5)
    wishes = {
        "Conv_c1": "separable:2",
        "Conv_c2": "smaller:3x3",
        "Conv_c3": "stacked:16",
        "Conv_c4": "separable:99",
        "Conv_c5": "stacked:60",
        "Gemm_y": "separable:1",
        "none": "separable:1",
    }
    change = run(graph, tmp_path, pictures, layers=wishes)
    assert {name: what.split(",")[0] for name, what in told(change).items()} == {
        name: wishes[name] for name in ("Conv_c1", "Conv_c2", "Conv_c3")
    }
    assert "cannot become separable:99" in reasons(change)["Conv_c4"]
    assert "not be cheaper" in reasons(change)["Conv_c5"]
    assert "no kernel" in reasons(change)["Gemm_y"]
    assert change.notes[-1] == "layers names nothing in the graph: none"
    nodes = {node.name: node for node in change.graph.ir_model.graph}
    assert nodes["Conv_c1.first"].attributes.get_int("group") == 16
    assert list(nodes["Conv_c2"].attributes.get_ints("pads")) == [1, 1, 1, 1]
    assert list(nodes["Conv_c3"].attributes.get_ints("pads")) == [0, 0, 0, 0]
    assert ops(change.graph)["Concat"] == 1


def test_kernels_in_groups_become_smaller(tmp_path, pictures):
    net = Net(1)
    net.node(
        "Conv", ["x", net.weight("w", 6, 1, 5, 5, fan_in=25), net.weight("b", 6)], "d", group=3, pads=[2] * 4
    )
    net.node("Conv", ["d", net.weight("v", 4, 6, 1, 1)], "y")
    graph = net.graph([("x", FLOAT, ["n", 3, 12, 12])], [("y", FLOAT, ["n", 4, 12, 12])])
    change = run(graph, tmp_path, pictures, layers={"Conv_d": "smaller:3x3"})
    assert told(change)["Conv_d"].startswith("smaller:3x3")
    plain = graph.copy()
    whole = constant(plain.ir_model.graph[0].inputs[1])
    Editor(plain).set_input(plain.ir_model.graph[0], 1, whole[:, :, 1:-1, 1:-1])
    plain.ir_model.graph[0].attributes.update(change.graph.ir_model.graph[0].attributes)
    feeds = {"x": smooth_images(8, seed=1)}
    wanted = outputs(graph, feeds)
    solved, cropped = (np.square(outputs(made, feeds) - wanted).mean() for made in (change.graph, plain))
    assert solved < 0.7 * cropped  # at the borders no tap tells what another one saw


@pytest.mark.parametrize(("kind", "expected"), [("Mish", "Swish of slope"), ("Swish", "HardSwish")])
def test_activations_become_cheaper_ones_where_that_is_asked_for(tmp_path, pictures, kind, expected):
    graph = vgg(activation=kind)
    feeds = {"x": smooth_images(8, seed=1)}
    change = run(graph, tmp_path, pictures, replace=["activation"])
    assert len(change.sites) == 6
    assert all(expected in what for what in told(change).values())
    assert not ops(change.graph).keys() & {"Softplus", "Tanh"}
    before, after = outputs(graph, feeds), outputs(change.graph, feeds)
    assert np.square(after - before).mean() < 0.1 * before.var()
    left = run(graph, tmp_path, pictures, replace=["activation"], harm=1e-9)
    assert not left.effective
    assert "outputs' variance" in reasons(left)["Mul_a0"]
    assert not {name for name in told(run(graph, tmp_path, pictures, harm=9.0)) if name.startswith("Mul")}


def test_a_sigmoid_gets_the_slope_that_fits_what_it_reads(tmp_path, pictures):
    graph = vgg(activation="Sigmoid")
    change = run(graph, tmp_path, pictures, layers={"Sigmoid_a2": "HardSigmoid", "Sigmoid_a3": "HardSwish"})
    assert told(change)["Sigmoid_a2"].startswith("HardSigmoid of slope 0.2")
    assert "HardSwish cannot stand for Sigmoid" in reasons(change)["Sigmoid_a3"]


def test_what_does_too_much_harm_stays(tmp_path, pictures):
    change = run(vgg(), tmp_path, pictures, macs=0.4, harm=1e-9)
    assert not change.effective
    assert "outputs' variance" in reasons(change)["Conv_c3"]


def test_less_than_there_is_leaves_as_little_as_there_is(tmp_path, pictures):
    change = run(vgg(), tmp_path, pictures, macs=0.01, harm=99.0)
    assert "nothing leaves as few as 1.0%" in change.notes[1]


def test_what_pads_automatically_stays(tmp_path):
    net = Net(1)
    net.node("Conv", ["x", net.weight("w", 24, 24, 3, 3, fan_in=99)], "y", auto_pad="SAME_UPPER")
    graph = net.graph([("x", FLOAT, ["n", 24, 9, 9])], [("y", FLOAT, ["n", 24, 9, 9])])
    assert "pads automatically" in reasons(run(graph, tmp_path))["Conv_y"]


def test_what_is_refused(tmp_path):
    graph = conv_net()
    with pytest.raises(RecipeError, match="replace is empty"):
        run(graph, tmp_path, replace=[])
    with pytest.raises(RecipeError, match=r"restructure\.macs"):
        run(graph, tmp_path, macs=1.5)
    with pytest.raises(RecipeError, match="nothing about activations"):
        run(graph, tmp_path, replace=["activation"], macs=0.5)
    with pytest.raises(RecipeError, match=r"restructure\.layers"):
        run(graph, tmp_path, layers={"Conv_c1": "depthwise"})
    with pytest.raises(MethodError, match="data"):
        methods.apply(Recipe([Step("restructure")]), graph, methods.Context(calibration=None, work=tmp_path))


@pytest.mark.parametrize("first", ["a graph input", "what is stored", "another activation"])
def test_activations_of_what_is_no_layers_output(tmp_path, first):
    net = Net(0)
    x = net.node("MatMul", ["x", net.weight("w1", 6, 8)], "h")
    if first == "a graph input":
        x = net.node("MatMul", [net.node("Mish", ["x"], "m"), "w1"], "h2")
    elif first == "what is stored":
        x = net.node("Mul", [x, net.node("Sigmoid", [net.weight("stored", 8)], "s")], "scaled")
    else:
        x = net.node("Mul", [x, net.node("Sigmoid", [x], "s")], "swish")
    net.node("MatMul", [net.node("Sigmoid", [x], "last"), net.weight("w2", 8, 4)], "y")
    graph = net.graph([("x", FLOAT, ["batch", 6])], [("y", FLOAT, ["batch", 4])])
    change = run(graph, tmp_path, replace=["activation"], harm=1.0)
    assert "Sigmoid_last" in told(change)
    assert "Sigmoid_s" not in told(change)
    assert ops(change.graph)["HardSigmoid"] == 1
    assert np.square(outputs(change.graph) - outputs(graph)).mean() < outputs(graph).var()


def test_a_graph_without_multiply_accumulates_may_have_activations(tmp_path):
    net = Net(0)
    net.node("Mish", [net.node("Neg", ["x"], "a")], "y")
    graph = net.graph([("x", FLOAT, ["batch", 6])], [("y", FLOAT, ["batch", 6])])
    change = run(graph, tmp_path, replace=["activation"], harm=10.0)
    assert change.sites
    assert "100.0% of the multiply-accumulates" in change.notes[0]
