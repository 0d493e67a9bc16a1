"""Agreement: what is chosen from the outputs, and what it measures."""

import numpy as np
import pytest
import scipy.stats

from hasten.core.budget import Budget
from hasten.core.errors import DataError
from hasten.measuring import judge, resolve
from hasten.numerics.kinds import see

from .answers import answers

RNG = np.random.default_rng(0)


def softmax(x, axis=-1):
    e = np.exp(x - x.max(axis=axis, keepdims=True))
    return (e / e.sum(axis=axis, keepdims=True)).astype(np.float32)


def unit(x):
    return x / np.linalg.norm(x, axis=-1, keepdims=True)


@pytest.mark.parametrize(
    ("name", "values", "kind", "axis"),
    [
        ("output", RNG.normal(size=(20, 10)), "top-1", -1),
        ("logits", RNG.normal(size=(20, 2)), "top-1", -1),
        ("softmax_0.tmp_0", softmax(RNG.normal(size=(20, 40, 30))), "top-1", -1),
        ("seg", softmax(RNG.normal(size=(20, 4, 6, 6)), axis=1), "top-1", 0),
        ("log_p", np.log(softmax(RNG.normal(size=(20, 9)))), "top-1", -1),
        ("token_logits", RNG.normal(size=(20, 7, 5)), "top-1", -1),
        ("class_map", RNG.normal(size=(20, 5, 6, 6)), "top-1", 0),
        ("sentence_embedding", RNG.normal(size=(20, 16)), "cosine", -1),
        ("out", unit(RNG.normal(size=(20, 16))), "cosine", -1),
        ("last_hidden_state", RNG.normal(size=(20, 7, 16)), "cosine", -1),
        ("text_emb", RNG.normal(size=(20, 16)), "cosine", -1),
        ("boxes", RNG.normal(size=(20, 4)), "SQNR", -1),
        ("similarity", RNG.normal(size=(20,)), "SQNR", -1),
        ("image", RNG.normal(size=(20, 3, 6, 6)), "SQNR", -1),
        ("constant", np.tile([3.0, 2.0, 1.0], (20, 1)), "SQNR", -1),
        ("ids", RNG.integers(0, 9, size=(20, 5)), "exact", -1),
        ("best", RNG.integers(0, 9, size=20), "exact", -1),
        ("valid", RNG.random((20, 5)) > 0.5, "exact", -1),
        ("picture", RNG.integers(0, 255, size=(20, 8, 8, 3)).astype(np.uint8), "SQNR", -1),
        ("text", np.array(["a", "b"] * 10), "exact", -1),
        ("empty", np.zeros((20, 0, 4), np.float32), "SQNR", -1),
    ],
)
def test_what_agreeing_means_is_told_from_the_outputs(name, values, kind, axis):
    sight = see(name, list(values))
    assert (sight.kind, sight.axis) == (kind, axis)


def agree(data, ours, theirs, **kw):
    metric = resolve(kw.get("metric"), data, theirs)
    return metric, metric.scores(ours, theirs, data)


@pytest.fixture
def data(dataset):
    return dataset(x=np.zeros((20, 1)))


def test_the_original_agrees_with_itself(data, tmp_path):
    theirs = answers(tmp_path, logits=RNG.normal(size=(20, 10)), embedding=RNG.normal(size=(20, 8)))
    metric, scores = agree(data, theirs, theirs)
    assert scores.value == pytest.approx(1.0)
    assert metric.perfect
    quality = judge(metric, theirs, theirs, data, Budget())
    assert (quality.value, quality.drop, quality.ci95, quality.budget) == (
        pytest.approx(1.0),
        0.0,
        (0.0, 0.0),
        "met",
    )


def test_top1_is_the_same_argmax(data, tmp_path):
    first = RNG.normal(size=(20, 10))
    second = first + RNG.normal(size=first.shape)
    metric, scores = agree(data, answers(tmp_path, logits=second), answers(tmp_path, logits=first))
    assert metric.name == "top-1 agreement"
    assert scores.binary
    np.testing.assert_array_equal(scores.per_sample, first.argmax(1) == second.argmax(1))


def test_a_sequence_agrees_when_every_decision_does(data, tmp_path):
    first = softmax(RNG.normal(size=(20, 30, 6)))
    second = first.copy()
    second[3, 7] = np.roll(second[3, 7], 1)
    second[5, :2] = np.roll(second[5, :2], 1, axis=-1)
    metric, scores = agree(data, answers(tmp_path, p=second), answers(tmp_path, p=first))
    assert scores.value == pytest.approx(18 / 20)
    assert scores.details == {"per decision": pytest.approx(597 / 600)}
    quality = judge(metric, answers(tmp_path, p=first), answers(tmp_path, p=second), data, Budget())
    assert quality.flips is not None
    assert (quality.flips.lost, quality.flips.gained) == (2, 0)
    assert quality.details["per decision"] == pytest.approx(597 / 600)


def test_answers_of_another_shape_or_of_nan_disagree(data, tmp_path):
    first = [softmax(RNG.normal(size=(4, 6))) for _ in range(20)]
    second = [v.copy() for v in first]
    second[0] = second[0][:3]
    second[1][2] = np.nan
    _, scores = agree(data, answers(tmp_path, p=second), answers(tmp_path, p=first))
    np.testing.assert_array_equal(scores.per_sample, [0, 0, *[1] * 18])


