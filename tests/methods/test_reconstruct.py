"""reconstruct: blocks end where everything passes, and learn what the original computes; none gets worse."""

from __future__ import annotations

import numpy as np
import pytest
from onnx import TensorProto
from small_graphs import GRAPHS, Net, calibration_for, conv_net, feeds_of, mlp

from hasten import methods
from hasten.core.errors import MethodError
from hasten.core.recipe import Recipe, Step
from hasten.graph.evaluate import Evaluator
from hasten.graph.section import section
from hasten.methods import reconstruct
from hasten.methods._blocks.counterpart import _agreement, counterpart
from hasten.methods._blocks.cuts import Passage, choose, passages
from hasten.methods._blocks.floats import Floats
from hasten.methods._blocks.plan import make_plan
from hasten.methods._blocks.rounded import Rounded
from hasten.methods._blocks.units import count_in, learned
from hasten.methods._qat.unfold import unfold

INT4 = Step("quantize_static", {"weights": "int4"})


@pytest.fixture
def context(tmp_path):
    return lambda graph, count=16: methods.Context(
        calibration=calibration_for(graph, tmp_path / f"store-{count}", count), work=tmp_path, original=graph
    )


def applied(graph, context, *steps):
    return methods.apply(Recipe(list(steps)), graph, context)


def error(graph, original, calibration):
    total = 0.0
    ideal, real = Evaluator(original), Evaluator(graph)
    for batch in calibration.batches(original.inputs[0].shape[0] if original.inputs[0].shape[0] == 1 else 8):
        feeds = batch.feeds(original.inputs)
        wanted, found = ideal.run(feeds), real.run(feeds)
        total += sum(float(np.square(found[n] - v).sum()) for n, v in wanted.items() if v.dtype.kind == "f")
    return total


def residual_net(batch="batch", rows=1):
    """Two residual blocks of two convolutions each, between a convolution and a product."""
    net = Net(5)
    x = "image"
    if rows > 1:
        x = net.node("Reshape", [x, net.constant("merge", np.array([-1, 8, 6, 6]))], "merged")
    x = net.node("Relu", [net.node("Conv", [x, net.weight("w0", 16, 8, 1, 1, fan_in=8)], "c0")], "r0")
    for block in (1, 2):
        y = net.node(
            "Conv", [x, net.weight(f"w{block}a", 16, 16, 3, 3, fan_in=144)], f"c{block}a", pads=[1] * 4
        )
        y = net.node("Relu", [y], f"r{block}a")
        y = net.node(
            "Conv", [y, net.weight(f"w{block}b", 16, 16, 3, 3, fan_in=144)], f"c{block}b", pads=[1] * 4
        )
        x = net.node("Relu", [net.node("Add", [x, y], f"sum{block}")], f"out{block}")
    x = net.node("Flatten", [net.node("GlobalAveragePool", [x], "pooled")], "flat")
    x = net.node("Gemm", [x, net.weight("w3", 16, 40)], "scores" if rows == 1 else "each")
    if rows > 1:
        net.node("Reshape", [x, net.constant("split", np.array([-1, rows, 40]))], "scores")
    extra = [rows] if rows > 1 else []
    return net.graph(
        [("image", TensorProto.FLOAT, [batch, *extra, 8, 6, 6])],
        [("scores", TensorProto.FLOAT, [batch, *extra, 40])],
    )


def planned(graph, place, *steps, layers=1):
    made = applied(graph, place, *(steps or (INT4,))).graph
    student = rounded(made)
    return made, student, make_plan(student, graph, place.calibration, layers, 1)


def rounded(made):
    return Rounded(unfold(made, None, learn_scales=True))


def test_blocks_end_where_everything_passes(context):
    graph = residual_net()
    _, _, plan = planned(graph, context(graph))
    # inside a residual block two values are read further on
    assert [span.start for span in plan.spans] == [None, "r0.rounded", "out1.rounded", "flat.rounded"]
    assert plan.teacher.names["out1.rounded"] == "out1"
    assert plan.spans[-1].ends == ("scores",)


def test_a_block_has_as_many_layers_as_asked_for():
    found = [Passage("a", 1), Passage("b", 2), Passage("c", 2), Passage("d", 4), Passage("e", 5)]
    assert choose(found, {"a", "b", "c", "d", "e"}, 1, 6) == ["a", "c", "d", "e"]
    assert choose(found, {"a", "b", "c", "d", "e"}, 2, 6) == ["c", "d"]
    assert choose(found, {"a", "b", "d", "e"}, 2, 5) == ["b", "d"]
    assert choose(found, set(), 1, 6) == []


