"""prune_layers: a dropped branch counts as zero and its mean, and the cheapest goes first."""

from __future__ import annotations

import re

import numpy as np
import pytest
from branch_nets import DROPPABLE, residual_net, transformer
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from onnx import TensorProto
from small_graphs import Net, calibration_for, feeds_of

from hasten import methods
from hasten.core.errors import MethodError
from hasten.core.recipe import Recipe, Step
from hasten.graph.cost import total_macs
from hasten.graph.editor import Editor
from hasten.graph.evaluate import Evaluator
from hasten.methods import prune_layers

NETS = {
    "residual": residual_net,
    "pre-norm": transformer,
    "post-norm": lambda: transformer(post_norm=True),
    "fused": lambda: transformer(post_norm=True, fused=True),
}


@pytest.fixture
def context(tmp_path):
    return lambda graph, count=16: methods.Context(
        calibration=calibration_for(graph, tmp_path / f"store-{count}", count), work=tmp_path, original=graph
    )


def pruned(graph, context, **params):
    return methods.apply(Recipe([Step("prune_layers", params)]), graph, context)


def said(change):
    """The harm that the last note tells."""
    return float(re.search(r"costs (\S+) % of", change.notes[-1]).group(1)) / 100


def values_of(graph, context, names):
    """Values over all samples, which are fed one by one, as rows of channels last."""
    evaluator = Evaluator(graph, names)
    found = {name: [] for name in names}
    for batch in context.calibration.batches(1):
        for name, value in evaluator.run(batch.feeds(graph.inputs), names).items():
            found[name].append(value)
    return found


def harm(graph, original, context):
    """The squared error of the worst output relative to its square, over all samples."""
    names = [spec.name for spec in original.outputs]
    wanted, found = (values_of(g, context, names) for g in (original, graph))
    shares = []
    for name in names:
        pairs = list(zip(wanted[name], found[name], strict=True))
        if pairs[0][0].dtype.kind == "f":
            wrong = sum(float(np.square(a.astype(float) - b).sum()) for a, b in pairs)
            shares.append(wrong / sum(float(np.square(a.astype(float)).sum()) for a, _ in pairs))
    return max(shares)


def masked(graph, changed, dropped):
    """The graph with each of these branches times zero, plus what the changed graph puts there instead."""
    masked = graph.copy()
    editor = Editor(masked)
    zero = editor.constant(np.zeros((), np.float32), "zero")
    for node in list(editor.main):
        if node.name not in dropped:
            continue
        branch = 0 if node.name.startswith(("Add_one", "Add_two")) or node.domain else 1
        value = editor.insert(node, "Mul", [node.inputs[branch], zero])
        shift = changed.weights.get(f"{node.name}.shift")
        if shift is not None:
            value = editor.insert(node, "Add", [value, editor.constant(shift.const_value.numpy(), "shift")])
        node.replace_input_with(branch, value)
    return masked


