"""Metrics with labels, against plain reference versions."""

import numpy as np
import pytest
import scipy.stats

from hasten.core.budget import Budget
from hasten.core.errors import DataError, InputError, TrialError
from hasten.measuring import flipped, judge, resolve

from .answers import answers

RNG = np.random.default_rng(0)
ONE = np.ones((1, 30))


def value(metric, data, outputs):
    return resolve(metric, data, outputs).scores(outputs, outputs, data).value


@pytest.fixture
def scored(dataset, tmp_path):
    logits = RNG.normal(size=(30, 6)).astype(np.float32)
    labels = np.where(RNG.random(30) < 0.7, logits.argmax(1), RNG.integers(0, 6, 30))
    return dataset(x=np.zeros((30, 1)), labels=labels), answers(tmp_path, logits=logits), logits, labels


def test_accuracy_and_top_k(scored):
    data, outputs, logits, labels = scored
    assert value("accuracy", data, outputs) == pytest.approx(np.mean(logits.argmax(1) == labels))
    best = np.argsort(-logits, axis=1)[:, :3]
    for name in ("top3", "top-3", "TOP3", "top3:logits"):
        assert value(name, data, outputs) == pytest.approx(np.mean((best == labels[:, None]).any(1)))
    assert resolve("top3", data, outputs).name == "top-3 accuracy"


def test_without_a_name_classes_mean_accuracy(scored):
    data, outputs, _, _ = scored
    assert resolve(None, data, outputs).name == "accuracy"


@pytest.mark.parametrize("labels", [[0.0, 1.0, 2.0, 0.0], np.eye(3)[[0, 1, 2, 0]]], ids=["whole", "one-hot"])
def test_without_a_name_classes_may_be_floats(labels, dataset, tmp_path):
    data, outputs = (
        dataset(x=np.zeros((4, 1)), labels=labels),
        answers(tmp_path, logits=np.eye(3)[[0, 1, 2, 2]]),
    )
    assert resolve(None, data, outputs).name == "accuracy"
    assert value(None, data, outputs) == 0.75


def test_equal_scores_go_to_the_first_class(dataset, tmp_path):
    data = dataset(x=np.zeros((2, 1)), labels=[0, 1])
    outputs = answers(tmp_path, logits=[[1.0, 1.0], [1.0, 1.0]])
    assert value("accuracy", data, outputs) == 0.5


def test_scores_that_are_not_numbers_are_wrong(dataset, tmp_path):
    data = dataset(x=np.zeros((4, 1)), labels=[0, 0, 1, 2])
    good = answers(tmp_path, logits=np.eye(3)[[0, 0, 1, 2]])
    bad = answers(tmp_path, logits=[[np.nan, 0, 0], [1, np.nan, 0], [-np.inf, 1, -np.inf], [np.nan] * 3])
    metric = resolve("accuracy", data, good)
    np.testing.assert_array_equal(metric.scores(bad, good, data).per_sample, [0, 0, 1, 0])


@pytest.mark.parametrize(
    ("shape", "label_shape", "axis"),
    [((7, 4), (7,), -1), ((4, 5, 6), (5, 6), 0), ((1, 4), (), -1), ((1, 7, 4), (7,), -1), ((4, 1, 1), (), 0)],
    ids=["tokens", "pixels", "a lone axis", "a lone axis and tokens", "pooled"],
)
def test_class_axes(shape, label_shape, axis, dataset, tmp_path):
    outputs = RNG.normal(size=(12, *shape))
    labels = RNG.integers(0, 4, size=(12, *label_shape))
    data = dataset(x=np.zeros((12, 1)), labels=labels)
    class_axis = axis + 1 if axis >= 0 else -1
    wanted = np.mean(outputs.argmax(class_axis).reshape(labels.shape) == labels)
    assert value("accuracy", data, answers(tmp_path, out=outputs)) == pytest.approx(wanted)


