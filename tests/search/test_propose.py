"""What is tried first, given how fast the targets turned out."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from itertools import islice
from math import inf
from pathlib import Path
from types import SimpleNamespace

import pytest

from hasten.core.budget import Budget, Objective
from hasten.core.errors import TrialError
from hasten.core.measurement import Comparison
from hasten.core.recipe import Recipe
from hasten.core.record import Trial
from hasten.core.target import TargetSpec
from hasten.measuring import Conditions
from hasten.search.advise import advise, given
from hasten.search.build import Built
from hasten.search.candidate import Candidate
from hasten.search.choose import leader
from hasten.search.facts import GraphFacts
from hasten.search.propose import Proposer
from tests.search.test_choose import trial as trial_of_choosing

FACTS = GraphFacts(
    operators=Counter(Conv=3, Gemm=2),
    convolutions=3,
    grouped=0,
    products=2,
    recurrent=0,
    product_share=0.5,
    reuse=50.0,
    quantized=False,
    dynamic=(),
    float_dtype="float",
    parameters=1000,
)


def spec(name: str) -> TargetSpec:
    return TargetSpec(
        name=name,
        runtime=name,
        version="1",
        device="cpu",
        compute_dtypes=frozenset({"float32", "int8", "bfloat16"}),
        instructions=frozenset({"avx512_vnni"}),
    )


def trial(candidate: Candidate, speed: float) -> Trial:
    return Trial(
        id=candidate.id,
        recipe=candidate.recipe,
        target=candidate.target,
        runtime="r",
        options=dict(candidate.options),
        status="ok",
        speedup=Comparison(median=speed, ci95=(speed, speed), verdict="worse"),
    )


def no_kernels(*subjects: object) -> None:
    raise TrialError("this is not a runtime")


def nothing_to_equalize(recipe: Recipe) -> Built:
    return Built(Path("model.onnx"), last_effective=False)


def the_later_the_closer(function: str, arguments: dict[str, list[str]]) -> list[float]:
    """How far the outputs of several graphs are from the original's."""
    assert function == "sensitivity:damages_in_child"
    return [1 / (1 + number) for number, _ in enumerate(arguments["changed"])]


def proposing(objective: Objective = "latency") -> Proposer:
    advice = advise(FACTS, [spec("onnxruntime"), spec("openvino")], 2, has_data=True, objective=objective)
    return Proposer(
        # What is asked of it needs only this.
        lab=SimpleNamespace(  # type: ignore[arg-type]
            budget=Budget(objective=objective),
            workshop=SimpleNamespace(
                apply=nothing_to_equalize, place=lambda built: {}, ask=the_later_the_closer
            ),
            conditions=Conditions(threads=2),
            subject=lambda candidate: candidate,
            kernels=no_kernels,
        ),
        advice=advice,
        baseline=trial(Candidate(Recipe(), "onnxruntime"), 1.0),
        threads=None,
        shapes={},
        samples=0,
        deadline=inf,
        labelled=False,
        structures=(),
    )


@pytest.mark.parametrize(("slower", "faster"), [("onnxruntime", "openvino"), ("openvino", "onnxruntime")])
def test_the_faster_target_has_its_turn_first(slower: str, faster: str) -> None:
    proposer = proposing()
    advice = proposer.advice
    done: list[Trial] = []
    order: list[Candidate] = []
    for candidate in islice(proposer.propose(done), len(advice.candidates)):
        order.append(candidate)
        done.append(trial(candidate, 0.4 if candidate.target == slower else 1.0))
    assert sorted(c.id for c in order) == sorted(c.id for c in advice.candidates)
    steps = [(c.target, [s.method for s in c.recipe.steps]) for c in order]
    assert [m for _, m in steps[:2]] == [["optimize_graph"]] * 2
    assert (order[2].target, order[2].options["precision"]) == ("openvino", "bfloat16")
    assert steps[3] == (faster, ["optimize_graph", "quantize_static"])
    assert steps[4] == (slower, ["optimize_graph", "quantize_static"])
    late = [target for target, _ in steps[5:]]
    assert late == sorted(late, key=lambda target: target == slower)


def test_products_are_convolutions_first_where_bytes_are_not_multiplied() -> None:
    def quantized(facts: GraphFacts, specs: list[TargetSpec]) -> list[tuple[str, object]]:
        advice = advise(facts, specs, 2, has_data=True, objective="latency")
        steps = [(c.target, step) for c in advice.candidates for step in c.recipe.steps]
        return [(t, s.params.get("products", "kept")) for t, s in steps if s.method == "quantize_static"]

    able = [spec("openvino"), spec("onnxruntime")]
    unable = [replace(each, compute_dtypes=each.compute_dtypes - {"int8"}) for each in able]
    assert {products for _, products in quantized(FACTS, able)} == {"kept"}
    assert quantized(FACTS, unable)[:2] == [("openvino", "convolutions"), ("onnxruntime", "convolutions")]
    assert len(quantized(FACTS, unable)) == len(quantized(FACTS, able)) + 2
    assert quantized(replace(FACTS, product_share=0.01), unable) == quantized(FACTS, able)


def test_recurrent_layers_are_tried_in_integers_beside_the_others() -> None:
    def tried(facts: GraphFacts) -> list[tuple[str, list[str]]]:
        specs = [spec("onnxruntime"), spec("openvino")]
        advice = advise(facts, specs, 2, has_data=True, objective="latency")
        return [(c.target, [step.method for step in c.recipe.steps]) for c in advice.candidates]

    both = ("onnxruntime", ["optimize_graph", "quantize_static", "quantize_dynamic"])
    assert tried(replace(FACTS, recurrent=1)).count(both) == 1
    assert both not in tried(FACTS)


