"""quantize_aware: exactly the quantized graph at first, and better rounded weights afterwards."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest
import torch
from onnx import TensorProto
from small_graphs import GRAPHS, Net, calibration_for, conv_net, feeds_of, in_nodes

from hasten import methods
from hasten.bridge import to_torch
from hasten.core.errors import MethodError
from hasten.core.recipe import Recipe, Step
from hasten.graph.evaluate import Evaluator
from hasten.methods._qat.fold import fold
from hasten.methods._qat.unfold import unfold

STATIC = Step("quantize_static")
FLOAT = TensorProto.FLOAT


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
    again = fold(unfolded, unfolded.graph)
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
    folded = fold(unfolded, trained)
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


def products():
    """Two products, a factor and an offset between them in the arithmetic."""
    net = Net(0)
    x = net.node("Relu", [net.node("MatMul", ["x", net.weight("w1", 12, 24)], "m1")], "r1")
    x = net.node("MatMul", [x, net.weight("w2", 24, 8)], "m2")
    scaled = net.node("Mul", [x, net.constant("factor", np.full(8, 0.05, np.float32))], "scaled")
    net.node("Sub", [scaled, net.constant("offset", np.full(8, 0.01, np.float32))], "boxes")
    return net.graph([("x", FLOAT, ["batch", 12])], [("boxes", FLOAT, ["batch", 8])])


def off(made, graph, context):
    x = {"x": context.calibration.gather(context.calibration.indices).inputs["x"]}
    found, wanted = (Evaluator(each).run(x)["boxes"] for each in (made, graph))
    return float(np.square(found - wanted).mean() / np.square(wanted).mean())


@pytest.mark.parametrize("method", ["quantize_aware", "reconstruct"])
@pytest.mark.parametrize("stored", [{"bits": 8}, {"bits": 4}, {"bits": 4, "group": 4}], ids=str)
def test_weights_stored_without_a_zero_point_or_in_blocks_learn_as_well(context, method, stored):
    """Without a zero point QuantizeLinear gives unsigned integers; scales of blocks lie along an axis."""
    graph = products()
    where = context(graph, 96)
    made = methods.apply(Recipe([Step("compress_weights", {"min_elements": 1, **stored})]), graph, where)
    unfolded, x = unfold(made.graph, graph, learn_scales=True), feeds_of(graph)
    whole, again = (Evaluator(each, optimized=False).run(x)["boxes"] for each in (made.graph, unfolded.graph))
    np.testing.assert_allclose(again, whole, rtol=1e-5, atol=1e-6)
    before = off(made.graph, graph, where)
    how = {"steps": 40} if method == "reconstruct" else {"epochs": 20.0, "learning_rate": 1e-3}
    after = off(methods.apply(Recipe([Step(method, how)]), made.graph, where).graph, graph, where)
    assert after <= before


@pytest.mark.parametrize(
    "step", [Step("quantize_aware", {"epochs": 20.0}), Step("reconstruct", {"steps": 20})]
)
def test_what_nodes_hold_is_learned_and_kept_as_weights_are(context, step):
    graph = products()
    where = context(graph, 96)
    found = []
    for each in (graph, in_nodes(graph, ["factor", "offset"])):
        made = quantized(each, where, weights="int4", reduce_range=False)
        found.append(off(methods.apply(Recipe([step]), made, where).graph, graph, where))
    assert found[0] == pytest.approx(found[1], rel=1e-4)


def test_weights_that_leave_a_bit_unused_learn_within_it(context):
    """What is judged while it learns is what is written."""
    graph = products()
    where = context(graph)
    unfolded = unfold(quantized(graph, where, reduce_range=True), graph, learn_scales=True)
    changed = unfolded.graph.copy()
    for weight in unfolded.weights:
        value = changed.weights[weight.floats]
        value.const_value = ir.tensor(1.5 * value.const_value.numpy(), name=weight.floats)
    module, x = to_torch(changed), feeds_of(graph)["x"]
    found = module(torch.from_numpy(x)).detach().numpy()
    wanted = Evaluator(fold(unfolded, changed), optimized=False).run({"x": x})["boxes"]
    np.testing.assert_allclose(found, wanted, rtol=1e-4, atol=1e-5)
    written = fold(unfolded, changed)
    for weight in unfolded.weights:
        assert np.abs(written.weights[weight.integers].const_value.numpy().astype(int)).max() == 64


def test_copies_of_a_scale_stay_alike(context):
    """Other tools give both nodes of a pair a scale; the gradient must reach what lies before them."""
    graph = products()
    where = context(graph, 96)
    made = quantized(graph, where, layout="openvino")
    copied = made.copy()
    for node in [n for n in copied.ir_model.graph if n.op_type == "DequantizeLinear"]:
        value = node.inputs[1]
        again = ir.Value(name=f"{node.name}.copy", shape=value.shape, type=value.type)
        again.const_value = ir.tensor(value.const_value.numpy(), name=again.name)
        copied.ir_model.graph.register_initializer(again)
        node.replace_input_with(1, again)
    step = Recipe([Step("quantize_aware", {"epochs": 5.0, "learning_rate": 1e-3})])
    found = [off(methods.apply(step, each, where).graph, graph, where) for each in (made, copied)]
    assert found[0] == pytest.approx(found[1], rel=1e-4)
