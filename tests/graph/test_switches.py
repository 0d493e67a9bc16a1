"""The switchboard: off is the original, on the changed graph, one switch the graph with one layer changed."""

from __future__ import annotations

import numpy as np
import pytest
from onnx import TensorProto
from small_graphs import Net, attention, calibration_for, conv_net, feeds_of, mlp

from hasten import methods
from hasten.core.data import Calibration, StoreWriter
from hasten.core.recipe import Recipe, Step
from hasten.graph.evaluate import Evaluator
from hasten.graph.names import name_nodes
from hasten.graph.switches import Switchboard


def changed_by(graph, step, folder):
    context = methods.Context(calibration=calibration_for(graph, folder / f"{id(step)}"), work=folder)
    return methods.apply(Recipe([step]), graph, context)


@pytest.fixture(params=[conv_net, mlp, attention])
def graph(request):
    made = request.param()
    name_nodes(made)
    return made


def run(graph, feeds):
    return Evaluator(graph, optimized=False).run(feeds)


def board_of(graph, change):
    return Switchboard(graph, {"int8": change.graph}, {"int8": [site.name for site in change.sites]})


def switched(board, feeds, chosen):
    # As the graph says: optimizing, runtimes round what products of stored codes read.
    return run(board.graph, board.feeds(feeds, chosen))