def assert_same(graph, other, seed=7):
    feeds = feeds_of(graph, seed=seed)
    wanted, found = Evaluator(graph).run(feeds), Evaluator(other).run(feeds)
    for name, value in wanted.items():
        np.testing.assert_allclose(found[name], value, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("what", ["nothing", "mean"])
@pytest.mark.parametrize("case", NETS)
def test_a_dropped_branch_counts_as_zero_and_its_mean(case, what, context):
    graph = NETS[case]()
    place = context(graph)
    for dropped in (sorted(DROPPABLE[case])[:1], sorted(DROPPABLE[case])[1:]):
        change = pruned(graph, place, drop=dropped, replace=what)
        assert {site.name for site in change.sites} == set(dropped)
        assert_same(masked(graph, change.graph, dropped), change.graph)
        assert change.graph.parameters < graph.parameters


@given(
    depth=st.integers(1, 3),
    seed=st.integers(0, 9),
    kind=st.sampled_from(["residual", "pre-norm", "post-norm", "fused"]),
    data=st.data(),
)
@settings(max_examples=12, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_branches_of_any_depth(depth, seed, kind, data, tmp_path_factory):
    if kind == "residual":
        graph = residual_net(seed, depth)
        names = [f"Add_{stage}.{i}.sum" for stage in ("one", "two") for i in range(depth)]
    else:
        graph = transformer(seed, depth, post_norm=kind != "pre-norm", fused=kind == "fused")
        names = [f"Add_layers.{i}.{part}.sum" for i in range(depth) for part in ("attention", "feed")]
    dropped = data.draw(st.lists(st.sampled_from(names), min_size=1, unique=True))
    folder = tmp_path_factory.mktemp("any")
    place = methods.Context(calibration=calibration_for(graph, folder / "store", 6), work=folder)
    change = pruned(graph, place, drop=dropped, replace="mean")
    assert {site.name for site in change.sites} == set(dropped)
    assert_same(masked(graph, change.graph, dropped), change.graph, seed)
    assert total_macs(change.graph, feeds_of(graph)) < total_macs(graph, feeds_of(graph))


@pytest.mark.parametrize("case", ["residual", "pre-norm", "post-norm"])
def test_the_mean_of_every_sum_stays(case, context):
    graph = NETS[case]()
    place = context(graph)
    dropped = sorted(DROPPABLE[case])[1:]
    sums = [name.removeprefix("Add_") for name in dropped]
    change = pruned(graph, place, drop=dropped, replace="mean")
    axes = (0, 2, 3) if case == "residual" else (0, 1)
    wanted, found = (values_of(g, place, sums) for g in (graph, change.graph))
    for name in sums:
        means = []
        for values in (wanted[name], found[name]):
            total = sum(v.sum(axis=axes, dtype=float) for v in values)
            means.append(total / sum(v.size // len(total) for v in values))
        np.testing.assert_allclose(means[1], means[0], rtol=1e-3, atol=1e-4)


def test_without_others_the_constant_is_the_mean_of_the_branch(context):
    graph = residual_net()
    place = context(graph)
    change = pruned(graph, place, drop=["Add_one.1.sum"], replace="mean")
    values = np.concatenate(values_of(graph, place, ["one.1.b"])["one.1.b"])
    shift = change.graph.weights["Add_one.1.sum.shift"].const_value.numpy()
    np.testing.assert_allclose(shift.reshape(-1), values.mean(axis=(0, 2, 3)), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("case", NETS)
def test_lines_are_the_least_squares_of_the_branch(case, context):
    graph = NETS[case]()
    place = context(graph)
    name = sorted(DROPPABLE[case])[1]
    line = pruned(graph, place, drop=[name], replace="affine")
    branch, skip = {
        "residual": ("one.1.b", "one.0.out"),
        "pre-norm": ("layers.0.feed.made", "layers.0.attention.sum"),
        "post-norm": ("layers.0.feed.made", "layers.0.attention.normed"),
        "fused": ("layers.0.feed.made", "layers.0.attention.normed"),
    }[case]
    seen = values_of(graph, place, [branch, skip])
    rows = {
        key: np.concatenate(
            [
                (v.transpose(0, 2, 3, 1) if v.ndim == 4 else v).reshape(-1, v.shape[1 if v.ndim == 4 else -1])
                for v in value
            ]
        )
        for key, value in seen.items()
    }
    for channel in range(rows[skip].shape[1]):
        if rows[skip][:, channel].std() < 1e-3:
            continue
        slope, start = np.polyfit(rows[skip][:, channel].astype(float), rows[branch][:, channel], 1)
        scale = line.graph.weights[f"{name}.scale"].const_value.numpy().reshape(-1)[channel]
        shift = line.graph.weights[f"{name}.shift"].const_value.numpy().reshape(-1)[channel]
        np.testing.assert_allclose([scale - 1, shift], [slope, start], rtol=1e-2, atol=1e-3)


@pytest.mark.parametrize("what", ["best", "nothing", "mean", "affine"])
@pytest.mark.parametrize("case", NETS)
def test_what_is_said_is_what_is_lost(case, what, context):
    graph = NETS[case]()
    place = context(graph)
    change = pruned(graph, place, count=3, replace=what)
    assert len(change.sites) == 3
    assert said(change) == pytest.approx(harm(change.graph, graph, place), rel=0.02)


@pytest.mark.parametrize("case", NETS)
def test_the_best_replacement_is_the_best_of_all(case, context):
    graph = NETS[case]()
    place = context(graph)
    for name in sorted(DROPPABLE[case])[:2]:
        harms = {
            what: harm(pruned(graph, place, drop=[name], replace=what).graph, graph, place)
            for what in ("best", "nothing", "mean", "affine")
        }
        assert harms.pop("best") == pytest.approx(min(harms.values()), rel=1e-3)


def test_positions_that_no_output_depends_on_do_not_count(context):
    net = Net()
    y = net.node("MatMul", ["x", net.weight("w1", 6, 6)], "branch")
    y = net.node("Add", ["x", y], "sum")
    first = [
        net.constant("zero", np.array([0])),
        net.constant("two", np.array([2])),
        net.constant("one", np.array([1])),
    ]
    net.node("Slice", [y, *first], "out")
    graph = net.graph([("x", TensorProto.FLOAT, ["n", 5, 6])], [("out", TensorProto.FLOAT, ["n", 2, 6])])
    place = context(graph)
    values = np.concatenate(values_of(graph, place, ["branch"])["branch"])
    for positions, counted in (("equal", values), ("gradients", values[:, :2])):
        change = pruned(graph, place, count=1, replace="mean", positions=positions)
        shift = change.graph.weights["Add_sum.shift"].const_value.numpy()
        np.testing.assert_allclose(shift, counted.mean(axis=(0, 1)), rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("per", ["branch", "macs"])
@pytest.mark.parametrize("case", NETS)
def test_the_first_to_go_is_the_best_of_all(case, per, context):
    graph = NETS[case]()
    place = context(graph)
    feeds = feeds_of(graph, batch=1)
    whole = total_macs(graph, feeds)
    scores = {}
    for name in DROPPABLE[case]:
        tried = pruned(graph, place, drop=[name]).graph
        worth = whole - total_macs(tried, feeds) if per == "macs" else 1
        scores[name] = harm(tried, graph, place) / worth
    change = pruned(graph, place, count=1, per=per)
    assert [site.name for site in change.sites] == [min(scores, key=scores.get)]


@pytest.mark.parametrize("case", ["residual", "pre-norm"])
def test_the_second_is_the_best_with_the_first(case, context):
    graph = NETS[case]()
    place = context(graph)
    first = pruned(graph, place, count=1).sites[0].name
    scores = {
        name: harm(pruned(graph, place, drop=[first, name]).graph, graph, place)
        for name in DROPPABLE[case] - {first}
    }
    change = pruned(graph, place, count=2)
    assert {site.name for site in change.sites} == {first, min(scores, key=scores.get)}
    assert said(change) == pytest.approx(min(scores.values()), rel=0.02)


def test_no_branch_goes_that_harms_too_much(context):
    graph = residual_net()
    place = context(graph)
    alone = [harm(pruned(graph, place, drop=[name]).graph, graph, place) for name in DROPPABLE["residual"]]
    limit = 1.05 * min(alone)
    change = pruned(graph, place, most_harm=limit)
    assert len(change.sites) == 1
    assert harm(change.graph, graph, place) <= limit
    assert sum("more than most_harm" in skip.reason for skip in change.skipped) == 3
    none = pruned(graph, place, most_harm=0.5 * min(alone))
    assert not none.effective
    assert none.graph is graph
    assert {skip.name for skip in none.skipped} > DROPPABLE["residual"]


def test_similar_branches_go_in_one_pass(context):
    graph = transformer(depth=3)
    place = context(graph)
    seen = values_of(graph, place, [f"layers.{i}.{p}.sum" for i in range(3) for p in ("attention", "feed")])
    before = [b.feeds(graph.inputs)["tokens"] for b in place.calibration.batches(1)]
    influence = {}
    for name, after in seen.items():
        pairs = [(a.reshape(-1, 16), b.reshape(-1, 16)) for a, b in zip(before, after, strict=True)]
        cosines = [(a * b).sum(1) / np.linalg.norm(a, axis=1) / np.linalg.norm(b, axis=1) for a, b in pairs]
        influence[f"Add_{name}"] = 1 - float(np.concatenate(cosines).mean())
        before = after
    change = pruned(graph, place, count=2, importance="similarity")
    assert {site.name for site in change.sites} == set(sorted(influence, key=influence.get)[:2])
    kept = {skip.name: skip.reason for skip in change.skipped}
    for name, value in influence.items():
        if name in kept:
            told = re.search(r"the sum is (\S+)", kept[name]).group(1)
            assert float(told) == pytest.approx(value, rel=0.01)


def test_a_share_of_the_branches_goes(context):
    graph = transformer()
    place = context(graph)
    assert len(pruned(graph, place, ratio=0.5).sites) == 2
    assert len(pruned(graph, place, ratio=0.01).sites) == 1
    assert len(pruned(graph, place, ratio=1.0).sites) == 4


def test_without_samples_nothing_can_be_measured(tmp_path):
    with pytest.raises(MethodError, match="needs data to calibrate on"):
        pruned(residual_net(), methods.Context(calibration=None, work=tmp_path))
    with pytest.raises(MethodError, match="no samples"):
        prune_layers.apply(
            residual_net(), prune_layers.Params(), methods.Context(calibration=None, work=tmp_path)
        )


@pytest.mark.parametrize("what", ["nothing", "mean", "affine"])
@pytest.mark.parametrize("case", ["residual", "pre-norm", "post-norm"])
def test_openvino_computes_the_same(case, what, context, tmp_path):
    import openvino as ov

    graph = NETS[case]()
    change = pruned(graph, context(graph), count=2, replace=what)
    change.graph.write(tmp_path / "pruned.onnx")
    feeds = feeds_of(graph)
    options = {"INFERENCE_PRECISION_HINT": "f32", "INFERENCE_NUM_THREADS": 1}
    compiled = ov.Core().compile_model(str(tmp_path / "pruned.onnx"), "CPU", options)
    found = compiled(feeds)[compiled.output(0)]
    np.testing.assert_allclose(found, Evaluator(change.graph).run(feeds)["scores"], rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("case", ["residual", "pre-norm"])
def test_what_is_left_can_be_quantized(case, context):
    graph = residual_net() if case == "residual" else transformer(width=64)
    place = context(graph)
    steps = [Step("prune_layers", {"count": 1}), Step("optimize_graph"), Step("quantize_static")]
    change = methods.apply(Recipe(steps), graph, place)
    assert any("int8" in site.what for site in change.sites)
    one = pruned(graph, place, count=1).graph
    assert harm(change.graph, one, place) < 0.02


@pytest.mark.parametrize("method", ["distill", "finetune"])
def test_what_is_left_can_be_trained(method, context):
    graph = residual_net(depth=1)
    place = context(graph, 32)
    prune = Step("prune_layers", {"count": 2, "replace": "nothing"})
    params = {"epochs": 6, "learning_rate": 0.002, "batch_size": 8}
    change = methods.apply(Recipe([prune, Step(method, params)]), graph, place)
    assert len([site for site in change.sites if site.op_type != "Add"]) > 3
    dropped = methods.apply(Recipe([prune]), graph, place).graph
    assert [n.op_type for n in change.graph.ir_model.graph] == [n.op_type for n in dropped.ir_model.graph]
    if method == "distill":
        assert apart(change.graph, graph, place) < 0.5 * apart(dropped, graph, place)


def apart(graph, original, context):
    """How far scores are from the original's; a number added to all of a sample's is not learned."""
    scores = []
    for one in (original, graph):
        found = np.concatenate(values_of(one, context, ["scores"])["scores"])
        scores.append(found - found.mean(axis=1, keepdims=True))
    return float(np.square(scores[1] - scores[0]).sum())


@pytest.mark.parametrize("replace", ["best", "affine"])
def test_a_branch_may_be_broadcast_where_it_is_added(context, replace):
    """What stands for a mean over tokens has a row a token, of which there may be any number."""
    net = Net(0)
    x = net.node("ReduceMean", ["x", net.constant("axes", np.array([1]))], "mean", keepdims=1)
    net.node("Add", ["x", net.node("MatMul", [x, net.weight("w", 8, 8)], "branch")], "y")
    shape = ["batch", "tokens", 8]
    graph = net.graph([("x", TensorProto.FLOAT, shape)], [("y", TensorProto.FLOAT, shape)])
    change = pruned(graph, context(graph), ratio=1.0, replace=replace)
    assert not [node for node in change.graph.ir_model.graph if node.op_type == "MatMul"]
    assert harm(change.graph, graph, context(graph)) == pytest.approx(said(change), rel=1e-2)