def test_a_sequence_of_one_comes_first(dataset, tmp_path):
    outputs = [RNG.normal(size=(length, 4)) for length in (1, 3, 5, 2)]
    data = dataset(x=np.zeros((4, 1)), labels=[scores.argmax(1) for scores in outputs])
    assert value("accuracy", data, answers(tmp_path, out=outputs)) == 1
    assert value("f1_macro", data, answers(tmp_path, out=outputs)) == 1


def test_unlabelled_decisions_do_not_count(dataset, tmp_path):
    data = dataset(x=np.zeros((2, 1)), labels=[[0, 1, -100], [-100, -100, 1]])
    outputs = answers(tmp_path, logits=[np.eye(2)[[0, 0, 1]], np.eye(2)[[0, 0, 1]]])
    metric = resolve("accuracy", data, outputs)
    np.testing.assert_allclose(metric.scores(outputs, outputs, data).per_sample, [0.5, 1.0])


def test_samples_without_a_label_do_not_count(dataset, tmp_path):
    labels = np.where(np.arange(40) % 2, 1, -1)
    data = dataset(x=np.zeros((40, 1)), labels=labels)
    first, second = (answers(tmp_path, logits=np.eye(3)[np.where(np.arange(40) < 4, c, 1)]) for c in (1, 2))
    metric = resolve("accuracy", data, first)
    quality = judge(metric, first, second, data, Budget())
    assert (quality.n, quality.reference, quality.drop) == (20, 1.0, pytest.approx(2 / 20))
    assert flipped(metric, first, second, data) == ((1, 3), ())
    bare = dataset(x=np.zeros((40, 1)), labels=np.full(40, -1))
    with pytest.raises(TrialError, match="no sample of the selection data has a label"):
        metric.scores(first, first, bare)


@pytest.mark.parametrize("scores", [[0.1, 0.6, 0.4, 0.9], [-2.0, 0.3, -0.1, 5.0]])
def test_labels_of_minus_one_and_one_are_refused(scores, dataset, tmp_path):
    data = dataset(x=np.zeros((4, 1)), labels=[-1, 1, 1, -1])
    with pytest.raises(
        DataError, match="the labels are -1 and 1, and negative means not labelled: give 0 and 1"
    ):
        resolve("accuracy", data, answers(tmp_path, p=np.array(scores)[:, None]))


@pytest.mark.parametrize(
    ("scores", "threshold"), [([0.1, 0.6, 0.4, 0.9], 0.5), ([-2.0, 0.3, -0.1, 5.0], 0.0)]
)
def test_a_single_score_is_thresholded(scores, threshold, dataset, tmp_path):
    labels = [0, 1, 1, 1]
    data = dataset(x=np.zeros((4, 1)), labels=labels)
    outputs = answers(tmp_path, p=np.array(scores)[:, None])
    assert value("accuracy", data, outputs) == np.mean((np.array(scores) > threshold) == labels)


def test_one_hot_and_float_labels_are_classes_too(dataset, tmp_path):
    outputs = answers(tmp_path, logits=np.eye(3)[[0, 1, 2, 2]])
    assert value("accuracy", dataset(x=np.zeros((4, 1)), labels=np.eye(3)[[0, 1, 2, 0]]), outputs) == 0.75
    assert value("accuracy", dataset(x=np.zeros((4, 1)), labels=[0.0, 1.0, 2.0, 0.0]), outputs) == 0.75
    column = dataset(x=np.zeros((4, 1)), labels=np.array([[0], [1], [2], [0]]))
    assert value("accuracy", column, outputs) == 0.75


@pytest.mark.parametrize(("output", "label"), [((3, 1, 1), (3,)), ((1, 3), (3,)), ((3,), (1, 3))])
def test_one_hot_labels_beside_axes_of_one(output, label, dataset, tmp_path):
    data = dataset(x=np.zeros((4, 1)), labels=np.eye(3)[[0, 1, 2, 0]].reshape(4, *label))
    outputs = answers(tmp_path, logits=np.eye(3)[[0, 1, 2, 2]].reshape(4, *output))
    assert value("accuracy", data, outputs) == 0.75