@pytest.mark.parametrize(
    "step", [Step("quantize_dynamic"), Step("compress_weights", {"bits": 4, "min_elements": 0})], ids=str
)
def test_off_is_the_original_and_on_is_the_changed_graph(graph, step, tmp_path):
    change = changed_by(graph, step, tmp_path)
    board = board_of(graph, change)
    assert set(board.layers) == {site.name for site in change.sites}
    feeds = feeds_of(graph)
    for chosen, wanted in ({}, graph), (dict.fromkeys(board.layers, "int8"), change.graph):
        got = switched(board, feeds, chosen)
        for name, expected in run(wanted, feeds).items():
            np.testing.assert_allclose(got[name], expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("make", [mlp, attention])
def test_one_switch_is_the_method_applied_to_one_layer(make, tmp_path):
    graph = make()
    name_nodes(graph)
    change = changed_by(graph, Step("quantize_static", {"layout": "openvino"}), tmp_path)
    names = [site.name for site in change.sites]
    board = board_of(graph, change)
    assert set(board.layers) == set(names)
    feeds = feeds_of(graph)
    for name in board.layers:
        others = [other for other in names if other != name]
        alone = changed_by(
            graph, Step("quantize_static", {"layout": "openvino", "exclude": others}), tmp_path
        )
        got = switched(board, feeds, {name: "int8"})
        for output, expected in run(alone.graph, feeds).items():
            np.testing.assert_allclose(got[output], expected, rtol=1e-3, atol=1e-3)


def test_products_as_convolutions_are_compared_as_products(tmp_path):
    """What lies differently in the changed graph has another name; its numbers are the same but for ties."""
    graph = attention()
    name_nodes(graph)
    step = Step("quantize_static", {"layout": "openvino", "products": "convolutions"})
    change = changed_by(graph, step, tmp_path)
    assert any(node.op_type == "Conv" for node in change.graph.ir_model.graph)
    board = board_of(graph, changed_by(graph, methods.comparable(step), tmp_path))
    assert set(board.layers) == {site.name for site in change.sites}
    feeds = feeds_of(graph)
    wanted = run(change.graph, feeds)
    got = switched(board, feeds, dict.fromkeys(board.layers, "int8"))
    for output, whole in run(graph, feeds).items():
        apart = np.linalg.norm(got[output] - wanted[output])
        assert apart <= 0.3 * np.linalg.norm(wanted[output] - whole)
    # Layers between values that lie as they did can be switched all the same.
    mixed = board_of(graph, change)
    for output, expected in switched(mixed, feeds, dict.fromkeys(mixed.layers, "int8")).items():
        assert expected.shape == wanted[output].shape


def test_a_layer_that_was_merged_with_what_follows_is_switched_behind_that(tmp_path):
    """As a product is that becomes one operator with its bias."""
    net = Net()
    rows = net.node("Gather", [net.weight("table", 512, 16, fan_in=1), "tokens"], "rows")
    moved = net.node("Add", [rows, net.weight("place", 16)], "moved")
    product = net.node("MatMul", [moved, net.weight("w1", 16, 8)], "product")
    inner = net.node("Relu", [net.node("Add", [product, net.weight("b1", 8)], "biased")], "inner")
    net.node("Add", [net.node("MatMul", [inner, net.weight("w2", 8, 4)], "last"), net.weight("b2", 4)], "y")
    graph = net.graph([("tokens", TensorProto.INT64, ["n"])], [("y", TensorProto.FLOAT, ["n", 4])])
    writer = StoreWriter(tmp_path / "store", ["tokens"])
    for number in range(16):
        writer.append({"tokens": np.arange(3, dtype=np.int64) + number})
    context = methods.Context(calibration=Calibration(writer.close(), range(16)), work=tmp_path, batch=1)
    change = methods.apply(Recipe([Step("quantize_static", {"layout": "openvino"})]), graph, context)
    board = board_of(graph, change)
    assert list(board.layers) == ["Gather_rows", "MatMul_product", "MatMul_last"]
    feeds = {"tokens": np.arange(20)}
    got = switched(board, feeds, dict.fromkeys(board.layers, "int8"))
    np.testing.assert_allclose(got["y"], run(change.graph, feeds)["y"], atol=1e-5)
    np.testing.assert_array_equal(switched(board, feeds, {})["y"], run(graph, feeds)["y"])


def test_with_all_off_the_changed_outputs_show_each_layers_own_error(tmp_path):
    graph = conv_net()
    name_nodes(graph)
    change = changed_by(graph, Step("quantize_static"), tmp_path)
    board = board_of(graph, change)
    inner = [name for layer in board.layers.values() for name in (layer.original, layer.outputs["int8"])]
    values = board.open(inner).run(board.feeds(feeds_of(graph)))
    for layer in board.layers.values():
        signal, got = values[layer.original], values[layer.outputs["int8"]]
        noise = np.square(signal - got).sum() / np.square(signal).sum()
        assert 0 < noise < 0.01


def test_layers_that_are_not_there_have_no_switch(tmp_path):
    graph = mlp()
    name_nodes(graph)
    change = changed_by(graph, Step("quantize_static"), tmp_path)
    assert not Switchboard(graph, {"int8": change.graph}, {"int8": ["nothing"]}).layers
    assert not Switchboard(graph, {"int8": graph}, {"int8": []}).layers


def test_each_form_is_the_graph_that_has_it_everywhere(tmp_path):
    graph = conv_net()
    name_nodes(graph)
    steps = {
        form: Step("quantize_static", {"weights": form, "layout": "openvino"}) for form in ("int8", "int4")
    }
    made = {form: changed_by(graph, step, tmp_path) for form, step in steps.items()}
    board = Switchboard(
        graph,
        {form: change.graph for form, change in made.items()},
        {form: [site.name for site in change.sites] for form, change in made.items()},
    )
    feeds = feeds_of(graph)
    got = {form: switched(board, feeds, dict.fromkeys(board.layers, form)) for form in made}
    for form, change in made.items():
        for name, expected in run(change.graph, feeds).items():
            np.testing.assert_allclose(got[form][name], expected, atol=0.05)
    *others, last = board.layers
    mixed = switched(board, feeds, {last: "int4", **dict.fromkeys(others, "int8")})
    step = Step("quantize_static", {**steps["int8"].params, "weights_of": {last: "int4"}})
    for name, expected in run(changed_by(graph, step, tmp_path).graph, feeds).items():
        # Where a value lies between two integers, either may be taken: fusing changes its last bits.
        off = {which: np.square(expected - values[name]).sum() for which, values in got.items()}
        assert np.square(expected - mixed[name]).sum() < 0.1 * min(off.values())