def in_order(
    proposer: Proposer, speeds: dict[str, float], bfloat16: float, drop: float = 0.0
) -> list[Candidate]:
    """All that is proposed where each target has its speed, bfloat16 part of it; that alone loses quality."""
    kept, lost = (trial_of_choosing("x", 1.0, loss).quality for loss in (0.0, drop))
    done: list[Trial] = []
    order: list[Candidate] = []
    for candidate in proposer.propose(done):
        order.append(candidate)
        narrow = candidate.options.get("precision") == "bfloat16"
        made = trial(candidate, (bfloat16 if narrow else 1.0) * speeds[candidate.target])
        done.append(made.model_copy(update={"quality": lost if narrow else kept}))
    return order


def test_what_is_unlikely_comes_last() -> None:
    proposer = proposing()
    late = [c.id for c in proposer.advice.candidates[proposer.advice.early :]]
    far = in_order(proposer, {"onnxruntime": 1.0, "openvino": 0.5}, bfloat16=0.8)
    there = [c.id in late for c in far if c.target == "openvino"]
    assert sum(there) == len([c for c in far[-sum(there) :] if c.target == "openvino"]) > 0


@pytest.mark.parametrize(("bfloat16", "drop"), [(0.8, 0.0), (0.5, 0.0), (0.8, 0.2)])
def test_bfloat16_beside_integers_comes_last_where_alone_it_was_of_no_use(
    bfloat16: float, drop: float
) -> None:
    proposer = proposing()
    late = [c.id for c in proposer.advice.candidates[proposer.advice.early :]]
    order = in_order(proposer, {"onnxruntime": 1.0, "openvino": 0.8}, bfloat16, drop)
    there = [c.options.get("precision") for c in order if c.id in late and c.target == "openvino"]
    assert there.count("bfloat16") == 1
    promising = bfloat16 == 0.8 and not drop
    assert there.index("bfloat16") == (0 if promising else len(there) - 1)
    assert (order[-1].options.get("precision") == "bfloat16") == (not promising)


def test_what_is_fast_and_lost_too_much_is_repaired_before_the_rest_is_tried() -> None:
    proposer = proposing()
    done: list[Trial] = []
    for candidate in islice(proposer.propose(done), 7):
        static = candidate.recipe.steps[-1].method == "quantize_static"
        made = trial(candidate, 3.0 if static and candidate.target == "openvino" else 1.0)
        done.append(made.model_copy(update={"status": "rejected"} if static else {}))
    methods = [(t.target, t.recipe.steps[-1].params.get("range")) for t in done]
    assert methods[:2] == [("onnxruntime", None), ("openvino", None)]
    assert done[2].options["precision"] == "bfloat16"
    assert methods[5:] == [("openvino", "mse"), ("onnxruntime", "mse")]
    assert all(t.recipe.steps[-1].method == "quantize_static" for t in done[3:])


@pytest.mark.parametrize("objective", ["latency", "throughput", "size"])
def test_the_best_is_tried_with_other_options_of_its_runtime(objective: Objective) -> None:
    proposer = proposing(objective)
    done: list[Trial] = []
    for candidate in proposer.propose(done):
        fast = candidate.target == "onnxruntime" and not candidate.recipe.steps[1:]
        done.append(trial(candidate, 2.0 if fast else 1.0))
    tried = {name for t in done for name in t.options} - {"threads", "precision", "mode"}
    assert tried == (set() if objective == "size" else {"graph_level", "execution"})


def test_the_original_with_fewer_threads_may_be_the_best() -> None:
    original = Candidate(Recipe(), "onnxruntime", {"threads": 2})
    proposer = replace(proposing(), baseline=trial(original, 1.0))
    faster = {
        "speedup": Comparison(median=2.0, ci95=(2.0, 2.0), verdict="better"),
        "quality": trial_of_choosing("x", 2.0, 0.0).quality,
    }
    done: list[Trial] = []
    for candidate in proposer.propose(done):
        made = trial(candidate, 0.5)
        done.append(made if candidate.recipe.steps else made.model_copy(update=faster))
    best = leader(done, proposer.baseline, proposer.lab.budget)
    assert best is not None
    assert (best.recipe.steps, best.options["threads"]) == ((), 1)


def test_without_data_nothing_that_calibrates_is_tried() -> None:
    advice = advise(FACTS, [spec("openvino")], 2, has_data=False, objective="latency")
    assert all(c.recipe.steps[-1].method != "quantize_static" for c in advice.candidates)
    assert [entry.tried for entry in advice.considered].count(True) == len(advice.candidates)


def test_a_recipe_of_the_users_is_listed_for_each_target_so_that_one_left_untried_shows() -> None:
    specs = [spec("onnxruntime"), spec("openvino")]
    advice = given(Recipe(["optimize_graph"]), specs, 2, "throughput")
    assert [entry.name for entry in advice.considered] == [
        "optimize_graph on onnxruntime",
        "optimize_graph on openvino (mode=throughput)",
    ]
    assert len(advice.candidates) == [entry.tried for entry in advice.considered].count(True) == 2


@pytest.mark.parametrize(
    ("reuse", "parameters", "tried"), [(1.0, 10**8, True), (50.0, 10**8, False), (1.0, 1000, False)]
)
def test_weights_of_4_bits_are_tried_for_speed_where_reading_them_takes_the_time(
    reuse: float, parameters: int, tried: bool
) -> None:
    facts = replace(FACTS, reuse=reuse, parameters=parameters)
    advice = advise(facts, [spec("openvino")], 2, has_data=True, objective="latency")
    steps = [step for c in advice.candidates for step in c.recipe.steps if step.method == "compress_weights"]
    assert [step.params["bits"] for step in steps] == ([4] if tried else [])