def test_a_weight_that_layers_share_lies_in_one_block(context):
    net = Net()
    weight = net.weight("w", 64, 64)
    x = net.node("Relu", [net.node("MatMul", ["x", weight], "m1")], "r1")
    x = net.node("Relu", [net.node("MatMul", [x, net.weight("v", 64, 64)], "m2")], "r2")
    x = net.node("Relu", [net.node("MatMul", [x, weight], "m3")], "r3")
    net.node("MatMul", [x, net.weight("u", 64, 64)], "y")
    graph = net.graph([("x", TensorProto.FLOAT, ["n", 64])], [("y", TensorProto.FLOAT, ["n", 64])])
    made = applied(graph, context(graph), INT4).graph
    student = rounded(made)
    found = passages(student.graph, student.layers)
    assert {passage.layers for passage in found} <= {0, 3}


def test_a_name_that_means_another_value_is_not_taken(context):
    graph = conv_net()  # folded, the convolution c1 computes what the batch norm behind it did
    place = context(graph)
    made = applied(
        graph, place, Step("optimize_graph"), Step("quantize_static", {"layout": "openvino"})
    ).graph
    student = rounded(made)
    names = [p.name for p in passages(student.graph, student.layers)]
    feeds = [feeds_of(graph)]
    as_given = _agreement(student, graph, names, feeds, 1)
    assert "w1" not in student.originals(as_given.graph)  # it is not the folded one
    assert "c1" not in as_given.names
    best = counterpart(student, graph, names, feeds, 1)
    assert len(best.names) >= len(as_given.names)
    assert "w1" in student.originals(best.graph)


@pytest.mark.parametrize("case", GRAPHS)
def test_what_is_not_trained_is_the_same_to_the_byte(context, case):
    graph = GRAPHS[case]()
    made, student, _ = planned(graph, context(graph), Step("optimize_graph"), INT4)
    again = student.finished()
    for name, value in made.weights.items():
        assert again.weights[name].const_value.tobytes() == value.const_value.tobytes(), name


def test_the_blocks_in_a_row_compute_the_whole(context):
    graph = residual_net()
    _, student, plan = planned(graph, context(graph))
    feeds = feeds_of(graph)
    wanted = Evaluator(student.graph, optimized=False).run(feeds)["scores"]
    values = feeds
    for span in plan.spans:
        values = Evaluator(plan.student_block(span), optimized=False).run(values)
    np.testing.assert_allclose(values["scores"], wanted, rtol=1e-3, atol=1e-3)


