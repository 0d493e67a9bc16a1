"""Which smaller structures are tried, given what became of those before."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from time import monotonic, sleep
from types import SimpleNamespace

import pytest

from hasten import methods
from hasten.core.budget import Budget
from hasten.core.errors import TrialError
from hasten.core.layers import Kernel, LayerCost
from hasten.core.measurement import Comparison, Measurement
from hasten.core.recipe import Recipe, Step
from hasten.core.record import Trial
from hasten.measuring import Conditions
from hasten.search.aligned import Alignment
from hasten.search.build import Built, Cost, Training
from hasten.search.candidate import Candidate
from hasten.search.facts import GraphFacts
from hasten.search.families import SLIM, Family, families
from hasten.search.shares import Shares
from hasten.search.smaller import Shrinker
from tests.search.test_choose import quality

CLEAN, INT8 = Step("optimize_graph"), Step("quantize_static")


def trial(candidate: Candidate, speed: float, drop: float) -> Trial:
    lost = quality(drop)
    return Trial(
        id=candidate.id,
        recipe=candidate.recipe,
        target=candidate.target,
        runtime="r",
        options=dict(candidate.options),
        status="rejected" if lost.budget == "missed" else "ok",
        speedup=Comparison(median=speed, ci95=(speed, speed), verdict="better"),
        latency_ms=Measurement(unit="ms", median=1.0, ci95=(1.0, 1.0), rounds=1, spread=0.0, samples=(1.0,)),
        quality=lost,
    )


def shrinker(
    works: Callable[[str], bool],
    samples: int = 30,
    seconds: float = 1000.0,
    families: tuple[Family, ...] = ("narrower", "shallower", "thinner"),
    profiled: int = 1,
    takes_s: float = 0.0,
) -> Shrinker:
    """profiled: versions of which kernels can be read in one go. takes_s: to apply a recipe."""

    def slim(recipe: Recipe) -> bool:
        return any(step in SLIM for step in recipe.steps)

    def apply(recipe: Recipe) -> Built:
        path = Path(recipe.fingerprint).with_suffix(".slim" if slim(recipe) else "")
        return Built(path, last_effective=works(recipe.steps[-1].method), seconds=takes_s)

    def cost(built: Built) -> Cost:
        layers = ("Conv_a", 900), ("Relu_a", 0), ("Conv_b", 100)
        return Cost(
            tuple(
                LayerCost(
                    name=name,
                    op_type="Conv",
                    macs=macs // (4 if built.path.suffix else 1),
                    moved=10 // (2 if built.path.suffix else 1),
                    parameters=0,
                    weight_bytes=0,
                    dtype="float32",
                    output_shape="1",
                )
                for name, macs in layers
            ),
            parameters=int(built.path.stem, 16),  # as many as no other graph has
            nonzero_parameters=0,
        )

    def kernels(*subjects: Candidate) -> list[tuple[Kernel, ...]]:
        if len(subjects) > profiled:
            raise TrialError("so many cannot be read")
        return [
            (
                Kernel(
                    name="a",
                    op_type="Conv",
                    kind="brgemm",
                    precision="int8",
                    layers=("Conv_a", "Relu_a"),
                    time_us=(4.56 if slim(subject.recipe) else 12.3456),
                ),
            )
            for subject in subjects
        ]

    return Shrinker(
        # What is asked of it needs only this.
        lab=SimpleNamespace(  # type: ignore[arg-type]
            budget=Budget(),
            workshop=SimpleNamespace(
                apply=apply,
                cost=cost,
                training=lambda: Training(1e-3),
                place=lambda built: {},
                ask=lambda *_: {},  # no widths of which the kernels could tell anything
            ),
            conditions=Conditions(threads=2),
            subject=lambda candidate: candidate,
            kernels=kernels,
        ),
        families=families,
        baseline=trial(Candidate(Recipe(), "onnxruntime"), 1.0, 0.0),
        samples=samples,
        labelled=True,
        deadline=monotonic() + seconds,
        alignment=Alignment(),
    )


def walk(maker: Shrinker, outcome: Callable[[Candidate], tuple[float, float]]) -> list[Candidate]:
    best = Candidate(Recipe((CLEAN, INT8)), "openvino", {"threads": 2})
    done = [trial(best, 2.0, 0.0)]
    tried = []
    for candidate in maker.propose(done):
        methods.validate(candidate.recipe)
        tried.append(candidate)
        done.append(trial(candidate, *outcome(candidate)))
    return tried


def share(candidate: Candidate, method: str = "prune_channels", name: str = "macs") -> object:
    return next(step.params[name] for step in candidate.recipe.steps if step.method == method)


def test_a_smaller_structure_comes_before_what_the_best_recipe_does_and_keeps_its_place() -> None:
    (first, *_) = walk(shrinker(lambda m: m == "prune_channels"), lambda c: (2.1, 0.5))
    assert [step.method for step in first.recipe.steps] == [
        "optimize_graph",
        "prune_channels",
        "quantize_static",
    ]
    assert (first.target, first.options) == ("openvino", {"threads": 2})


def test_layers_count_by_their_times_where_the_best_runs() -> None:
    (first, *_) = walk(shrinker(lambda m: m == "prune_channels"), lambda c: (2.1, 0.5))
    assert share(first, name="times") == {"Conv_a": 12.3}
    for method, family in (("restructure", "separable"), ("factorize", "thinner")):
        (first, *_) = walk(shrinker(lambda m, own=method: m == own, families=(family,)), lambda c: (2.1, 0.5))
        assert share(first, method, "times") == {"Conv_a": 12.3}


@pytest.mark.parametrize("takes_s", [2.0, 400.0])
def test_a_narrower_model_tells_how_the_times_of_layers_fall(takes_s: float) -> None:
    learned = Recipe((CLEAN, INT8, Step("quantize_aware")))
    maker = shrinker(lambda m: m == "prune_channels", profiled=2, takes_s=takes_s)
    read: list[tuple[Recipe, ...]] = []
    kernels = maker.lab.kernels

    def watched(*subjects: Candidate) -> list[tuple[Kernel, ...]]:
        read.append(tuple(subject.recipe for subject in subjects))
        return kernels(*subjects)  # type: ignore[arg-type]

    maker.lab.kernels = watched  # type: ignore[method-assign, assignment]
    done = [trial(Candidate(learned, "openvino"), 2.0, 0.0)]
    first = next(iter(maker.propose(done)))
    if takes_s > 100.0:  # too long for a model that is of no other use
        assert share(first, name="times") == {"Conv_a": 12.3}
        assert read[0] == (learned,)
    else:  # nothing learns in it: it is as fast before
        assert share(first, name="times") == {"Conv_a": [12.3, 4.56, 0.25, 0.5]}
        assert read[0] == (learned, Recipe((CLEAN, SLIM[0], INT8)))


@pytest.mark.parametrize(
    ("method", "family"),
    [("prune_channels", "narrower"), ("factorize", "thinner"), ("search_structure", "searched")],
)
def test_widths_are_of_the_blocks_that_the_kernels_like(method: str, family: Family) -> None:
    maker = shrinker(lambda m: m == method, families=(family,))
    sixteen = SimpleNamespace(of=lambda *_: 16)
    (first, *_) = walk(replace(maker, alignment=sixteen), lambda c: (2.1, 0.5))  # type: ignore[arg-type]
    assert share(first, method, "align") == 16
    (first, *_) = walk(maker, lambda c: (2.1, 0.5))
    assert all("align" not in step.params for step in first.recipe.steps)


def test_parameters_count_where_size_does() -> None:
    maker = shrinker(lambda m: m == "prune_channels")
    maker.lab.budget = Budget(objective="size")
    first = next(iter(maker.propose([])))
    assert first.recipe.steps[1] == Step("prune_channels", {"parameters": 0.75})


@pytest.mark.parametrize(
    ("product_share", "grouped", "first"),
    [(0.9, 0, "shallower"), (0.1, 1, "narrower"), (None, 2, "narrower"), (0.1, 4, "shallower")],
)
def test_transformers_and_lean_nets_lose_branches_first_and_others_channels(
    product_share: float | None, grouped: int, first: Family
) -> None:
    facts = GraphFacts(
        operators=Counter(),
        convolutions=10,
        grouped=grouped,
        products=1,
        recurrent=0,
        product_share=product_share,
        reuse=50.0,
        quantized=False,
        dynamic=(),
        float_dtype="float",
        parameters=9,
    )
    assert families(facts)[0] == first
    method = {"shallower": "prune_layers", "narrower": "prune_channels"}[first]
    tried = walk(shrinker(lambda m: m != "prune_heads", families=families(facts)), lambda c: (1.9, 0.0))
    order = [candidate.recipe.steps[1].method for candidate in tried]
    assert order[0] == method
    # Only convolutions become separable.
    assert ("restructure" in order) == (first == "narrower")


def searched(outcome: Callable[[Candidate], tuple[float, float]], **given: object) -> list[Candidate]:
    works = {"prune_layers", "search_structure"}
    maker = shrinker(lambda m: m in works, families=("shallower", "searched"), **given)  # type: ignore[arg-type]
    return [c for c in walk(maker, outcome) if any(s.method == "search_structure" for s in c.recipe.steps)]


def test_what_is_searched_takes_the_place_of_all_that_made_it_smaller() -> None:
    first = searched(lambda c: (2.5, 0.0))[0]
    assert [step.method for step in first.recipe.steps] == [
        "optimize_graph",
        "search_structure",
        "quantize_static",
    ]
    assert share(first, "search_structure", "times") == {"Conv_a": 12.3}


def test_what_is_searched_begins_below_the_best_so_far() -> None:
    # Dropped layers made it 2.5 times as fast as the original, and the whole model is 2 times as fast.
    assert share(searched(lambda c: (2.5, 0.0))[0], "search_structure", "left") == round(0.92 * 0.8, 3)
    # Nothing smaller held: as the other families do.
    assert share(searched(lambda c: (2.5, 0.5))[0], "search_structure", "left") == 0.75


def test_nothing_is_searched_that_there_is_no_time_to_measure() -> None:
    def slow(candidate: Candidate) -> tuple[float, float]:
        sleep(0.1)
        return 1.9, 0.0

    assert not searched(slow, seconds=0.1)


def test_heads_go_with_channels_where_there_are_any() -> None:
    (first, *_) = walk(shrinker(lambda m: m.startswith("prune_")), lambda c: (2.1, 0.5))
    assert [step.method for step in first.recipe.steps][1:3] == ["prune_channels", "prune_heads"]


def test_more_is_taken_while_it_holds_and_less_where_it_does_not() -> None:
    tried = walk(shrinker(lambda m: m == "prune_channels"), lambda c: (3.0 - float(str(share(c))), 0.0))
    assert [share(c) for c in tried][:4] == [0.75, 0.562, 0.422, 0.316]


def test_where_much_was_lost_most_is_given_back_and_where_little_little() -> None:
    def least(drop: float) -> list[object]:
        return [share(c) for c in walk(shrinker(lambda m: m == "prune_channels"), lambda c: (2.5, drop))][:2]

    # The budget allows 0.01; what is lost grows as the square of what goes.
    assert least(0.04) == [0.75, 0.875]
    assert least(0.0178) == [0.75, 0.813]
    assert least(0.5) == [0.75, 0.95]


def test_nothing_is_made_that_there_is_no_time_to_measure() -> None:
    made: list[str] = []

    def slow(method: str) -> bool:
        made.append(method)
        sleep(0.2)
        return True

    assert not walk(shrinker(slow, seconds=0.0), lambda c: (2.5, 0.0))
    assert not made
    # What is applied takes 0.2 s, some three of it a share: another would end too late.
    tried = walk(shrinker(slow, seconds=0.7, families=("narrower",)), lambda c: (2.5, 0.0))
    assert [share(c) for c in tried] == [0.75]
    assert {method for method in made if method.startswith("prune_")} == {"prune_channels", "prune_heads"}


def test_what_is_smaller_and_not_faster_ends_its_family() -> None:
    tried = walk(shrinker(lambda m: m in {"prune_channels", "factorize"}), lambda c: (1.9, 0.0))
    assert [c.recipe.steps[1].method for c in tried] == ["prune_channels", "factorize"]


def test_what_may_be_faster_is_given_the_benefit_of_the_doubt() -> None:
    pytest.importorskip("torch")

    def tried(speed: float, high: float) -> list[Candidate]:
        maker = shrinker(lambda m: m == "prune_layers", samples=1000)
        best = Candidate(Recipe((CLEAN, INT8)), "openvino", {"threads": 2})
        done, made = [trial(best, 2.0, 0.0)], []
        for candidate in maker.propose(done):
            made.append(candidate)
            found = trial(candidate, speed, 0.05)
            gain = Comparison(median=speed, ci95=(1.0, high), verdict="better")
            done.append(found.model_copy(update={"speedup": gain}))
        return made

    # The whole model was 2 times as fast by its median, timed for a moment.
    assert any(s.method == "distill" for c in tried(1.9, 2.1) for s in c.recipe.steps)
    assert len(tried(1.8, 1.95)) == 1


def test_what_loses_too_much_learns_block_by_block_then_as_a_whole_and_then_from_labels() -> None:
    pytest.importorskip("torch")
    maker = shrinker(lambda m: m == "prune_layers", samples=1000)

    def outcome(candidate: Candidate) -> tuple[float, float]:
        return 2.5, 0.0 if any(s.method == "finetune" for s in candidate.recipe.steps) else 0.05

    tried = [[step.method for step in c.recipe.steps] for c in walk(maker, outcome)]
    plain = ["optimize_graph", "prune_layers", "quantize_static"]
    alone = tried.index(["optimize_graph", "prune_layers", "reconstruct", "quantize_static"])
    # Nothing learns before all is tried as it is made.
    assert tried[:alone] == [plain] * alone
    assert tried[alone + 1] == ["optimize_graph", "prune_layers", "distill", "quantize_static"]
    assert tried[alone + 2] == ["optimize_graph", "prune_layers", "finetune", "quantize_static"]
    # What was mended holds, so the next has less left; it does not inherit the training of the last.
    assert tried[alone + 3] == plain


def test_the_first_share_is_mended_where_none_held_and_then_more_is_taken() -> None:
    pytest.importorskip("torch")
    maker = shrinker(lambda m: m == "prune_layers", samples=1000)

    def outcome(candidate: Candidate) -> tuple[float, float]:
        return 2.5, 0.0 if any(s.method == "distill" for s in candidate.recipe.steps) else 0.05

    taught = [c for c in walk(maker, outcome) if any(s.method == "distill" for s in c.recipe.steps)]
    ratios = [share(c, "prune_layers", "ratio") for c in taught]
    assert ratios == [pytest.approx(1 - 0.75**n, abs=1e-3) for n in range(1, 5)]


def test_what_holds_when_mended_block_by_block_learns_nothing_else() -> None:
    pytest.importorskip("torch")
    maker = shrinker(lambda m: m == "prune_layers", samples=1000)
    tried = walk(
        maker,
        lambda c: (2.5, 0.0 if any(s.method == "reconstruct" for s in c.recipe.steps) else 0.05),
    )
    learned = [
        step.method for c in tried for step in c.recipe.steps if step.method in {"distill", "finetune"}
    ]
    assert not learned


def test_what_made_a_smaller_model_worse_is_not_tried_on_the_next() -> None:
    pytest.importorskip("torch")
    maker = shrinker(lambda m: m == "prune_layers", samples=1000)
    harm = {"reconstruct": 0.06, "distill": 0.04, "finetune": 0.05}

    def outcome(candidate: Candidate) -> tuple[float, float]:
        learned = [step.method for step in candidate.recipe.steps if step.method in harm]
        return 2.5, harm[learned[0]] if learned else 0.05

    learned = [s.method for c in walk(maker, outcome) for s in c.recipe.steps if s.method in harm]
    assert learned[:3] == ["reconstruct", "distill", "finetune"]
    assert set(learned[3:]) == {"distill", "finetune"}


def test_learning_comes_behind_all_that_makes_a_model_smaller() -> None:
    pytest.importorskip("torch")
    maker = shrinker(lambda m: m in {"prune_channels", "prune_layers"}, samples=100)

    def outcome(candidate: Candidate) -> tuple[float, float]:
        methods = [step.method for step in candidate.recipe.steps]
        if "prune_layers" in methods:
            return 9.0, 0.05
        return 3.0 - float(str(share(candidate))), 0.0 if "reconstruct" in methods else 0.05

    tried = [[step.method for step in c.recipe.steps] for c in walk(maker, outcome)]
    both = [methods for methods in tried if {"prune_layers", "prune_channels"} <= set(methods)]
    narrow = ["optimize_graph", "prune_channels", "prune_layers"]
    assert both[0] == [*narrow, "quantize_static"]
    assert both[1] == [*narrow, "reconstruct", "quantize_static"]


def test_what_lost_far_too_much_is_not_taught_first() -> None:
    pytest.importorskip("torch")
    tried = walk(shrinker(lambda m: m == "prune_layers", samples=1000), lambda c: (2.5, 0.2))
    assert not [s for c in tried for s in c.recipe.steps if s.method in {"reconstruct", "distill"}]


def test_what_held_by_little_leaves_something_to_fall_back_on() -> None:
    def shares(drop: float) -> list[object]:
        def outcome(candidate: Candidate) -> tuple[float, float]:
            return 2.5, drop if share(candidate) in {0.75, 0.875} else 0.2

        return [share(c) for c in walk(shrinker(lambda m: m == "prune_channels"), outcome)]

    # Behind what failed, and before more is tried between that and what held.
    assert shares(0.009)[:3] == [0.75, 0.562, 0.875]
    assert 0.875 not in shares(0.002)


def test_a_family_is_taken_on_top_of_what_has_quality_left_to_lose() -> None:
    def speeds(candidate: Candidate) -> tuple[float, float]:
        methods = [step.method for step in candidate.recipe.steps]
        branches = (
            1 - float(str(share(candidate, "prune_layers", "ratio"))) if "prune_layers" in methods else 1.0
        )
        channels = float(str(share(candidate))) if "prune_channels" in methods else 1.0
        lost = {1.0: 0.0, 0.75: 0.002, 0.562: 0.009}.get(round(branches, 3), 0.2)
        return 2.0 / (branches * channels), lost + 0.02 * (1 - channels)

    works = {"prune_layers", "prune_channels"}
    tried = walk(shrinker(lambda m: m in works, families=("shallower", "narrower")), speeds)
    both = [c for c in tried if len(c.recipe.steps) == 4]
    # 0.562 of the branches is fastest, and leaves nothing to lose by channels.
    assert share(both[0], "prune_layers", "ratio") == 0.25
    assert share(both[0]) == 0.75


def test_what_is_tried_last_begins_where_the_best_stands() -> None:
    known = Shares()
    steps = {left: [Step("prune_layers", {"ratio": round(1 - left, 3)})] for left in (0.75, 0.56, 0.42)}
    for size, (left, made) in enumerate(steps.items()):
        known.made(left, made, 1.0)
        known.take(left, (size, size), quality(0.0 if left > 0.5 else 0.5))
    assert known.outcome((2, 2)) == quality(0.5)
    known.stand(Recipe((CLEAN, *steps[0.56], INT8)), quality(0.004))
    assert known.bounded
    assert known.outcome((2, 2)) is None
    assert known.next() is not None
    # The best has less of it gone, and something else: what failed without that says nothing any more.
    known.made(0.3, (), 1.0)  # a share that changed nothing stands in no recipe
    known.stand(Recipe((CLEAN, *steps[0.75], Step("prune_channels"), INT8)), quality(0.004))
    assert (known.held.share, known.failed) == (0.75, None)
    assert known.next() == pytest.approx(0.75 * 0.75)


def test_another_share_of_the_same_structure_is_not_tried_again() -> None:
    pytest.importorskip("torch")
    maker = shrinker(lambda m: m == "prune_channels", samples=1000)
    maker.lab.workshop.cost = lambda built: Cost((), parameters=70, nonzero_parameters=70)  # type: ignore[method-assign]
    tried = walk(maker, lambda c: (2.5, 0.05))
    # Of the first share all is tried, of the others nothing.
    assert {share(c) for c in tried} == {0.75}
    methods = [step.method for c in tried for step in c.recipe.steps]
    assert [methods.count(m) for m in ("prune_channels", "reconstruct", "distill", "finetune")] == [
        4,
        1,
        1,
        1,
    ]


def test_what_lies_between_what_held_and_what_did_not_is_tried() -> None:
    def outcome(candidate: Candidate) -> tuple[float, float]:
        left = float(str(share(candidate)))
        return 4.0 - left, 0.0 if left > 0.8 else 0.02

    tried = [float(str(share(c))) for c in walk(shrinker(lambda m: m == "prune_channels"), outcome)]
    # The first fails, the second holds, and none is smaller than what has failed.
    assert tried[0] == 0.75
    assert 0.8 < tried[1] < 0.9
    assert all(0.75 < left < tried[1] for left in tried[2:])
    assert len(tried) > 2


def test_what_a_quantized_version_learned_stays() -> None:
    best = Candidate(Recipe((CLEAN, INT8, Step("reconstruct"))), "openvino")
    done = [trial(best, 2.0, 0.0)]
    first = next(shrinker(lambda m: m == "factorize").propose(done))
    assert [step.method for step in first.recipe.steps] == [
        "optimize_graph",
        "factorize",
        "quantize_static",
        "reconstruct",
    ]


def test_without_samples_nothing_is_proposed() -> None:
    assert not walk(shrinker(lambda m: True, samples=0), lambda c: (9.0, 0.0))
