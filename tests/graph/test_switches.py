"""The switchboard: off is the original, on the changed graph, one switch the graph with one layer changed."""

from __future__ import annotations

import numpy as np
import pytest
from small_graphs import attention, calibration_for, conv_net, feeds_of, mlp

from hasten import methods
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


def switched(board, feeds, on):
    return board.open().run(board.feeds(feeds, on))


def test_off_is_the_original_and_on_is_the_changed_graph(graph, tmp_path):
    change = changed_by(graph, Step("quantize_dynamic"), tmp_path)
    board = Switchboard(graph, change.graph, [site.name for site in change.sites])
    assert set(board.layers) == {site.name for site in change.sites}
    feeds = feeds_of(graph)
    for on, wanted in ((), graph), (board.layers, change.graph):
        got = switched(board, feeds, on)
        for name, expected in run(wanted, feeds).items():
            np.testing.assert_allclose(got[name], expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("make", [mlp, attention])
def test_one_switch_is_the_method_applied_to_one_layer(make, tmp_path):
    graph = make()
    name_nodes(graph)
    change = changed_by(graph, Step("quantize_static", {"layout": "openvino"}), tmp_path)
    names = [site.name for site in change.sites]
    board = Switchboard(graph, change.graph, names)
    assert board.layers
    feeds = feeds_of(graph)
    for name in board.layers:
        others = [other for other in names if other != name]
        alone = changed_by(
            graph, Step("quantize_static", {"layout": "openvino", "exclude": others}), tmp_path
        )
        got = switched(board, feeds, [name])
        for output, expected in run(alone.graph, feeds).items():
            np.testing.assert_allclose(got[output], expected, rtol=1e-3, atol=1e-3)


def test_with_all_off_the_changed_outputs_show_each_layers_own_error(tmp_path):
    graph = conv_net()
    name_nodes(graph)
    change = changed_by(graph, Step("quantize_static"), tmp_path)
    board = Switchboard(graph, change.graph, [site.name for site in change.sites])
    inner = [name for layer in board.layers.values() for name in (layer.original, layer.changed)]
    values = board.open(inner).run(board.feeds(feeds_of(graph)))
    for layer in board.layers.values():
        signal, got = values[layer.original], values[layer.changed]
        noise = np.square(signal - got).sum() / np.square(signal).sum()
        assert 0 < noise < 0.01


def test_layers_that_are_not_there_have_no_switch(tmp_path):
    graph = mlp()
    name_nodes(graph)
    change = changed_by(graph, Step("quantize_static"), tmp_path)
    assert not Switchboard(graph, change.graph, ["nothing"]).layers
    assert not Switchboard(graph, graph, []).layers
