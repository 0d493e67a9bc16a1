"""quantize_aware: exactly the quantized graph at first, and better rounded weights afterwards."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest
from small_graphs import GRAPHS, calibration_for, conv_net, feeds_of

from hasten import methods
from hasten.bridge import to_torch
from hasten.core.errors import MethodError
from hasten.core.recipe import Recipe, Step
from hasten.graph.evaluate import Evaluator
from hasten.methods._qat.fold import fold
from hasten.methods._qat.unfold import unfold

STATIC = Step("quantize_static")


@pytest.fixture
def context(tmp_path):
    return lambda graph, count=16: methods.Context(
        calibration=calibration_for(graph, tmp_path / f"store-{count}", count), work=tmp_path, original=graph
    )


def quantized(graph, context, **params):
    return methods.apply(Recipe([Step("quantize_static", params)]), graph, context).graph


def error(found, wanted):
    return sum(float(np.square(found[n] - wanted[n]).sum()) for n in wanted if wanted[n].dtype.kind == "f")


@pytest.mark.parametrize("weights", ["int8", "int4"])
@pytest.mark.parametrize("layout", ["both", "openvino"])
def test_what_is_not_trained_is_the_same_to_the_byte(context, weights, layout):
    graph = conv_net()
    made = quantized(graph, context(graph), weights=weights, layout=layout)
    unfolded = unfold(made, graph, learn_scales=True)
    assert unfolded.weights
    again = fold(made, unfolded, unfolded.graph)
    for name, value in made.weights.items():
        assert again.weights[name].const_value.tobytes() == value.const_value.tobytes(), name


@pytest.mark.parametrize("case", GRAPHS)
def test_the_graph_that_learns_computes_what_the_quantized_one_does(context, case):
    graph = GRAPHS[case]()
    made = quantized(graph, context(graph))
    unfolded = unfold(made, graph, learn_scales=True)
    feeds = feeds_of(graph)
    wanted = Evaluator(made, optimized=False).run(feeds)
    found = Evaluator(unfolded.graph, optimized=False).run(feeds)
    for name, value in wanted.items():
        if value.dtype.kind == "f":
            # the float bias is not quite the integer one, which can tip a value to the next level
            assert np.linalg.norm(found[name] - value) <= 0.02 * np.linalg.norm(value)


def test_it_begins_with_the_weights_before_their_rounding(context):
    graph = conv_net()
    unfolded = unfold(quantized(graph, context(graph)), graph, learn_scales=True)
    for weight in unfolded.weights:
        name = weight.integers.removesuffix(".integers")
        before = graph.weights[name].const_value.numpy()
        assert unfolded.graph.weights[weight.floats].const_value.numpy().tobytes() == before.tobytes()
    unknown = unfold(quantized(graph, context(graph)), None, learn_scales=True)
    assert [w.integers for w in unknown.weights] == [w.integers for w in unfolded.weights]


def test_gradients_reach_every_weight_and_scale(context):
    import torch

    graph = conv_net()
    unfolded = unfold(quantized(graph, context(graph)), graph, learn_scales=True)
    module = to_torch(unfolded.graph)
    found = module(*(torch.from_numpy(feeds_of(graph)[name]) for name in module.input_names))
    outputs = found if isinstance(found, tuple) else (found,)
    sum(o.square().sum() for o in outputs).backward()
    learned = dict(module.named_parameters())
    for name in (*(w.floats for w in unfolded.weights), *unfolded.scales):
        assert learned[name].grad is not None, name
    assert all(torch.isfinite(p.grad).all() for p in learned.values() if p.grad is not None)


def test_training_brings_four_bits_nearer_to_the_original(context):
    graph = conv_net()
    place = context(graph, 64)
    before = quantized(graph, place, weights="int4")
    settings = {"epochs": 30, "batch_size": 16, "learning_rate": 1e-3}
    steps = [Step("quantize_static", {"weights": "int4"}), Step("quantize_aware", settings)]
    change = methods.apply(Recipe(steps), graph, place)
    feeds = [b.feeds(graph.inputs) for b in place.calibration.batches(8)]
    errors = []
    for made in (before, change.graph):
        ideal, real = Evaluator(graph), Evaluator(made)
        errors.append(sum(error(real.run(f), ideal.run(f)) for f in feeds))
    assert errors[1] < 0.7 * errors[0]
    assert [v.const_value.dtype for n, v in change.graph.weights.items() if n.endswith(".integers")] == [
        v.const_value.dtype for n, v in before.weights.items() if n.endswith(".integers")
    ]
    assert any(v.const_value.dtype == ir.DataType.INT4 for v in change.graph.weights.values())


def test_a_bit_that_was_left_unused_stays_so(context):
    graph = conv_net()
    made = quantized(graph, context(graph), reduce_range=True)
    unfolded = unfold(made, graph, learn_scales=True)
    trained = unfolded.graph.copy()
    for weight in unfolded.weights:
        value = trained.weights[weight.floats]
        value.const_value = ir.tensor(3 * value.const_value.numpy())
    folded = fold(made, unfolded, trained)
    for weight in unfolded.weights:
        integers = folded.weights[weight.integers].const_value.numpy().astype(int)
        assert integers.min() >= -64
        assert integers.max() == 63


def test_what_no_step_made_better_has_no_effect(context):
    graph = conv_net()
    settings = {"epochs": 1, "learning_rate": 10.0, "held_back": 0.5}
    change = methods.apply(Recipe([STATIC, Step("quantize_aware", settings)]), graph, context(graph, 64))
    assert all(site.what.startswith("int8 weights") for site in change.sites)  # of quantize_static
    assert {skip.reason for skip in change.skipped} == {"none of its integers moved"}


def test_without_quantized_weights_there_is_no_effect(context):
    graph = conv_net()
    change = methods.apply(Recipe([Step("quantize_aware")]), graph, context(graph))
    assert not change.effective
    assert "put quantize_static before" in change.skipped[0].reason


def test_without_samples_it_says_so(tmp_path):
    with pytest.raises(MethodError, match="data"):
        methods.apply(
            Recipe([STATIC, Step("quantize_aware")]),
            conv_net(),
            methods.Context(calibration=None, work=tmp_path),
        )