def test_cosine_is_one_minus_the_mean_distance(data, tmp_path):
    first = RNG.normal(size=(20, 16))
    second = first + 0.3 * RNG.normal(size=first.shape)
    metric, scores = agree(data, answers(tmp_path, embedding=second), answers(tmp_path, embedding=first))
    assert metric.name == "cosine agreement"
    wanted = np.sum(unit(first) * unit(second), axis=1)
    np.testing.assert_allclose(scores.per_sample, wanted)
    above = np.triu_indices(20, 1)
    rank = scipy.stats.spearmanr(
        (unit(first) @ unit(first).T)[above], (unit(second) @ unit(second).T)[above]
    ).statistic
    assert scores.details["rank correlation of pairwise similarities"] == pytest.approx(rank)


def test_cosine_of_zero_vectors_and_of_tokens(data, tmp_path):
    first = RNG.normal(size=(20, 3, 8))
    first[0, 0] = 0
    second = first.copy()
    second[1, 2] *= -1
    second[2, :] = np.nan
    _, scores = agree(data, answers(tmp_path, hidden=second), answers(tmp_path, hidden=first))
    np.testing.assert_allclose(scores.per_sample[:4], [1, 1 / 3, 0, 1], atol=1e-12)


def test_sqnr_is_one_minus_noise_over_signal(data, tmp_path):
    first = RNG.normal(size=(20, 3, 6, 6)).astype(np.float32)
    second = first + 0.1 * RNG.normal(size=first.shape).astype(np.float32)
    metric, scores = agree(data, answers(tmp_path, image=second), answers(tmp_path, image=first))
    assert metric.name == "SQNR agreement"
    noise = np.sum(np.square(second.astype(np.float64) - first)) / np.sum(np.square(first.astype(np.float64)))
    assert scores.value == pytest.approx(1 - noise)
    assert scores.details["SQNR in dB"] == pytest.approx(-10 * np.log10(noise))
    assert scores.details["normalized error"] == pytest.approx(noise)


def test_sqnr_of_one_lost_sample_is_nothing(data, tmp_path):
    first = RNG.normal(size=(20, 3, 6, 6))
    second = first.copy()
    second[4, 0, 0, 0] = np.inf
    metric, scores = agree(data, answers(tmp_path, image=second), answers(tmp_path, image=first))
    assert scores.value == 0
    quality = judge(metric, answers(tmp_path, image=first), answers(tmp_path, image=second), data, Budget())
    assert quality.budget == "missed"
    assert all(np.isfinite(v) for v in quality.details.values())


@pytest.mark.parametrize("name", ["logits", "embedding", "image"])
def test_nothing_agrees_with_answers_that_are_all_broken(name, data, tmp_path):
    broken = np.full((20, 4), np.nan)
    with pytest.raises(DataError, match="look for NaN"):
        resolve(None, data, answers(tmp_path, **{name: broken}))
    broken[-1, 0] = 1.0
    assert resolve(None, data, answers(tmp_path, **{name: broken})).perfect


def test_infinities_of_the_original_are_kept(data, tmp_path):
    first = np.where(RNG.random((20, 3, 6, 6)) < 0.2, -np.inf, RNG.normal(size=(20, 3, 6, 6)))
    theirs = answers(tmp_path, image=first)
    assert agree(data, theirs, theirs)[1].value == 1
    assert agree(data, answers(tmp_path, image=np.where(np.isinf(first), 0, first)), theirs)[1].value == 0


def test_all_zero_signals(data, tmp_path):
    zero, other = answers(tmp_path, y=np.zeros(20)), answers(tmp_path, y=np.full(20, 1e-3))
    assert agree(data, zero, zero)[1].value == 1
    assert agree(data, other, zero)[1].value == 0


def test_classes_and_texts_agree_exactly(data, tmp_path):
    first = RNG.integers(0, 3, size=(20, 4))
    second = first.copy()
    second[6, 1] += 1
    metric, scores = agree(data, answers(tmp_path, ids=second), answers(tmp_path, ids=first))
    assert metric.name == "exact agreement"
    assert scores.value == pytest.approx(19 / 20)
    assert scores.details["per decision"] == pytest.approx(79 / 80)


def test_of_several_outputs_the_worst_binds(data, tmp_path):
    logits, hidden = RNG.normal(size=(20, 10)), RNG.normal(size=(20, 16))
    theirs = answers(tmp_path, logits=logits, hidden=hidden)
    ours = answers(tmp_path, logits=logits, hidden=hidden + RNG.normal(size=hidden.shape))
    metric, scores = agree(data, ours, theirs)
    assert metric.name == "agreement (worst of logits: top-1, hidden: cosine)"
    assert scores.value == scores.details["hidden: cosine agreement"] < 0.9
    assert scores.details["logits: top-1 agreement"] == 1
    only, single = agree(data, ours, theirs, metric="agreement:logits")
    assert only.name == "top-1 agreement"
    assert single.value == 1


def test_agreement_with_labels_at_hand_is_still_agreement(dataset, tmp_path):
    data = dataset(x=np.zeros((20, 1)), labels=np.zeros(20, int))
    theirs = answers(tmp_path, logits=RNG.normal(size=(20, 10)))
    assert resolve("agreement", data, theirs).name == "top-1 agreement"
