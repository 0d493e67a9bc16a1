"""Judging: the drop, its interval, and what they say about the budget."""

import importlib
import sys
from pathlib import Path

import numpy as np
import pytest

from hasten.core.budget import Budget
from hasten.core.errors import InputError, TrialError
from hasten.measuring import flipped, judge, resolve
from hasten.measuring.statistics import clopper_pearson, tango

from .answers import answers


def classes(right):
    """Logits of two classes that are right (label 0) where ``right``."""
    right = np.asarray(right, dtype=float)
    return np.stack([right, 1 - right], axis=1)


@pytest.fixture
def labelled(dataset):
    def make(count):
        return dataset(x=np.zeros((count, 1)), labels=np.zeros(count, int))

    return make


def pair(tmp_path, before, after):
    return answers(tmp_path, logits=classes(before)), answers(tmp_path, logits=classes(after))


def test_no_flips_prove_no_more_than_they_can(labelled, tmp_path):
    data = labelled(400)
    before = np.arange(400) % 10 > 0
    first = answers(tmp_path, logits=classes(before))
    second = answers(tmp_path, logits=classes(before) + np.array([0.1, 0]))
    quality = judge(resolve("accuracy", data, first), first, second, data, Budget())
    assert quality.drop == 0
    assert quality.flips is not None
    assert (quality.flips.lost, quality.flips.gained) == (0, 0)
    assert quality.ci95 == (pytest.approx(-tango(0, 0, 400)[1]), pytest.approx(tango(0, 0, 400)[1]))
    # 1 % of 0.9 is 0.009, and 400 samples without a flip leave 0.0095 possible
    assert quality.budget == "met on the sample, not proven"
    assert quality.proof_n is not None
    assert 400 < quality.proof_n < 450


def test_no_flips_in_enough_samples_meet_the_budget(labelled, tmp_path):
    data = labelled(450)
    before = np.arange(450) % 10 > 0
    first = answers(tmp_path, logits=classes(before))
    second = answers(tmp_path, logits=classes(before) + np.array([0.1, 0]))
    assert judge(resolve("accuracy", data, first), first, second, data, Budget()).budget == "met"


def test_flips_are_counted_both_ways(labelled, tmp_path):
    data = labelled(100)
    before, after = np.ones(100, bool), np.ones(100, bool)
    before[:4] = False
    after[3:13] = False
    first, second = pair(tmp_path, before, after)
    quality = judge(resolve("accuracy", data, first), first, second, data, Budget())
    assert quality.flips is not None
    assert (quality.flips.lost, quality.flips.gained) == (9, 3)
    assert quality.drop == pytest.approx(0.06)
    assert quality.value == pytest.approx(0.90)
    assert quality.reference == pytest.approx(0.96)
    assert quality.ci95[0] < 0.06 < quality.ci95[1]
    assert quality.budget == "missed"
    assert quality.proof_n is None


def test_agreement_is_bounded_exactly(dataset, tmp_path):
    data = dataset(x=np.zeros((200, 1)))
    rng = np.random.default_rng(0)
    scores = rng.normal(size=(200, 5))
    changed = scores.copy()
    changed[:2] = -changed[:2]
    first, second = answers(tmp_path, logits=scores), answers(tmp_path, logits=changed)
    quality = judge(resolve(None, data, first), first, second, data, Budget(max_drop=0.05))
    assert quality.flips is not None
    assert quality.flips.lost == 2
    assert quality.ci95[0] >= 0
    assert quality.ci95[1] >= clopper_pearson(2, 200)[1]
    assert quality.budget == "met"


def test_points_are_absolute(labelled, tmp_path):
    data = labelled(1000)
    before, after = np.zeros(1000, bool), np.zeros(1000, bool)
    before[:500] = True
    after[:492] = True
    first, second = pair(tmp_path, before, after)
    metric = resolve("accuracy", data, first)
    assert judge(metric, first, second, data, Budget(max_drop=0.01)).allowed == pytest.approx(0.005)
    assert judge(metric, first, second, data, Budget(max_drop=0.01)).budget == "missed"
    absolute = judge(metric, first, second, data, Budget(max_drop=0.01, points=True))
    assert absolute.allowed == 0.01
    assert absolute.budget == "met on the sample, not proven"


def test_a_subject_is_its_own_equal(labelled, tmp_path):
    data = labelled(10)
    first = answers(tmp_path, logits=classes(np.ones(10)))
    quality = judge(resolve("accuracy", data, first), first, first, data, Budget(max_drop=0.0))
    assert (quality.ci95, quality.budget) == ((0.0, 0.0), "met")


