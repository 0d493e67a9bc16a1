"""sparse_learning: what is pushed is gone, the rest makes up for it, and a pruning finds it so."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from correlated_nets import batch_for, heads_net, residual_net, samples_for
from small_graphs import conv_net

from hasten import methods
from hasten.core.errors import MethodError, RecipeError
from hasten.core.recipe import Recipe, Step
from hasten.graph import Graph
from hasten.graph.coupling import couple, mask, prepare
from hasten.graph.evaluate import Evaluator

QUICK = {"epochs": 12, "learning_rate": 3e-4, "batch_size": 16}
LEFT = 0.5


@pytest.fixture
def context(tmp_path):
    return methods.Context(calibration=samples_for(residual_net(), tmp_path / "store"), work=tmp_path)


def learned(graph: Graph, context: methods.Context, **params: object) -> methods.Change:
    return methods.apply(Recipe([Step("sparse_learning", {**QUICK, **params})]), graph, context)


def pruned(graph: Graph, original: Graph, context: methods.Context, **params: object) -> methods.Change:
    recipe = Recipe([Step("prune_channels", {"macs": LEFT, "align": 4, **params})])
    return methods.apply(recipe, graph, replace(context, original=original))


def answers(graph: Graph, seed: int = 5) -> np.ndarray:
    [found] = Evaluator(graph).run(batch_for(graph, 128, seed)).values()
    return found


def error(graph: Graph, original: Graph) -> float:
    wanted = answers(original)
    return float(np.square(answers(graph) - wanted).sum() / np.square(wanted - wanted.mean(axis=0)).sum())


def shapes(graph: Graph) -> dict[str, tuple[int, ...]]:
    return {name: tuple(value.const_value.shape.numpy()) for name, value in graph.weights.items()}


def test_what_is_pushed_is_gone_and_pruning_it_costs_nothing(context):
    graph = residual_net()
    before = graph.fingerprint
    change = learned(graph, context, left=LEFT, align=4, strength=4)
    assert graph.fingerprint == before
    assert shapes(change.graph) == shapes(graph)
    coupling = couple(prepare(change.graph))
    told = {site.name: site.what for site in change.sites if "pushed" in site.what}
    assert told
    zero: list[int] = []
    for name, what in told.items():
        width = coupling.width(name)
        count = int(what.split(" of ")[0])
        assert what.endswith("0.0% of their length left")
        assert f"{count} of {len(width)} channels pushed, {count} of them gone" in what
        rows = [part for part in width.parts if part.role == "made"]
        gone = {
            int(unit)
            for part in rows
            for unit in part.units[
                ~np.moveaxis(change.graph.weights[part.weight].const_value.numpy(), part.axis, 0)
                .reshape(len(part.units), -1)
                .any(axis=1)
            ]
        }
        assert len(gone) == count
        zero += sorted(gone)
    # All weights of these units are zero already, so that masking them changes nothing.
    masked = mask(prepare(change.graph), coupling, zero)
    np.testing.assert_array_equal(answers(masked), answers(change.graph))
    bare = pruned(change.graph, graph, context, fit=False)
    # Removed zeros: the same sums in another order.
    np.testing.assert_allclose(answers(bare.graph), answers(change.graph), rtol=1e-4, atol=1e-5)


def test_less_is_lost_than_without_it(context):
    graph = residual_net()
    change = learned(graph, context, left=LEFT, align=4)
    for fit in (False, True):
        after, without = (pruned(g, graph, context, fit=fit).graph for g in (change.graph, graph))
        # Cut and nothing else; or solved for by least squares, which is what the penalty's path leads to.
        assert error(after, graph) < (1.0 if fit else 0.1) * error(without, graph)


def test_without_steps_worth_the_name_it_leads_to_the_closed_form(context):
    graph = residual_net()
    change = learned(graph, context, left=LEFT, align=4, learning_rate=1e-9)
    assert error(change.graph, graph) == pytest.approx(
        error(pruned(graph, graph, context).graph, graph), rel=0.02
    )


def test_single_weights_for_prune_weights(context):
    graph = residual_net()
    change = learned(graph, context, of="weights", left=0.3, strength=4, exclude=["Gemm_scores"])
    told = {site.name: site.what for site in change.sites if "pushed" in site.what}
    assert "Gemm_scores" not in told
    assert ("Gemm_scores", "excluded by the recipe") in {(s.name, s.reason) for s in change.skipped}
    weight = change.graph.weights["in0.w"].const_value.numpy()
    pushed = round(0.7 * weight.size)
    gone = int(told["Conv_in0"].split(", ")[1].split(" ")[0])
    assert told["Conv_in0"].startswith(f"{pushed} of {weight.size} weights pushed")
    # A single weight has a gradient at zero, too, and the last steps may lift a few.
    assert 0.95 * pushed < gone <= (np.abs(weight) < 1e-3).sum()
    step = Step("prune_weights", {"sparsity": 0.7, "min_elements": 0, "exclude": ["Gemm_scores"]})
    after, without = (methods.apply(Recipe([step]), g, context).graph for g in (change.graph, graph))
    assert error(after, change.graph) < 0.01
    assert error(after, graph) < 0.5 * error(without, graph)


def test_heads_for_prune_heads(tmp_path):
    graph = heads_net()
    context = methods.Context(calibration=samples_for(graph, tmp_path / "store"), work=tmp_path)
    change = learned(graph, context, of="heads", left=0.5, strength=4)
    told = [site for site in change.sites if "heads pushed" in site.what]
    assert {site.name for site in told} <= {"MatMul_q0", "MatMul_q1", "MatMul_k0", "MatMul_k1"} | {
        "MatMul_v0",
        "MatMul_v1",
    }
    assert sum(int(site.what.split(" ")[0]) for site in told) == 4
    step = Step("prune_heads", {"heads": 0.5, "fit": False})
    after, without = (methods.apply(Recipe([step]), g, context).graph for g in (change.graph, graph))
    assert error(after, graph) < 0.5 * error(without, graph)


def test_a_weak_penalty_shortens_and_does_not_remove(context):
    change = learned(residual_net(), context, left=LEFT, align=4, strength=0.2, epochs=1)
    told = [site.what for site in change.sites if "pushed" in site.what]
    assert told
    for what in told:
        assert ", 0 of them gone" in what
        # A fifth is lost in all; what a few steps of this learning rate move is little beside it.
        assert 70 < float(what.split("; ")[1].split("%")[0]) < 90


def test_labels_alone_need_no_original(tmp_path):
    from tests.train.nets import classifier, separable

    context = methods.Context(calibration=separable(tmp_path / "data", 160), work=tmp_path)
    change = learned(classifier(), context, left=0.6, align=4, alpha=1.0, learning_rate=0.01, strength=4)
    batch = context.calibration.gather(context.calibration.indices)
    right = [
        np.mean(Evaluator(g).run({"x": batch.inputs["x"]})["logits"].argmax(1) == batch.labels)
        for g in (classifier(), change.graph)
    ]
    assert right[1] > 0.9 > right[0]


def test_what_is_not_trained_is_not_pushed(context):
    graph = residual_net()
    change = learned(graph, context, left=LEFT, align=4, strength=4, trainable="*.w")
    for name, value in graph.weights.items():
        if not name.endswith(".w"):
            after = change.graph.weights[name].const_value.numpy()
            np.testing.assert_array_equal(after, value.const_value.numpy())
    assert any("of them gone" in site.what for site in change.sites)


@pytest.mark.parametrize("name", ["importance", "scope", "align"])
def test_what_single_weights_ignore_is_refused(name):
    value = {"importance": "l2", "scope": "local", "align": 2}[name]
    with pytest.raises(RecipeError, match=f"{name} says nothing of single weights"):
        methods.parameters(Step("sparse_learning", {"of": "weights", name: value}))


def test_what_is_missing_is_said(context):
    graph = residual_net()
    with pytest.raises(MethodError, match="set alpha to 0"):
        learned(graph, context, alpha=0.5)
    with pytest.raises(MethodError, match="no width begins at 'nothing'"):
        learned(graph, context, exclude=["nothing"])
    with pytest.raises(MethodError, match="no layer is called 'nothing'"):
        learned(graph, context, of="weights", exclude=["nothing"])
    with pytest.raises(MethodError, match="--data"):
        methods.find("sparse_learning").apply(
            graph, methods.parameters(Step("sparse_learning")), replace(context, calibration=None)
        )


def test_a_graph_without_heads_is_left(tmp_path):
    from small_graphs import calibration_for

    graph = conv_net()
    context = methods.Context(calibration=calibration_for(graph, Path(tmp_path / "store")), work=tmp_path)
    change = learned(graph, context, of="heads")
    assert not change.effective
    assert change.graph.fingerprint == graph.fingerprint