def test_numbers_of_zero_change_nothing_and_others_count_in_their_units(context):
    from hasten.bridge import to_torch

    graph = residual_net()
    _, _, plan = planned(graph, context(graph))
    block = section(plan.graph, None, ["r0.rounded"])
    units = {name: unit for name, unit in plan.units.items() if name in block.weights}
    counted = block.copy()
    count_in(counted, units)
    feeds = feeds_of(graph)
    wanted, found = (Evaluator(g, optimized=False).run(feeds)["r0.rounded"] for g in (block, counted))
    np.testing.assert_array_equal(found, wanted)
    module = to_torch(counted)
    assert {name.removesuffix(".number") for name, _ in module.named_parameters()} == set(units)
    for parameter in module.parameters():
        parameter.data.fill_(0.5)
    for name, array in learned(block, module.to_graph(), units).items():
        before = block.weights[name].const_value.numpy()
        np.testing.assert_allclose(array, before + 0.5 * units[name], rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("case", ["free", "fixed", "two rows"])
def test_four_bits_come_nearer_to_the_original(context, case):
    graph = residual_net(1 if case == "fixed" else "batch", 2 if case == "two rows" else 1)
    place = context(graph, 48)
    before = applied(graph, place, INT4).graph
    change = applied(graph, place, INT4, Step("reconstruct", {"layers": 1}))
    assert error(change.graph, graph, place.calibration) < 0.6 * error(before, graph, place.calibration)
    told = [site.what for site in change.sites if "block" in site.what]
    assert told
    for what in told:
        words = what.replace(",", "").split()
        assert float(words[words.index("error") + 1]) > float(words[words.index("after;") - 1])
    assert not [path for path in place.work.iterdir() if path.name.startswith("tmp")]


def test_a_block_that_gets_no_better_is_put_back(context):
    graph = mlp()
    place = context(graph, 32)
    before = applied(graph, place, INT4).graph
    change = applied(graph, place, INT4, Step("reconstruct", {"learning_rate": 1e4, "steps": 4}))
    assert change.graph.fingerprint == before.fingerprint
    assert {skip.reason.split(" (")[0] for skip in change.skipped if "block" in skip.reason} == {
        "block 1: put back, no better on samples held back"
    }


def test_progress_goes_from_the_first_block_to_the_last(context):
    from dataclasses import replace

    graph = residual_net()
    seen = []
    place = replace(context(graph), progress=lambda what, done: seen.append((what, done)))
    applied(graph, place, INT4, Step("reconstruct", {"layers": 1, "steps": 4}))
    ours = [(what, done) for what, done in seen if what.startswith("reconstructing")]
    assert ours[0][0] == "reconstructing block 1 of 4"
    assert ours[-1] == ("reconstructing block 4 of 4", 1.0)
    assert [done for _, done in ours] == sorted(done for _, done in ours)


def transformer_like():
    """Two layers of feed-forward branches behind normalizations, as transformers have them."""
    net = Net(8)
    width, inner = 16, 48
    x = net.node("MatMul", ["rows", net.weight("embed", 12, width)], "embedded")
    for i in (1, 2):
        scale = net.constant(f"scale{i}", net.rng.uniform(0.5, 1.5, width).astype(np.float32))
        offset = net.constant(f"offset{i}", (net.rng.normal(size=width) / 8).astype(np.float32))
        y = net.node("LayerNormalization", [x, scale, offset], f"normed{i}", axis=-1)
        y = net.node("MatMul", [y, net.weight(f"up{i}", width, inner)], f"product{i}")
        y = net.node("Gelu", [net.node("Add", [y, net.weight(f"bias{i}", inner)], f"wide{i}")], f"gelu{i}")
        y = net.node("MatMul", [y, net.weight(f"down{i}", inner, width)], f"narrow{i}")
        x = net.node("Add", [x, y], f"sum{i}")
    net.node("MatMul", [x, net.weight("head", width, 10)], "scores")
    return net.graph(
        [("rows", TensorProto.FLOAT, ["batch", 5, 12])], [("scores", TensorProto.FLOAT, ["batch", 5, 10])]
    )


NETS = {"convolutions": residual_net, "transformer": transformer_like}


def unseen_error(made, graph):
    feeds = feeds_of(graph, batch=64, seed=99)
    wanted, found = (Evaluator(g).run(feeds)["scores"] for g in (graph, made))
    return float(np.square(found - wanted).mean() / np.square(wanted).mean())


@pytest.mark.parametrize(
    ("net", "step"),
    [
        ("convolutions", Step("prune_channels", {"widths": {"Conv_c1a": 8, "Conv_c2a": 8}})),
        ("transformer", Step("prune_channels", {"macs": 0.6})),
        ("transformer", Step("prune_layers", {"count": 1})),
        ("convolutions", Step("factorize", {"rank": "ratio", "keep": 0.75, "align": 2})),
    ],
    ids=lambda value: getattr(value, "method", value),
)
def test_a_smaller_graph_comes_nearer_to_the_original_on_samples_it_did_not_see(context, net, step):
    graph = NETS[net]()
    place = context(graph, 48)
    smaller = applied(graph, place, step)
    change = reconstruct.apply(smaller.graph, reconstruct.Params(layers=1), place)
    assert unseen_error(change.graph, graph) < 0.9 * unseen_error(smaller.graph, graph)
    told = {site.name for site in change.sites if "its weight moved by" in site.what}
    assert told
    assert told <= {node.name for node in change.graph.ir_model.graph}
    shapes = {name: value.shape for name, value in smaller.graph.weights.items()}
    assert {name: value.shape for name, value in change.graph.weights.items()} == shapes


def test_what_a_smaller_graph_learned_is_quantized_like_any_other(context):
    graph = residual_net()
    place = context(graph, 32)
    steps = [Step("optimize_graph"), Step("prune_channels", {"macs": 0.6})]
    steps.append(Step("reconstruct", {"layers": 1, "steps": 20}))
    floats = applied(graph, place, *steps).graph
    change = applied(graph, place, *steps, Step("quantize_static"))
    assert "QuantizeLinear" in {node.op_type for node in change.graph.ir_model.graph}
    assert unseen_error(change.graph, floats) < 0.01


def test_a_graph_that_computes_what_the_original_does_stays(context):
    graph = conv_net()
    change = applied(graph, context(graph), Step("optimize_graph"), Step("reconstruct"))
    assert not [site for site in change.sites if "block" in site.what]
    assert "put reconstruct after a method that changes it" in change.skipped[-1].reason
    assert (
        change.graph.fingerprint == applied(graph, context(graph), Step("optimize_graph")).graph.fingerprint
    )


def test_a_graph_without_layers_says_so(context):
    net = Net()
    net.node("Relu", ["x"], "y")
    graph = net.graph([("x", TensorProto.FLOAT, ["n", 8])], [("y", TensorProto.FLOAT, ["n", 8])])
    change = applied(graph, context(graph), Step("reconstruct"))
    assert not change.effective
    assert "no layers" in change.skipped[0].reason


def test_values_that_became_narrower_are_not_compared(context):
    graph = residual_net()
    place = context(graph, 32)
    made = applied(graph, place, Step("prune_channels", {"widths": {"Conv_c0": 8}})).graph
    plan = make_plan(Floats(made), graph, place.calibration, 1, 1)
    # r0, out1 and out2 are the width that was narrowed; what comes out of the product is whole again
    assert [span.start for span in plan.spans] == [None]
    inner = applied(graph, place, Step("prune_channels", {"widths": {"Conv_c1a": 8}})).graph
    plan = make_plan(Floats(inner), graph, place.calibration, 1, 1)
    assert [span.start for span in plan.spans] == [None, "r0", "out1", "flat"]


def test_each_kind_of_tensor_is_counted_in_its_own_unit(context):
    graph = transformer_like()
    place = context(graph)
    plan = make_plan(Floats(graph), graph, place.calibration, 1, 1)
    arrays = {name: value.const_value.numpy() for name, value in graph.weights.items()}
    assert set(plan.units) == set(arrays)
    np.testing.assert_allclose(plan.units["up1"], np.abs(arrays["up1"]).max(axis=0, keepdims=True) / 4)
    np.testing.assert_allclose(plan.units["scale1"], np.abs(arrays["scale1"]) / 4)
    feeds = next(place.calibration.batches(1)).feeds(graph.inputs)
    wide = Evaluator(graph, ["wide1"]).run(feeds)["wide1"]
    np.testing.assert_allclose(plan.units["bias1"], np.sqrt(np.square(wide).mean((0, 1))) / 4, rtol=1e-4)


def test_constants_that_are_no_weights_are_not_learned():
    net = Net(2)
    mask = net.constant("mask", np.where(np.arange(5) < 3, 0, -1e9).astype(np.float32).reshape(1, 1, 1, 5))
    half = net.constant("half", np.array(0.5, np.float32))
    x = net.node("Mul", [net.node("Add", ["scores", mask], "masked"), half], "halved")
    x = net.node(
        "Mul", [net.node("MatMul", [x, net.weight("w", 5, 6)], "m"), net.weight("each", 6)], "scaled"
    )
    net.node("Add", [x, net.weight("b", 6)], "y")
    graph = net.graph(
        [("scores", TensorProto.FLOAT, ["n", 2, 4, 5])], [("y", TensorProto.FLOAT, ["n", 2, 4, 6])]
    )
    student = Floats(graph)
    assert list(student.layers) == ["w"]
    assert set(student.begin(graph, feeds_of(graph), 1)) == {"w", "each", "b"}


def test_a_pruned_weight_stays_zero(context):
    graph = mlp()
    place = context(graph, 32)
    sparse = applied(graph, place, Step("prune_weights", {"sparsity": 0.5, "solve": False})).graph
    change = reconstruct.apply(sparse, reconstruct.Params(layers=1), place)
    assert change.effective
    for name, value in sparse.weights.items():
        before, after = value.const_value.numpy(), change.graph.weights[name].const_value.numpy()
        if before.ndim > 1 and before.dtype == np.float32:
            np.testing.assert_array_equal(after[before == 0], 0)


def test_without_samples_or_with_one_it_says_so(context, tmp_path):
    graph = mlp()
    nothing = methods.Context(calibration=None, work=tmp_path)
    with pytest.raises(MethodError, match="data"):
        applied(graph, nothing, Step("reconstruct"))
    with pytest.raises(MethodError, match="two samples"):
        applied(graph, context(graph, 1), INT4, Step("reconstruct"))


def test_a_model_of_a_fixed_batch_learns_from_whole_batches(tmp_path):
    graph = residual_net(batch=4)
    for count, enough in ((8, True), (7, False)):
        samples = calibration_for(residual_net(), tmp_path / f"store-{count}", count)
        where = methods.Context(calibration=samples, work=tmp_path, original=graph, batch=4)
        made = methods.apply(Recipe([Step("quantize_static", {"weights": "int4"})]), graph, where).graph
        step = Recipe([Step("reconstruct", {"steps": 8})])
        if enough:
            assert "blocks got better" in methods.apply(step, made, where).notes[0]
        else:
            with pytest.raises(MethodError, match="takes 4 samples at a time"):
                methods.apply(step, made, where)
