"""iterate: rounds as scheduled, judged by samples no step sees, undone beyond the bound."""

from __future__ import annotations

import itertools
from dataclasses import replace

import numpy as np
import pytest
from branch_nets import residual_net as blocks_net
from correlated_nets import batch_for, heads_net, residual_net, samples_for

from hasten import methods
from hasten.core.data import Calibration, StoreWriter
from hasten.core.errors import MethodError, RecipeError
from hasten.core.recipe import Recipe, Step
from hasten.graph import Graph
from hasten.graph.cost import total_macs
from hasten.graph.evaluate import Evaluator
from hasten.methods._observe.outputs import Outputs
from hasten.methods._rounds.schedule import asked, left_after
from hasten.train.order import hold_back

CHANNELS = {"prune_channels": {"align": 1, "fit": False}}


@pytest.fixture
def context(tmp_path):
    return methods.Context(calibration=samples_for(residual_net(), tmp_path / "store"), work=tmp_path)


def run(graph: Graph, context: methods.Context, **params: object) -> methods.Change:
    return methods.apply(Recipe([Step("iterate", params)]), graph, context)


def share(graph: Graph, changed: Graph) -> float:
    feeds = batch_for(graph, 1, 0)
    return total_macs(changed, feeds) / total_macs(graph, feeds)


def told(change: methods.Change) -> list[str]:
    return [note.removeprefix("iterate: ") for note in change.notes]


def zeros(graph: Graph, name: str) -> float:
    return float(np.mean(graph.weights[name].const_value.numpy() == 0))


@pytest.mark.parametrize(
    "shrink",
    [
        {"prune_channels": {"align": 4}},
        {"prune_channels": {"importance": "l2", "scope": "local", "fit": False}},
        {"prune_weights": {"min_elements": 0}},
        {"factorize": {"align": 1}},
    ],
)
def test_one_round_is_the_step_itself(shrink, context):
    graph = residual_net()
    [(name, params)] = shrink.items()
    amount = {"prune_channels": {"macs": 0.6}, "prune_weights": {"sparsity": 0.4}}
    alone = {**params, **amount.get(name, {"rank": "macs", "keep": 0.6})}
    wanted = methods.apply(Recipe([Step(name, alone)]), graph, context)
    found = run(graph, context, shrink=shrink, to=0.6, rounds=1, held_back=0)
    assert found.graph.fingerprint == wanted.graph.fingerprint
    assert [site.what for site in found.sites] == [f"round 1: {site.what}" for site in wanted.sites]
    assert len(found.notes) == 1
    assert found.notes[0].endswith(": kept")


def test_rounds_leave_what_the_schedule_says(context):
    graph = residual_net()
    before = graph.fingerprint
    change = run(graph, context, shrink=CHANNELS, to=0.4, rounds=3)
    assert graph.fingerprint == before
    left = [float(note.split(": ")[1].split("%")[0]) / 100 for note in told(change)]
    for number, found in enumerate(left, start=1):
        # Whole channels: a little less than asked for, which the next round makes up for.
        assert 0.9 * 0.4 ** (number / 3) < found <= 0.4 ** (number / 3)
    assert share(graph, change.graph) == pytest.approx(left[-1], abs=1e-3)


@pytest.mark.parametrize("bound", [0.001, 0.005, 0.01])
def test_no_result_lies_beyond_the_bound(bound, context):
    graph = residual_net()
    params = {"shrink": CHANNELS, "to": 0.3, "rounds": 3}
    free, bounded = run(graph, context, **params), run(graph, context, largest_loss=bound, **params)
    notes = told(bounded)
    assert any(note.endswith(": undone") for note in notes)
    kept = [note for note in notes if note.endswith(": kept")]
    for note in kept:
        assert float(note.split("error ")[1].split(":")[0]) <= bound
    assert share(graph, bounded.graph) > share(graph, free.graph)
    assert "to take less than that costs too much" in notes[-1]
    # The samples that judge are of the calibration's distribution, and so are these.
    judges = samples_for(graph, context.work / f"judge{bound}", 96)
    assert Outputs(graph, judges, context).error(bounded.graph) < 2 * bound
    assert bounded.effective == bool(kept)


