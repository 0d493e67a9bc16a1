"""prune_channels: what is left is narrower, aligned, as asked, and near to what it was."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from correlated_nets import batch_for, heads_net, residual_net, samples_for
from onnx import TensorProto
from small_graphs import Net, lstm, mlp

from hasten import methods, targets
from hasten.core.errors import MethodError, RecipeError
from hasten.core.recipe import Recipe, Step
from hasten.graph import Graph
from hasten.graph.cost import layer_costs, total_macs
from hasten.graph.evaluate import Evaluator

WIDTHS = {"Conv_stem": 16, "Conv_in0": 24, "Conv_in1": 24, "Conv_wide": 32}
"""Of ``residual_net``; the stem's is that of the sums, too."""


def run(graph: Graph, folder: Path, *more: Step, seed: int = 0, **params: object) -> methods.Change:
    store = folder / f"store{len(list(folder.iterdir()))}"
    context = methods.Context(calibration=samples_for(graph, store), work=folder, seed=seed)
    return methods.apply(Recipe([Step("prune_channels", params), *more]), graph, context)


def error(graph: Graph, changed: Graph, seed: int) -> float:
    """Of the outputs, over what varies in them; the calibration has the seed 1."""
    feeds = batch_for(graph, 96, seed)
    [wanted] = Evaluator(graph).run(feeds).values()
    [found] = Evaluator(changed).run(feeds).values()
    assert found.shape == wanted.shape
    return float(np.square(found - wanted).sum() / np.square(wanted - wanted.mean(axis=0)).sum())


def made_by(graph: Graph) -> dict[str, int]:
    """How many channels each convolution makes."""
    return {
        str(node.name): int(node.inputs[1].const_value.shape[0])
        for node in graph.ir_model.graph
        if node.op_type == "Conv"
    }


def share(graph: Graph, changed: Graph) -> float:
    feeds = batch_for(graph, 1, 0)
    return total_macs(changed, feeds) / total_macs(graph, feeds)


def test_less_than_can_be_left_is_said(tmp_path):
    graph = residual_net()
    change = run(graph, tmp_path, macs=0.01, align=4, least=0.5)
    left = share(graph, change.graph)
    assert left > 0.03
    assert change.notes == (
        f"{left:.1%} of the MACs are left, not 1.0%: `least` and `align` leave nothing more to take",
    )


@pytest.mark.parametrize("scope", ["global", "local"])
@pytest.mark.parametrize("macs", [0.8, 0.5])
def test_fewer_macs_and_widths_that_are_aligned(scope, macs, tmp_path):
    graph = residual_net()
    before = graph.fingerprint
    change = run(graph, tmp_path, macs=macs, scope=scope, align=4)
    assert graph.fingerprint == before
    assert share(graph, change.graph) <= macs
    assert change.notes == (f"{share(graph, change.graph):.1%} of the MACs are left",)
    widths = made_by(change.graph)
    assert all(count % 4 == 0 for count in widths.values())
    assert widths["Conv_out0"] == widths["Conv_out1"] == widths["Conv_stem"]
    sites = {site.name: site.what for site in change.sites}
    for name, whole in WIDTHS.items():
        assert (name in sites) == (widths[name] < whole)
        if name in sites:
            assert sites[name].startswith(f"{widths[name]} of {whole} channels left")
    assert change.graph.parameters < graph.parameters
    if scope == "local":
        assert set(sites) == set(WIDTHS)


def test_by_times_a_slow_layer_becomes_narrower_and_a_fast_one_stays(tmp_path):
    graph = residual_net()
    layers = layer_costs(graph, batch_for(graph, 1, 0))
    fast = {layer.name: layer.macs / 1e5 for layer in layers if layer.op_type == "Conv"}
    by_times = run(graph, tmp_path, macs=0.8, align=4, times={**fast, "Conv_wide": 50.0})
    assert {site.name for site in by_times.sites} == {"Conv_wide"}
    assert by_times.notes[0].endswith("of the layers' times are left")
    assert float(by_times.notes[0].split("%")[0]) <= 80.0
    spared = run(graph, tmp_path, macs=0.8, align=4, times={**fast, "Conv_wide": 0.0})
    assert "Conv_wide" not in {site.name for site in spared.sites}


