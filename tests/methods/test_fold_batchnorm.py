"""fold_batchnorm: no normalization is left and nothing else changes; the first of a whole recipe's steps."""

from __future__ import annotations

from collections import Counter

import numpy as np
import onnxruntime
import pytest
from correlated_nets import batch_for, heads_net, residual_net, samples_for

from hasten import methods
from hasten.core.recipe import Recipe, Step
from hasten.graph import Graph
from hasten.graph.evaluate import Evaluator

RECIPE = """
steps:
  - fold_batchnorm: {}
  - prune_channels: {ratio: 0.5, importance: taylor}
  - distill: {epochs: 3, teacher: original}
  - quantize_static: {weights: int8, activations: uint8, range: mse}
"""


def ops(graph: Graph) -> Counter[str]:
    return Counter(node.op_type for node in graph.ir_model.graph)


@pytest.fixture
def context(tmp_path):
    return methods.Context(calibration=samples_for(residual_net(), tmp_path / "store"), work=tmp_path)


def test_normalizations_go_and_all_else_stays(context):
    graph = residual_net()
    change = methods.apply(Recipe(["fold_batchnorm"]), graph, context)
    assert ops(change.graph) == ops(graph) - Counter(BatchNormalization=3)
    assert change.graph.opset == graph.opset
    assert sum("BatchNormalization" in site.op_type for site in change.sites) >= 1
    feeds = batch_for(graph, 8, seed=3)
    [wanted], [found] = (Evaluator(each).run(feeds).values() for each in (graph, change.graph))
    np.testing.assert_allclose(found, wanted, rtol=1e-4, atol=1e-5)


def test_without_normalizations_it_has_no_effect(tmp_path):
    graph = heads_net()
    context = methods.Context(calibration=samples_for(graph, tmp_path / "store"), work=tmp_path)
    assert not methods.apply(Recipe(["fold_batchnorm"]), graph, context).effective


def test_a_second_time_there_is_nothing_to_do(context):
    recipe = Recipe(["fold_batchnorm"])
    once = methods.apply(recipe, residual_net(), context).graph
    assert not methods.apply(recipe, once, context).effective


def test_it_is_part_of_what_optimize_graph_does(context):
    alone = methods.apply(Recipe(["fold_batchnorm", "optimize_graph"]), residual_net(), context).graph
    whole = methods.apply(Recipe([Step("optimize_graph")]), residual_net(), context).graph
    assert ops(alone) == ops(whole)


def test_folded_pruned_taught_and_quantized(context, tmp_path):
    """Half of the channels and 8 bits, as a file that ONNX Runtime runs."""
    (tmp_path / "recipe.yaml").write_text(RECIPE)
    graph = residual_net()
    change = methods.apply(Recipe.read(tmp_path / "recipe.yaml"), graph, context)
    kinds = ops(change.graph)
    assert not kinds["BatchNormalization"]
    assert kinds["QuantizeLinear"] > 0
    assert change.graph.parameters < 0.5 * graph.parameters
    feeds = batch_for(graph, 4, seed=3)
    session = onnxruntime.InferenceSession(change.graph.to_bytes(), providers=["CPUExecutionProvider"])
    [wanted], [found] = Evaluator(graph).run(feeds).values(), session.run(None, feeds)
    assert found.shape == wanted.shape
    assert np.isfinite(found).all()