def test_scores_of_limited_range_keep_the_rule_of_three(dataset, tmp_path):
    data = dataset(x=np.zeros((100, 1)), labels=np.zeros((100, 3), int))
    rng = np.random.default_rng(0)
    logits = rng.normal(size=(100, 3, 4))
    first, second = answers(tmp_path, logits=logits), answers(tmp_path, logits=2 * logits)
    quality = judge(resolve("accuracy", data, first), first, second, data, Budget(max_drop=0.01))
    assert quality.drop == 0
    assert quality.ci95[1] == pytest.approx(1 - 0.025 ** (1 / 100))
    assert quality.budget == "met on the sample, not proven"


def test_the_same_seed_gives_the_same_interval(labelled, tmp_path):
    data = labelled(100)
    rng = np.random.default_rng(0)
    first, second = pair(tmp_path, rng.random(100) < 0.9, rng.random(100) < 0.8)
    metric = resolve("f1_macro", data, first)
    found = [judge(metric, first, second, data, Budget(), seed=s).ci95 for s in (1, 1, 2)]
    assert found[0] == found[1] != found[2]


def test_answers_to_other_samples_cannot_be_compared(labelled, tmp_path):
    first = answers(tmp_path, logits=classes(np.ones(10)))
    short = answers(tmp_path, logits=classes(np.ones(9)))
    with pytest.raises(TrialError, match="9 answers"):
        judge(resolve("accuracy", labelled(10), first), first, short, labelled(10), Budget())


def brier(outputs, labels):
    """Per sample, less is better."""
    return np.square(outputs["logits"][:, 0] - (labels == 0))


brier.higher_is_better = False


def spread(outputs, labels):
    """Of the set."""
    return float(outputs["logits"].std())


def test_own_functions_by_sample_and_by_set(labelled, tmp_path):
    data = labelled(100)
    rng = np.random.default_rng(0)
    first = answers(tmp_path, logits=classes(rng.random(100)))
    second = answers(tmp_path, logits=classes(rng.random(100)))
    metric = resolve(brier, data, first)
    assert (metric.name, metric.higher_is_better) == ("brier", False)
    quality = judge(metric, first, second, data, Budget())
    labels = np.zeros(100)
    before, after = (
        brier({"logits": np.stack([p.value("logits", i) for i in range(100)])}, labels)
        for p in (first, second)
    )
    assert quality.reference == pytest.approx(before.mean())
    assert quality.drop == pytest.approx(after.mean() - before.mean())
    by_set = judge(resolve(spread, data, first), first, second, data, Budget())
    assert by_set.metric == "spread"
    assert by_set.flips is None
    assert by_set.ci95[0] < by_set.drop < by_set.ci95[1]


def right(outputs, labels):
    """Per sample, yes or no."""
    return outputs["logits"].argmax(axis=1) == labels


def test_own_functions_that_say_yes_or_no_have_flips(labelled, tmp_path):
    data = labelled(50)
    first, second = pair(tmp_path, np.ones(50), np.arange(50) > 2)
    quality = judge(resolve(right, data, first), first, second, data, Budget())
    assert quality.flips is not None
    assert quality.flips.lost == 3


def wrong(outputs, labels):
    """Per sample, yes or no, less is better."""
    return outputs["logits"].argmax(axis=1) != labels


wrong.higher_is_better = False


def test_flips_are_named_for_quality_where_less_is_better(labelled, tmp_path):
    data = labelled(2000)
    before, after = np.arange(2000) % 10 > 0, np.arange(2000) % 10 > 0
    before[2:4], after[11:14] = False, False
    first, second = pair(tmp_path, before, after)
    made = {f.__name__: resolve(f, data, first) for f in (right, wrong)}
    qualities = {
        name: judge(metric, first, second, data, Budget(max_drop=0.003, points=True))
        for name, metric in made.items()
    }
    for name, quality in qualities.items():
        assert quality.flips is not None
        assert (quality.flips.lost, quality.flips.gained) == (3, 2)
        assert flipped(made[name], first, second, data) == ((11, 12, 13), (2, 3))
    assert qualities["wrong"].ci95 == pytest.approx(qualities["right"].ci95)
    assert qualities["wrong"].proof_n == qualities["right"].proof_n is not None


