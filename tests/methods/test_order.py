"""The order of a recipe's steps: a long one runs as one; one in the wrong place is told where it belongs."""

from __future__ import annotations

import numpy as np
import pytest
from correlated_nets import batch_for, residual_net, samples_for

from hasten import methods
from hasten.core.recipe import Recipe, Step
from hasten.graph.evaluate import Evaluator


@pytest.fixture
def context(tmp_path):
    return methods.Context(calibration=samples_for(residual_net(), tmp_path / "store"), work=tmp_path)


def test_low_rank_fewer_channels_teaching_and_eight_bits_in_one(context):
    graph = residual_net()
    steps = [
        Step("factorize", {"rank": "macs", "keep": 0.8, "align": 1}),
        Step("prune_channels", {"ratio": 0.2, "align": 1}),
        Step("distill", {"epochs": 1}),
        Step("quantize_static"),
        Step("quantize_aware", {"epochs": 1}),
    ]
    change = methods.apply(Recipe([Step("optimize_graph"), *steps]), graph, context)
    assert not [note for note in change.notes if "put it before" in note]
    kinds = {node.op_type for node in change.graph.ir_model.graph}
    assert {"QuantizeLinear", "DequantizeLinear"} <= kinds
    [found] = Evaluator(change.graph).run(batch_for(graph, 4, seed=3)).values()
    assert found.shape == (4, 6)
    assert np.isfinite(found).all()


@pytest.mark.parametrize(
    ("first", "last"),
    [
        (Step("quantize_static"), Step("prune_channels", {"macs": 0.7})),
        (Step("compress_weights"), Step("prune_heads")),
    ],
)
def test_what_finds_no_floats_left_is_told_where_it_belongs(context, first, last):
    change = methods.apply(Recipe([Step("optimize_graph"), first, last]), residual_net(), context)
    wanted = f"{last.method} changed nothing; it needs float weights, so put it before {first.method}"
    assert wanted in change.notes
    whole = methods.apply(Recipe([Step("optimize_graph"), last, first]), residual_net(), context)
    assert wanted not in whole.notes


def test_the_same_step_twice_is_no_wrong_order(context):
    change = methods.apply(Recipe(["quantize_static", "quantize_static"]), residual_net(), context)
    assert not [note for note in change.notes if "put it before" in note]