def test_where_every_round_costs_too_much_the_graph_stays(context):
    graph = residual_net()
    change = run(graph, context, shrink=CHANNELS, to=0.3, rounds=2, halvings=1, largest_loss=1e-9)
    assert not change.effective
    assert change.graph.fingerprint == graph.fingerprint
    assert change.skipped[0].reason == "no round took something and lost little enough"
    assert sum("undone" in note for note in told(change)) == 2


def test_recovery_allows_more_to_be_taken(context):
    graph = residual_net()
    params = {"shrink": CHANNELS, "to": 0.3, "rounds": 3, "largest_loss": 0.005}
    without = run(graph, context, **params)
    mended = run(graph, context, recover=[{"reconstruct": {"steps": 12}}], **params)
    assert share(graph, mended.graph) < share(graph, without.graph)
    first = told(mended)[0]
    assert float(first.split(", ")[2].split(" recovered")[0]) < float(first.split("error ")[1].split(",")[0])


def test_recovery_learns_from_the_original_and_not_from_the_round_before(context):
    graph = residual_net()
    seen: list[str] = []
    context = replace(context, progress=lambda what, done: seen.append(what))
    recover = [{"distill": {"epochs": 2, "learning_rate": 1e-3}}]
    change = run(graph, context, shrink=CHANNELS, to=0.6, rounds=2, recover=recover)
    assert not any("still the teacher" in skip.reason for skip in change.skipped)
    assert {"round 1: learning from the original", "round 2: learning from the original"} <= set(seen)
    assert any(site.what.startswith("round 2: trained") for site in change.sites)


def test_zeros_follow_the_cubic_schedule_and_stay_through_training(context):
    graph = residual_net()
    shrink = {"prune_weights": {"min_elements": 0}}
    recover = [{"distill": {"epochs": 1, "learning_rate": 1e-3}}]
    change = run(graph, context, shrink=shrink, to=0.3, rounds=2, recover=recover)
    assert zeros(change.graph, "in0.w") == pytest.approx(0.7, abs=1e-3)
    [site] = [site for site in change.sites if site.name == "Conv_in0"]
    assert site.what.startswith("round 1: 61.")
    assert not any("filled" in note for note in told(change))
    filling = [{"distill": {"epochs": 1, "learning_rate": 1e-3, "keep_zeros": False}}]
    change = run(graph, context, shrink=shrink, to=0.3, rounds=2, recover=filling)
    assert zeros(change.graph, "in0.w") < 0.2
    assert sum("zeros again" in note for note in told(change)) == 2


def test_heads_and_branches_are_counted(tmp_path):
    graph = heads_net()
    context = methods.Context(calibration=samples_for(graph, tmp_path / "heads"), work=tmp_path)
    change = run(graph, context, shrink="prune_heads", to=0.5, rounds=2)
    assert told(change)[-1].startswith("round 2: 50.0% left")
    graph = blocks_net()
    context = replace(context, calibration=samples_for(graph, tmp_path / "blocks"))
    change = run(graph, context, shrink="prune_layers", to=0.5, rounds=3)
    dropped = [site.what for site in change.sites]
    assert len(dropped) == sum(note.endswith("kept") for note in told(change))


@pytest.mark.parametrize(
    ("params", "told"),
    [
        (
            {"shrink": "cast"},
            r"iterate\.shrink: .*cast cannot take away more and more; these can: prune_layers",
        ),
        ({"shrink": "no_such"}, r"iterate\.shrink: .*unknown method 'no_such'"),
        ({"shrink": {"prune_channels": {"macs": 0.3}}}, "prune_channels.macs is set anew in every round"),
        ({"shrink": {"prune_channels": {"scope": "x"}}}, r"shrink\.prune_channels\.scope"),
        ({"shrink": {"prune_weights": {"pattern": "2:4"}}}, "leave sparsity out"),
        ({"shrink": 3}, r"iterate\.shrink"),
        ({"shrink": "iterate"}, r"iterate\.shrink: rounds inside of rounds"),
        ({"recover": ["iterate"]}, r"iterate\.recover: .*rounds inside of rounds"),
        ({"recover": [{"distill": {"epochs": -1}}]}, r"recover\[0\]\.distill\.epochs"),
        ({"recover": "distill"}, "recover is a list of steps"),
        ({"to": 1.5}, r"iterate\.to"),
    ],
)
def test_steps_are_checked_before_any_work(params, told):
    with pytest.raises(RecipeError, match=told):
        methods.validate(Recipe([Step("iterate", params)]))