def test_own_functions_come_by_name(labelled, tmp_path, monkeypatch):
    data = labelled(5)
    first = answers(tmp_path, logits=classes(np.ones(5)))
    (tmp_path / "my_metrics.py").write_text("def count(outputs, labels):\n    return float(len(labels))\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    metric = resolve("my_metrics:count", data, first)
    assert metric.name == "count"
    assert metric.scores(first, first, data).value == 5
    with pytest.raises(InputError, match="no_such_module"):
        resolve("no_such_module:metric", data, first)
    with pytest.raises(InputError, match="no_such_function"):
        resolve("math:no_such_function", data, first)
    with pytest.raises(InputError, match="not a function"):
        resolve("math:pi", data, first)


class OwnError(Exception):
    """Of the user's."""


def raise_own(outputs, labels):
    raise OwnError("mine")


def test_own_functions_may_fail_later(labelled, tmp_path):
    def late(outputs, labels):
        found = right(outputs, labels)
        return found if found.all() else raise_own(outputs, labels)

    data = labelled(5)
    first, second = pair(tmp_path, np.ones(5), np.zeros(5))
    with pytest.raises(TrialError, match="the metric late failed: OwnError: mine"):
        judge(resolve(late, data, first), first, second, data, Budget())


def ranking(outputs, labels):
    """Of the set: the area under the ROC curve, which is not defined where one class is absent."""
    scores = outputs["logits"][:, 0]
    ahead = scores[labels == 1][:, None] > scores[labels == 0][None]
    return ahead.sum() / ahead.size if ahead.size else float("nan")


def raising(outputs, labels):
    """The same in the manner of those who raise."""
    if len(set(labels.tolist())) < 2:
        raise OwnError("only one class")
    return ranking(outputs, labels)


@pytest.mark.parametrize("metric", [ranking, raising])
def test_own_functions_need_not_be_defined_for_every_resample(metric, dataset, tmp_path):
    rng = np.random.default_rng(0)
    labels = (np.arange(60) >= 57).astype(int)  # e⁻³ of the resamples have no sample of class 1
    data = dataset(x=np.zeros((60, 1)), labels=labels)
    first, second = (
        answers(tmp_path, logits=classes(labels * 2 + rng.normal(size=60) * much)) for much in (0.5, 3.0)
    )
    quality = judge(resolve(metric, data, first), first, second, data, Budget())
    assert 0 <= quality.ci95[0] < quality.drop < quality.ci95[1] < 1


def test_own_functions_must_be_defined_for_most_resamples(dataset, tmp_path):
    data = dataset(x=np.zeros((60, 1)), labels=np.arange(60))
    first, second = pair(tmp_path, np.ones(60), np.zeros(60))

    def distinct(outputs, labels):
        return float("nan") if len(set(labels.tolist())) < 60 else outputs["logits"].mean()

    with pytest.raises(TrialError, match="a value for 0 of 500 resamples only"):
        judge(resolve(distinct, data, first), first, second, data, Budget())


@pytest.mark.parametrize(
    ("text", "says"), [("def f(:", "SyntaxError"), ("raise RuntimeError('no')", "RuntimeError: no")]
)
def test_modules_that_cannot_be_imported_are_named(text, says, labelled, tmp_path, monkeypatch):
    name = f"faulty_{says.partition(':')[0].lower()}"
    (tmp_path / f"{name}.py").write_text(text)
    monkeypatch.syspath_prepend(str(tmp_path))
    first = answers(tmp_path, logits=classes(np.ones(5)))
    with pytest.raises(InputError, match=f"importing '{name}' failed: {says}"):
        resolve(f"{name}:f", labelled(5), first)
    with pytest.raises(InputError, match=r"':x' is not the name of a function"):
        resolve(":x", labelled(5), first)


@pytest.mark.parametrize(
    ("function", "says"),
    [
        (lambda outputs, labels: outputs["absent"], "KeyError"),
        (lambda outputs, labels: np.zeros((2, 2)), "one number"),
        (lambda outputs, labels: "good", "one number"),
        (lambda outputs, labels: Path("/no such file").read_text(), "FileNotFoundError"),
        (lambda outputs, labels: importlib.import_module("no_such_module"), "ModuleNotFoundError"),
        (lambda outputs, labels: sys.exit("enough"), "SystemExit: enough"),
        (raise_own, "OwnError: mine"),
    ],
)
def test_faulty_functions_are_named(function, says, labelled, tmp_path):
    data = labelled(5)
    with pytest.raises(InputError, match=says):
        resolve(function, data, answers(tmp_path, logits=classes(np.ones(5))))


def test_a_function_that_is_not_finite_fails_the_candidate(labelled, tmp_path):
    data = labelled(5)
    first, second = pair(tmp_path, np.ones(5), np.zeros(5))

    def odds(outputs, labels):
        return (
            1 / np.maximum(outputs["logits"][:, 0], 0)
            if outputs["logits"][:, 0].all()
            else np.full(5, np.inf)
        )

    with pytest.raises(TrialError, match="metric odds returned inf, which is not finite"):
        judge(resolve(odds, data, first), first, second, data, Budget())