@pytest.mark.parametrize("scope", ["global", "local"])
def test_a_latency_is_reached_as_the_layers_times_say(scope, tmp_path):
    graph = residual_net()
    layers = layer_costs(graph, batch_for(graph, 1, 0))
    times = {layer.name: layer.macs / 1e5 for layer in layers if layer.op_type == "Conv"}
    given = {"times": times, "scope": scope, "align": 1}
    total = sum(times.values())
    change = run(graph, tmp_path, latency=0.6 * total, **given)
    by_share = run(graph, tmp_path, macs=0.6, **given)
    left = [float(each.notes[0].split("%")[0]) for each in (change, by_share)]
    assert left[0] == pytest.approx(left[1], abs=3.0)
    assert left[0] <= 60.5
    assert change.notes[0].endswith("of the layers' times are left")
    assert not run(graph, tmp_path, latency=2 * total, **given).effective


@pytest.mark.parametrize("scope", ["global", "local"])
def test_parameters_count_where_they_are_asked_for(scope, tmp_path):
    graph = residual_net()
    change = run(graph, tmp_path, parameters=0.6, scope=scope, align=1)
    left = change.graph.parameters / graph.parameters
    assert 0.5 < left <= 0.6
    assert change.notes == (f"{left:.1%} of the parameters are left",)
    by_macs = run(graph, tmp_path, macs=share(graph, change.graph), scope=scope, align=1).graph
    if scope == "global":
        assert by_macs.parameters > change.graph.parameters