def test_a_recipe_with_rounds_survives_its_forms(tmp_path):
    params = {
        "shrink": {"prune_channels": {"importance": "l2"}},
        "to": 0.4,
        "recover": [{"distill": {"epochs": 1}}, "reconstruct"],
    }
    recipe = Recipe([Step("iterate", params)])
    (tmp_path / "recipe.yaml").write_text(recipe.to_yaml())
    again = Recipe.read(tmp_path / "recipe.yaml")
    assert again == recipe
    assert again.fingerprint == recipe.fingerprint
    made = methods.parameters(again.steps[0])
    assert made.shrink == Step("prune_channels", {"importance": "l2"})
    assert [step.method for step in made.recover] == ["distill", "reconstruct"]
    assert hash(made) == hash(methods.parameters(recipe.steps[0]))


def test_what_is_missing_is_said(context):
    graph = residual_net()
    with pytest.raises(MethodError, match="--data"):
        run(graph, replace(context, calibration=None))
    with pytest.raises(MethodError, match="labels"):
        run(graph, context, recover=["finetune"])


def test_the_samples_that_judge_are_seen_by_no_step(context):
    graph = residual_net()
    [(name, values)] = batch_for(graph, 96, 1).items()
    _, judges = hold_back(range(96), 0.25, 0)
    writer = StoreWriter(context.work / "other", [name])
    for i, value in enumerate(values):
        writer.append({name: 10 * value if i in judges else value})
    other = replace(context, calibration=Calibration(writer.close(), range(96)))
    params = {"shrink": {"prune_channels": {"align": 4}}, "to": 0.6, "rounds": 2, "held_back": 0.25}
    first, second = run(graph, context, **params), run(graph, other, **params)
    assert first.graph.fingerprint == second.graph.fingerprint
    assert first.notes != second.notes


def test_schedules_end_where_they_should():
    for form in ("geometric", "cubic"):
        shares = [left_after(form, p / 10, 0.2) for p in range(11)]
        assert shares[0] == 1
        assert shares[-1] == pytest.approx(0.2)
        assert all(a > b for a, b in itertools.pairwise(shares))
    ratios = [
        left_after("geometric", p / 4, 0.2) / left_after("geometric", (p + 1) / 4, 0.2) for p in range(4)
    ]
    np.testing.assert_allclose(ratios, ratios[0])
    # Zhu and Gupta's equation 1 with s_i = 0, s_f = 0.8, t_0 = 0 and n Δt = 1: at half of it 0.8 (1 - 1/8).
    assert left_after("cubic", 0.5, 0.2) == pytest.approx(1 - 0.8 * 7 / 8)


def test_what_is_asked_leads_to_the_target():
    left, removed, zero = (methods.Amount(parameter="p", says=s) for s in ("left", "removed", "zeros"))
    assert asked(left, 0.5, 0.8) == pytest.approx(0.625)
    assert asked(removed, 0.5, 0.8) == pytest.approx(0.375)
    assert asked(zero, 0.5, 0.8) == pytest.approx(0.5)
    assert asked(left, 0.8, 0.8) is None
    assert asked(removed, 0.9, 0.8) is None


def test_the_changed_graph_answers(context):
    graph = residual_net()
    change = run(graph, context, to=0.5, rounds=2)
    [found] = Evaluator(change.graph).run(batch_for(graph, 4, 9)).values()
    assert np.isfinite(found).all()
