"""prune_heads: whole heads or places inside them, as many as asked, and what is left makes up for them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from correlated_nets import batch_for, heads_net, residual_net, samples_for
from small_graphs import attention, calibration_for, feeds_of

import hasten
from hasten import methods, targets
from hasten.core.errors import MethodError
from hasten.core.recipe import Recipe, Step
from hasten.graph import Graph
from hasten.graph.cost import total_macs
from hasten.graph.evaluate import Evaluator


def run(graph: Graph, folder: Path, *more: Step, seed: int = 0, **params: object) -> methods.Change:
    store = folder / f"store{len(list(folder.iterdir()))}"
    context = methods.Context(calibration=samples_for(graph, store), work=folder, seed=seed)
    return methods.apply(Recipe([Step("prune_heads", params), *more]), graph, context)


def error(graph: Graph, changed: Graph, seed: int) -> float:
    """Of the outputs, over what varies in them; the calibration has the seed 1."""
    feeds = batch_for(graph, 96, seed)
    [wanted], [found] = (list(Evaluator(g).run(feeds).values()) for g in (graph, changed))
    assert found.shape == wanted.shape
    return float(np.square(found - wanted).sum() / np.square(wanted - wanted.mean(axis=0)).sum())


def rows(graph: Graph, letter: str) -> list[int]:
    """How many columns the weights of that name have, layer by layer."""
    return [int(graph.weights[f"{letter}{i}.w"].const_value.shape[1]) for i in range(2)]


def test_whole_heads_go(tmp_path):
    graph = heads_net()
    before = graph.fingerprint
    change = run(graph, tmp_path, heads=0.75)
    assert graph.fingerprint == before
    left = rows(change.graph, "q")
    assert sum(left) == 0.75 * 2 * 24
    assert all(count % 6 == 0 for count in left)
    assert left == rows(change.graph, "k") == rows(change.graph, "v")
    assert change.notes == ("75.0% of the heads are left",)
    for site in change.sites:
        count = left[int(site.name[-1])] // 6
        assert site.what.startswith(f"{count} of 4 heads left")
    feeds = batch_for(graph, 1, 0)
    assert total_macs(change.graph, feeds) < total_macs(graph, feeds)
    assert rows(change.graph, "up") == [48, 48]


def test_the_same_share_of_each_layer(tmp_path):
    graph = run(heads_net(), tmp_path, heads=0.5, scope="local").graph
    assert rows(graph, "q") == [12, 12]


def test_single_layers_as_asked(tmp_path):
    change = run(heads_net(), tmp_path, widths={"MatMul_q1": 1})
    assert rows(change.graph, "v") == [24, 6]
    assert [site.name for site in change.sites] == ["MatMul_q1"]


def test_places_inside_heads_go(tmp_path):
    change = run(heads_net(), tmp_path, inside=True, heads=0.6, importance="l2", scope="local")
    for letter in "qkv":
        assert all(0 < count < 24 and count % 4 == 0 for count in rows(change.graph, letter))
    assert rows(change.graph, "q") == rows(change.graph, "k")
    assert all("places in each head left" in site.what for site in change.sites)


def test_inside_heads_what_is_read_says_something_of_values_only(tmp_path):
    change = run(heads_net(), tmp_path, inside=True, heads=0.8)
    assert {site.name for site in change.sites} <= {"MatMul_v0", "MatMul_v1"}
    reasons = {skip.name: skip.reason for skip in change.skipped}
    assert "says nothing" in reasons["MatMul_q0"]


@pytest.mark.parametrize("widths", [{"MatMul_q0": 2, "MatMul_q1": 2}, {"MatMul_q1": 1}])
def test_what_is_left_makes_up_for_what_is_gone(widths, tmp_path):
    graph = heads_net()
    solved, cut = (run(graph, tmp_path, widths=widths, fit=fit).graph for fit in (True, False))
    assert rows(solved, "q") == rows(cut, "q")
    for seed in (1, 2):  # what it was solved on, and what it never saw
        assert error(graph, solved, seed) < 0.7 * error(graph, cut, seed)


KINDS = ["outputs", "activations", "l1", "l2", "gradient", "taylor", "fisher", "median", "random"]


@pytest.mark.parametrize("importance", KINDS)
def test_every_kind_of_importance(importance, tmp_path):
    graph = heads_net()
    change = run(graph, tmp_path, importance=importance)
    assert sum(rows(change.graph, "q")) == 36
    assert error(graph, change.graph, 2) < 0.3


def test_normalization_has_no_scale_for_heads(tmp_path):
    change = run(heads_net(), tmp_path, importance="scale")
    assert not change.effective
    assert all("scale says nothing" in skip.reason for skip in change.skipped)


def test_what_is_asked_wrongly_is_told(tmp_path):
    with pytest.raises(MethodError, match=r"no width begins at 'MatMul_up0'.*MatMul_q0"):
        run(heads_net(), tmp_path, widths={"MatMul_up0": 8})
    with pytest.raises(MethodError, match="has 4 units; it cannot keep 5"):
        run(heads_net(), tmp_path, widths={"MatMul_q0": 5})
    with pytest.raises(MethodError, match="no width begins at 'x'"):
        run(heads_net(), tmp_path, exclude=["x"])
    with pytest.raises(MethodError, match="--data"):
        methods.find("prune_heads").apply(
            heads_net(),
            methods.parameters(Step("prune_heads")),
            methods.Context(calibration=None, work=tmp_path),
        )


def test_excluded_layers_keep_their_heads(tmp_path):
    change = run(heads_net(), tmp_path, heads=0.5, exclude=["MatMul_q0"])
    assert rows(change.graph, "q")[0] == 24
    assert ("MatMul_q0", "excluded by the recipe") in {(s.name, s.reason) for s in change.skipped}


def test_a_graph_without_attention(tmp_path):
    graph = residual_net()
    change = run(graph, tmp_path)
    assert not change.effective
    assert change.graph.fingerprint == graph.fingerprint


@pytest.mark.parametrize("importance", ["outputs", "random"])
def test_the_same_seed_gives_the_same_graph(importance, tmp_path):
    first, second = (
        run(heads_net(), tmp_path, seed=3, heads=0.5, importance=importance).graph.fingerprint
        for _ in range(2)
    )
    assert first == second


def test_masks_and_lengths_that_vary(tmp_path):
    graph = attention()
    context = methods.Context(calibration=calibration_for(graph, tmp_path / "store"), work=tmp_path)
    change = methods.apply(Recipe([Step("prune_heads", {"heads": 0.5})]), graph, context)
    assert [site.what[:17] for site in change.sites] == ["2 of 4 heads left"]
    feeds = feeds_of(graph)
    wanted, found = (Evaluator(g).run(feeds) for g in (graph, change.graph))
    assert {name: value.shape for name, value in found.items()} == {n: v.shape for n, v in wanted.items()}


@pytest.mark.parametrize("target", ["onnxruntime", "openvino"])
def test_it_composes_and_runs_on_targets(target, tmp_path):
    graph = heads_net()
    more = Step("prune_channels", {"macs": 0.85}), Step("quantize_static")
    change = run(graph, tmp_path, *more)
    narrow = run(graph, tmp_path, more[0]).graph
    assert sum(rows(narrow, "q")) == 36
    assert sum(rows(narrow, "up")) < 96
    assert error(narrow, change.graph, 2) < 0.05
    feeds = batch_for(graph, 4, 2)
    options = targets.options(target, {"threads": 1})
    artifact = targets.find(target).export(narrow, tmp_path, options)
    found = targets.find(target).open(artifact, tmp_path, options).run(feeds)["y"]
    np.testing.assert_allclose(found, Evaluator(narrow).run(feeds)["y"], rtol=2e-3, atol=2e-4)


@pytest.mark.parametrize("batch_first", [True, False])
def test_heads_of_torch_layers(batch_first):
    """On the way they are joined with the samples, however many these are."""
    torch = pytest.importorskip("torch")
    torch.manual_seed(0)
    layer = torch.nn.TransformerEncoderLayer(16, 4, 32, batch_first=batch_first)
    module = torch.nn.TransformerEncoder(layer, 1, enable_nested_tensor=False).eval()
    whole = hasten.apply(hasten.read(module, inputs=["src=2x6x16"]), Recipe([Step("optimize_graph")])).graph
    samples = {"src": np.random.default_rng(0).normal(size=(40, 6, 16)).astype(np.float32)}
    changed = hasten.apply(whole, Recipe([Step("prune_heads", {"heads": 0.5})]), samples)
    [_] = changed.sites
    # Two of four heads: 8 of 16 queries, keys and values, and what reads these.
    sizes = [
        sum(value.const_value.size for value in graph.weights.values() if len(value.shape) == 2)
        for graph in (whole, changed.graph)
    ]
    assert sizes[0] - sizes[1] == 3 * 8 * 16 + 8 * 16
    for count in (1, 5):
        seen = {"src": samples["src"][:count]}
        before, after = (next(iter(Evaluator(graph).run(seen).values())) for graph in (whole, changed.graph))
        assert after.shape == before.shape
        assert 0 < np.square(after - before).mean() < 0.3 * before.var()
