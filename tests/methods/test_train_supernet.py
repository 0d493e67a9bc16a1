"""train_supernet: a part is the pruned graph, all of them learn in one training, and a pruning finds them."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from correlated_nets import batch_for, heads_net, residual_net, samples_for
from hypothesis import given, settings
from hypothesis import strategies as st

from hasten import methods
from hasten.bridge import to_torch
from hasten.core.errors import MethodError, RecipeError
from hasten.core.recipe import Recipe, Step
from hasten.graph import Graph
from hasten.graph.coupling import couple, prepare, shrink
from hasten.graph.evaluate import Evaluator
from hasten.methods._narrow.nested import remembered
from hasten.methods._supernet.parts import Parts
from hasten.methods.train_supernet import Params, _aim, ordered

QUICK = {"epochs": 40, "learning_rate": 3e-4, "batch_size": 16, "align": 4, "least": 0.5}
LEFT = (0.8, 0.6, 0.4)


@pytest.fixture
def context(tmp_path):
    return methods.Context(calibration=samples_for(residual_net(), tmp_path / "store"), work=tmp_path)


def trained(graph: Graph, context: methods.Context, **params: object) -> methods.Change:
    return methods.apply(Recipe([Step("train_supernet", {**QUICK, **params})]), graph, context)


def pruned(graph: Graph, context: methods.Context, **params: object) -> methods.Change:
    return methods.apply(Recipe([Step("prune_channels", {"align": 4, **params})]), graph, context)


def answers(graph: Graph, seed: int = 5) -> np.ndarray:
    """Scores about their mean of each sample: what is the same for all classes is not learned."""
    [found] = Evaluator(graph).run(batch_for(graph, 128, seed)).values()
    return found - found.mean(axis=1, keepdims=True)


def error(graph: Graph, original: Graph) -> float:
    wanted = answers(original)
    return float(np.square(answers(graph) - wanted).sum() / np.square(wanted - wanted.mean(axis=0)).sum())


@settings(max_examples=15, deadline=None)
@given(step=st.integers(0, 10_000), which=st.sampled_from([(residual_net, "channels"), (heads_net, "heads")]))
def test_a_part_computes_what_the_pruned_graph_computes(step, which, tmp_path_factory):
    make, of = which
    graph, folder = make(), tmp_path_factory.mktemp("part")
    context = methods.Context(calibration=samples_for(graph, folder / "store"), work=folder)
    found = ordered(graph, _aim(Params(of=of, align=2, least=0.3)), context)
    parts = Parts(found, least=0.3, between=2, seed=0)
    module = to_torch(found.graph).eval()
    feeds = batch_for(graph, 8, 1)
    masks = parts.masks(step)
    assert len(masks) == 3
    for mask in masks:
        with module.masked({name: torch.from_numpy(array) for name, array in mask.items()}), torch.no_grad():
            masked = module(**{name: torch.from_numpy(array) for name, array in feeds.items()}).numpy()
        gone = _units(found, mask)
        [alone] = Evaluator(shrink(found.graph, found.coupling, gone)).run(feeds).values()
        np.testing.assert_allclose(masked, alone, rtol=1e-4, atol=1e-5)
    assert masks[0]
    assert [sorted(m) for m in parts.masks(step)] == [sorted(m) for m in masks]


def _units(found, mask) -> list[int]:
    """The units that a part does without, read off its masks."""
    gone: set[int] = set()
    for width in found.coupling.widths:
        for part in width.parts:
            if part.weight in mask and part.role == "made":
                rows = np.broadcast_to(mask[part.weight], found.graph.weights[part.weight].shape.numpy())
                flat = np.moveaxis(rows, part.axis, 0).reshape(len(part.units), -1)
                gone |= {int(unit) for unit in part.units[~flat.any(axis=1)]} - {0}
    return sorted(gone)


def test_one_training_makes_every_width_better(context):
    graph = residual_net()
    before = graph.fingerprint
    change = trained(graph, context)
    assert graph.fingerprint == before
    assert any(site.what.endswith("trained to do with 12 of them") for site in change.sites)
    assert error(change.graph, graph) < 0.4
    behind = replace(context, original=graph)
    for left in LEFT:
        cut = {"macs": left, "fit": False, "scope": "local"}
        after = pruned(change.graph, behind, importance="supernet", **cut).graph
        assert error(after, graph) < 0.7 * error(pruned(graph, context, **cut).graph, graph)


def test_parts_are_found_again_from_a_file_and_in_two_steps(context, tmp_path):
    graph = residual_net()
    change = trained(graph, context, epochs=1)
    change.graph.write(tmp_path / "supernet.onnx")
    read = Graph.open(tmp_path / "supernet.onnx")
    orders = remembered(read)
    widths = {width.name: len(width) for width in couple(prepare(graph)).widths}
    assert orders.keys() == widths.keys()
    # Half of each may go, and no more.
    assert all(len(set(units)) == len(units) == widths[name] // 2 for name, units in orders.items())
    narrowest = pruned(read, context, macs=0.01, importance="supernet", fit=False).graph
    left = {width.name: len(width) for width in couple(prepare(narrowest)).widths}
    assert left == {name: count // 2 for name, count in widths.items()}
    name = "Conv_in0"
    params = {"importance": "supernet", "fit": False}
    once = pruned(read, context, widths={name: 12}, **params).graph
    twice = pruned(
        pruned(read, context, widths={name: 16}, **params).graph, context, widths={name: 12}, **params
    )
    np.testing.assert_array_equal(answers(twice.graph), answers(once))
    assert len(remembered(once)[name]) == len(orders[name]) - (widths[name] - 12)


@pytest.mark.parametrize("said", ["{", "[1]", '{"Conv_in0": "all"}'])
def test_an_order_that_cannot_be_read_is_none(context, said):
    graph = residual_net()
    graph.ir_model.metadata_props["hasten.supernet"] = said
    assert pruned(graph, context, macs=0.8).sites
    with pytest.raises(MethodError, match="keeps no order"):
        pruned(graph, context, importance="supernet", fit=False)


@pytest.mark.parametrize("units", [[0, 0], [99], [-1], [*range(24)]])
def test_an_order_that_cannot_be_is_not_followed(context, units):
    graph = residual_net()
    graph.ir_model.metadata_props["hasten.supernet"] = json.dumps({"Conv_in0": units})
    change = pruned(graph, context, importance="supernet", fit=False)
    assert not change.sites
    reasons = {skip.name: skip.reason for skip in change.skipped}
    assert reasons["Conv_in0"] == "importance by supernet says nothing of its channels"


def test_heads_and_excluded_widths(tmp_path):
    graph = heads_net()
    context = methods.Context(calibration=samples_for(graph, tmp_path / "store"), work=tmp_path)
    change = trained(graph, context, of="heads", align=None, exclude=["MatMul_q0"])
    assert set(remembered(change.graph)) == {"MatMul_q1"}
    assert ("MatMul_q0", "excluded by the recipe") in {(s.name, s.reason) for s in change.skipped}
    recipe = Recipe([Step("prune_heads", {"heads": 0.5, "importance": "supernet", "fit": False})])
    cut = methods.apply(recipe, change.graph, replace(context, original=graph))
    assert {site.name for site in cut.sites} == {"MatMul_q1"}
    assert error(cut.graph, graph) < 0.05


def test_what_is_missing_or_would_be_ignored_is_refused(context, tmp_path):
    graph = residual_net()
    with pytest.raises(MethodError, match="importance by supernet: the model keeps no order"):
        pruned(graph, context, importance="supernet")
    with pytest.raises(MethodError, match="no labels; set alpha to 0"):
        trained(graph, context, alpha=0.5)
    with pytest.raises(MethodError, match="needs data to calibrate on"):
        trained(graph, methods.Context(calibration=None, work=tmp_path))
    with pytest.raises(RecipeError, match="least"):
        trained(graph, context, least=1.0)
    with pytest.raises(MethodError, match="no width begins at 'elsewhere'"):
        trained(graph, context, exclude=["elsewhere"])