@pytest.mark.parametrize("scope", ["global", "local"])
@pytest.mark.parametrize("importance", ["outputs", "taylor"])
def test_a_ratio_of_the_channels_goes(scope, importance, tmp_path):
    change = run(residual_net(), tmp_path, ratio=0.5, scope=scope, importance=importance, align=1, least=0.05)
    kept = {name: made_by(change.graph)[name] for name in WIDTHS}
    if scope == "local":
        assert kept == {name: count // 2 for name, count in WIDTHS.items()}
    else:
        assert sum(kept.values()) == sum(WIDTHS.values()) // 2
        assert kept != {name: count // 2 for name, count in WIDTHS.items()}
    assert change.notes == ("50.0% of the channels are left",)


def test_of_what_is_no_wider_than_a_block_half_of_it_counts(tmp_path):
    change = run(residual_net(), tmp_path, align=32, macs=0.4, scope="local", fit=False)
    kept = {name: made_by(change.graph)[name] for name in WIDTHS}
    assert kept == {"Conv_stem": 8, "Conv_in0": 16, "Conv_in1": 16, "Conv_wide": 16}


@pytest.mark.parametrize(
    ("params", "told"),
    [
        ({"parameters": 0.5, "macs": 0.5}, "macs and parameters say how much goes"),
        ({"ratio": 0.5, "parameters": 0.5}, "parameters and ratio say how much goes"),
        ({"parameters": 0.5, "times": {"Conv_wide": 1.0}}, "times say nothing about parameters"),
        ({"ratio": 0.5, "times": {"Conv_wide": 1.0}}, "times say nothing about ratio"),
        (
            {"latency": 3.0, "macs": 0.5, "times": {"Conv_wide": 1.0}},
            "macs and latency say how much goes",
        ),
        ({"latency": 3.0}, "latency is in the unit of times, which are missing"),
    ],
)
def test_what_would_be_ignored_is_refused(params, told, tmp_path):
    with pytest.raises(RecipeError, match=told):
        run(residual_net(), tmp_path, **params)


def test_times_of_no_layer_are_refused(tmp_path):
    with pytest.raises(MethodError, match="no layer is called 'Conv_7'; they are"):
        run(residual_net(), tmp_path, times={"Conv_7": 3.0})


def test_a_share_of_each_width_is_left_at_least(tmp_path):
    graph = residual_net()
    change = run(graph, tmp_path, macs=0.01, least=0.5, align=1, fit=False)
    assert {name: made_by(change.graph)[name] for name in WIDTHS} == {n: c // 2 for n, c in WIDTHS.items()}
    assert share(graph, change.graph) > 0.01


def test_single_widths_as_asked(tmp_path):
    graph = residual_net()
    change = run(graph, tmp_path, widths={"Conv_in0": 7, "Conv_wide": 32, "Conv_stem": 1}, fit=False)
    widths = made_by(change.graph)
    assert {name: widths[name] for name in WIDTHS} == {
        "Conv_stem": 1, "Conv_in0": 7, "Conv_in1": 24, "Conv_wide": 32,
    }  # fmt: skip
    assert {site.name for site in change.sites} == {"Conv_in0", "Conv_stem"}


@pytest.mark.parametrize(
    ("params", "told"),
    [
        ({"widths": {"nothing": 4}}, "no width begins at 'nothing'"),
        ({"exclude": ["Gemm_scores"]}, "no width begins at 'Gemm_scores'"),
        ({"widths": {"Conv_in0": 25}}, "Conv_in0 has 24 units; it cannot keep 25"),
    ],
)
def test_what_the_graph_does_not_have_is_told(params, told, tmp_path):
    with pytest.raises(MethodError, match=told):
        run(residual_net(), tmp_path, **params)


def test_no_channels_at_all_and_no_samples_are_refused(tmp_path):
    with pytest.raises(Exception, match=r"widths.*greater than or equal to 1"):
        run(residual_net(), tmp_path, widths={"Conv_in0": 0})
    context = methods.Context(calibration=None, work=tmp_path)
    with pytest.raises(MethodError, match="--data"):
        methods.find("prune_channels").apply(
            residual_net(), methods.parameters(Step("prune_channels")), context
        )


def test_heads_are_the_business_of_another_method(tmp_path):
    graph = heads_net()
    with pytest.raises(MethodError, match="MatMul_up0"):
        run(graph, tmp_path, widths={"MatMul_q0": 2})
    change = run(graph, tmp_path, macs=0.8)
    assert {site.name for site in change.sites} <= {"MatMul_up0", "MatMul_up1"}
    assert "normalizes over it" in {s.name: s.reason for s in change.skipped}["MatMul_o0"]


@pytest.mark.parametrize("widths", [{"Conv_in0": 8, "Conv_in1": 8}, {"Conv_stem": 10, "Conv_wide": 12}])
def test_what_is_left_makes_up_for_what_is_gone(widths, tmp_path):
    graph = residual_net()
    solved, cut = (run(graph, tmp_path, widths=widths, fit=fit).graph for fit in (True, False))
    assert made_by(solved) == made_by(cut)
    for seed in (1, 2):  # what it was solved on, and what it never saw
        assert error(graph, solved, seed) < 0.5 * error(graph, cut, seed)
    assert error(graph, solved, 2) < 0.3


def test_channels_that_repeat_others_cost_nothing(tmp_path):
    """Half of a layer's rows are copies of the other half: solved, the outputs are what they were."""
    net = Net(4)
    rows = net.rng.normal(size=(8, 24)).astype(np.float32) / 5
    w = net.constant("w", np.repeat(rows, 2, axis=0))
    x = net.node("Relu", [net.node("Gemm", ["x", w], "h", transB=1)], "r")
    net.node("Gemm", [x, net.weight("v", 16, 3)], "y")
    float_ = TensorProto.FLOAT
    graph = net.graph([("x", float_, ["n", 24])], [("y", float_, ["n", 3])])
    change = run(graph, tmp_path, widths={"Gemm_h": 8})
    left = change.graph.weights["w"].const_value.numpy()
    np.testing.assert_array_equal(np.unique(left, axis=0), np.unique(rows, axis=0))
    assert error(graph, change.graph, 2) < 1e-3


KINDS = ["outputs", "activations", "scale", "l1", "l2", "gradient", "taylor", "fisher", "median", "random"]


@pytest.mark.parametrize("importance", KINDS)
def test_every_kind_of_importance(importance, tmp_path):
    graph = residual_net()
    change = run(graph, tmp_path, macs=0.7, align=4, importance=importance)
    assert share(graph, change.graph) <= 0.7
    assert error(graph, change.graph, 2) < 0.7
    assert all(f"by {importance}" in site.what for site in change.sites)
    reasons = {skip.name: skip.reason for skip in change.skipped}
    if importance == "scale":  # two widths are not normalized
        assert "scale says nothing" in reasons["Conv_wide"]


def test_the_best_kinds_are_better_than_chance(tmp_path):
    graph = residual_net(3)
    widths = {"Conv_in0": 10, "Conv_in1": 10, "Conv_wide": 14}
    errors = {
        kind: error(
            graph, run(graph, tmp_path, widths=widths, importance=kind, fit=kind == "outputs").graph, 2
        )
        for kind in ("outputs", "random")
    }
    assert errors["outputs"] < 0.3 * errors["random"]


def test_what_stays_has_reasons(tmp_path):
    change = run(residual_net(), tmp_path, macs=0.9, align=4, exclude=["Conv_stem", "Conv_wide"])
    reasons = {skip.name: skip.reason for skip in change.skipped}
    assert reasons["Conv_stem"] == reasons["Conv_wide"] == "excluded by the recipe"
    assert reasons["Gemm_scores"] == "scores is an output"
    assert {site.name for site in change.sites} <= {"Conv_in0", "Conv_in1"}
    assert {"Conv_in0", "Conv_in1"} <= reasons.keys() | {site.name for site in change.sites}


def test_a_graph_with_nothing_to_remove(tmp_path):
    net = Net()
    net.node("Gemm", ["x", net.weight("w", 5, 3)], "y")
    graph = net.graph([("x", TensorProto.FLOAT, ["n", 5])], [("y", TensorProto.FLOAT, ["n", 3])])
    change = run(graph, tmp_path)
    assert not change.effective
    assert change.graph.fingerprint == graph.fingerprint
    assert [skip.reason for skip in change.skipped] == ["y is an output"]


def test_all_that_is_asked_may_stay(tmp_path):
    change = run(residual_net(), tmp_path, macs=1.0)
    assert not change.effective
    assert {skip.name for skip in change.skipped} == {*WIDTHS, "Gemm_scores"}


@pytest.mark.parametrize("importance", ["outputs", "random", "fisher"])
def test_the_same_seed_gives_the_same_graph(importance, tmp_path):
    made = [
        run(residual_net(), tmp_path, seed=seed, macs=0.6, align=2, importance=importance).graph.fingerprint
        for seed in (1, 1, 2)
    ]
    assert made[0] == made[1]
    assert (made[0] == made[2]) == (importance == "outputs")


@pytest.mark.parametrize("make", [mlp, lstm])
def test_other_kinds_of_layers(make, tmp_path):
    graph = make()
    change = run(graph, tmp_path, macs=0.9, align=2)
    assert change.effective
    feeds = batch_for(graph, 2, 0)
    assert total_macs(change.graph, feeds) <= 0.9 * total_macs(graph, feeds)
    assert np.isfinite(error(graph, change.graph, 1))


@pytest.mark.parametrize("target", ["onnxruntime", "openvino"])
def test_it_runs_on_targets_and_quantizes(target, tmp_path):
    graph = residual_net()
    change = run(graph, tmp_path, Step("quantize_static"), macs=0.6, align=4)
    narrow = run(graph, tmp_path, macs=0.6, align=4).graph
    assert error(narrow, change.graph, 2) < 0.05
    feeds = batch_for(graph, 4, 2)
    wanted = Evaluator(narrow).run(feeds)["scores"]
    options = targets.options(target, {"threads": 1})
    artifact = targets.find(target).export(narrow, tmp_path, options)
    runner = targets.find(target).open(artifact, tmp_path, options)
    np.testing.assert_allclose(runner.run(feeds)["scores"], wanted, rtol=2e-3, atol=2e-4)