def test_decisions_made_in_the_model(dataset, tmp_path):
    ids = dataset(x=np.zeros((3, 1)), labels=[4, 5, 6])
    assert value("accuracy", ids, answers(tmp_path, best=[4, 5, 0])) == pytest.approx(2 / 3)
    words = dataset(x=np.zeros((2, 1)), labels=["cat", "dog"])
    assert value("accuracy", words, answers(tmp_path, best=["cat", "cow"])) == 0.5


def reference_f1(labels, decided, classes):
    scores = []
    for c in classes:
        hit = np.sum((labels == c) & (decided == c))
        both = np.sum(labels == c) + np.sum(decided == c)
        if both:
            scores.append(2 * hit / both)
    return np.mean(scores)


def test_f1_is_its_definition(scored):
    data, outputs, logits, labels = scored
    wanted = reference_f1(labels, logits.argmax(1), range(6))
    assert value("f1", data, outputs) == pytest.approx(wanted)
    assert resolve("f1", data, outputs).name == "f1 macro"
    statistic = resolve("f1", data, outputs).scores(outputs, outputs, data).statistic
    weights = RNG.multinomial(30, np.full(30, 1 / 30), size=4).astype(float)
    for row, found in zip(weights, statistic(weights), strict=True):
        drawn = np.repeat(np.arange(30), row.astype(int))
        assert found == pytest.approx(reference_f1(labels[drawn], logits[drawn].argmax(1), range(6)))


def test_f1_of_two_classes_is_of_class_one(dataset, tmp_path):
    scores = RNG.normal(size=(40, 2))
    labels = RNG.integers(0, 2, 40)
    data, outputs = dataset(x=np.zeros((40, 1)), labels=labels), answers(tmp_path, logits=scores)
    assert resolve("f1", data, outputs).name == "f1 binary"
    assert value("f1", data, outputs) == pytest.approx(reference_f1(labels, scores.argmax(1), [1]))
    assert value("f1_macro", data, outputs) == pytest.approx(reference_f1(labels, scores.argmax(1), [0, 1]))


@pytest.mark.parametrize("names", [["cat", "dog"], [2, 5]])
def test_f1_of_two_classes_without_a_class_one_is_of_both(names, dataset, tmp_path):
    labels, decided = np.asarray(names)[[0, 1, 1, 0]], np.asarray(names)[[0, 1, 0, 0]]
    data, outputs = dataset(x=np.zeros((4, 1)), labels=labels), answers(tmp_path, best=decided)
    assert resolve("f1", data, outputs).name == "f1 macro"
    assert value("f1", data, outputs) == pytest.approx(reference_f1(labels, decided, names))
    with pytest.raises(DataError, match=f"one of them 1, and there are 2, {names[0]}, {names[1]}"):
        resolve("f1_binary", data, outputs)


@pytest.fixture
def valued(dataset, tmp_path):
    labels = RNG.normal(size=30)
    outputs = (labels + 0.3 * RNG.normal(size=30)).astype(np.float32)
    return dataset(x=np.zeros((30, 1)), labels=labels), answers(tmp_path, y=outputs[:, None]), outputs, labels


def test_errors_and_correlation(valued):
    data, outputs, found, labels = valued
    assert value("mse", data, outputs) == pytest.approx(np.mean((found - labels) ** 2))
    assert value("mae", data, outputs) == pytest.approx(np.mean(np.abs(found - labels)))
    assert value("spearman", data, outputs) == pytest.approx(scipy.stats.spearmanr(found, labels).statistic)


def test_less_error_is_better(valued, tmp_path):
    data, outputs, found, labels = valued
    nearer = answers(tmp_path, y=((found + labels) / 2).astype(np.float32)[:, None])
    metric = resolve("mae", data, outputs)
    assert not metric.higher_is_better
    quality = judge(metric, outputs, nearer, data, Budget())
    assert quality.drop < 0
    assert quality.ci95[1] < 0
    assert quality.budget == "met"
    assert judge(metric, nearer, outputs, data, Budget()).budget == "missed"


def test_outputs_that_are_not_finite_fail_the_candidate(valued, tmp_path):
    data, outputs, found, _ = valued
    broken = answers(tmp_path, y=np.where(np.arange(30) == 3, np.nan, found)[:, None])
    for name in ("mse", "spearman"):
        with pytest.raises(TrialError, match="not finite on 1 of 30"):
            judge(resolve(name, data, outputs), outputs, broken, data, Budget())


def test_of_several_outputs_the_one_that_fits_is_judged(dataset, tmp_path):
    data = dataset(x=np.zeros((8, 1)), labels=np.arange(8) % 3)
    outputs = answers(tmp_path, features=RNG.normal(size=(8, 2, 5)), logits=np.eye(3)[np.arange(8) % 3])
    assert value("accuracy", data, outputs) == 1.0


def test_of_several_that_fit_one_must_be_named(dataset, tmp_path):
    data = dataset(x=np.zeros((8, 1)), labels=np.arange(8) % 3)
    outputs = answers(tmp_path, a=np.eye(3)[np.arange(8) % 3], b=np.eye(3)[np.zeros(8, int)])
    with pytest.raises(InputError, match="accuracy:a"):
        resolve("accuracy", data, outputs)
    assert value("accuracy:b", data, outputs) == pytest.approx(3 / 8)


@pytest.mark.parametrize(
    ("metric", "labels", "output", "says"),
    [
        ("accuracy", None, np.eye(3)[[0, 1, 2]], "needs labels"),
        ("spearman", None, np.zeros((3, 1)), "needs labels"),
        ("accuracy", [0, 1, 3], np.eye(3)[[0, 1, 2]], "reach 3, but the output has 3 classes"),
        ("accuracy", [0.5, 1.0, 2.0], np.eye(3)[[0, 1, 2]], "spearman"),
        (None, [0.5, 1.0, 2.0], np.zeros((3, 1)), "cannot be guessed"),
        (None, [1.0, 3.0, 5.0], np.zeros((3, 1)), "cannot be guessed"),
        ("accuracy", [[0, 1], [1, 0], [1, 1]], np.eye(3)[[0, 1, 2]], "do not fit"),
        ("accuracy", [-1, -1, -1], np.eye(3)[[0, 1, 2]], "no sample has a label"),
        ("top5", [0, 1, 2], np.eye(3)[[0, 1, 2]], "more than 5 classes"),
        ("spearman", [0.0, 1.0, 2.0], np.eye(3)[[0, 1, 2]], "do not fit"),
        ("mse", [0.0, 1.0, 2.0], np.array(["a", "b", "c"]), "needs numbers|do not fit"),
        ("accuracy", ["a", "b", "c"], np.eye(3)[[0, 1, 2]], "cannot be compared"),
        ("f1_binary", [0, 1, 2], np.eye(3)[[0, 1, 2]], "f1_macro"),
    ],
)
def test_unusable_combinations_say_why(metric, labels, output, says, dataset, tmp_path):
    fields = {"x": np.zeros((3, 1))} | ({} if labels is None else {"labels": np.asarray(labels)})
    with pytest.raises(DataError, match=says):
        resolve(metric, dataset(**fields), answers(tmp_path, out=output))


@pytest.mark.parametrize(
    ("metric", "says"),
    [("acuracy", "unknown metric"), ("accuracy:nothing", "no output 'nothing'"), ("", "unknown")],
)
def test_unknown_names_are_refused(metric, says, scored):
    with pytest.raises(InputError, match=says):
        resolve(metric, scored[0], scored[1])


def test_a_candidate_without_the_output_fails(scored, tmp_path):
    data, outputs, logits, _ = scored
    metric = resolve("accuracy", data, outputs)
    with pytest.raises(TrialError, match="has no output 'logits'"):
        judge(metric, outputs, answers(tmp_path, other=logits), data, Budget())
    with pytest.raises(TrialError, match="does not fit"):
        judge(metric, outputs, answers(tmp_path, logits=logits[:, :4]), data, Budget())
