"""Intervals against plain reference versions, and what they must cover."""

import numpy as np
import pytest
import scipy.stats

from hasten.measuring import statistics as st


def test_resamples_are_seeded_draws_with_replacement():
    weights = np.concatenate(list(st.resamples(50, 300, seed=1)))
    assert weights.shape == (300, 50)
    np.testing.assert_array_equal(weights.sum(axis=1), 50)
    np.testing.assert_array_equal(weights, np.concatenate(list(st.resamples(50, 300, seed=1))))
    assert not np.array_equal(weights, np.concatenate(list(st.resamples(50, 300, seed=2))))
    # multinomial: mean 1, variance 1 - 1/n of a column; 300 * 50 draws pin the mean of squares to about 2 %
    assert np.mean(np.square(weights)) == pytest.approx(2 - 1 / 50, rel=0.05)


def test_many_samples_come_in_blocks():
    blocks = list(st.resamples(1_000_000, 9, seed=0))
    assert len(blocks) > 1
    assert sum(len(b) for b in blocks) == 9
    np.testing.assert_array_equal(np.concatenate(blocks).sum(axis=1), 1_000_000)


def test_mean_interval_is_scipys():
    scores = np.random.default_rng(0).gamma(2, size=200)
    low, high = st.bootstrap(st.weighted_mean(scores), len(scores), seed=0)
    wanted = scipy.stats.bootstrap(
        (scores,), np.mean, n_resamples=20_000, method="percentile", rng=np.random.default_rng(1)
    ).confidence_interval
    # 2,000 resamples know their 2.5 % points to about 0.06 standard errors each way
    error = scores.std() / np.sqrt(len(scores))
    assert low == pytest.approx(wanted.low, abs=0.2 * error)
    assert high == pytest.approx(wanted.high, abs=0.2 * error)


def test_mean_interval_covers_its_mean():
    rng = np.random.default_rng(0)
    hits = 0
    for seed in range(200):
        scores = rng.exponential(size=60)
        low, high = st.bootstrap(st.weighted_mean(scores), 60, seed, draws=1000)
        hits += low <= 1.0 <= high
    # nominal 95 %; a skewed mean of 60 is known to reach about 92-94 %; 200 trials spread by 1.6 points
    assert hits >= 0.87 * 200


def test_median_interval_covers_its_median():
    rng = np.random.default_rng(0)
    hits = 0
    for seed in range(300):
        low, high = st.median_interval(rng.lognormal(0, 0.05, size=20), seed, draws=1000)
        hits += low <= 1.0 <= high
    assert hits >= 0.90 * 300


def test_clopper_pearson_is_exact():
    assert st.clopper_pearson(0, 100)[0] == 0
    # (1 - p)^100 = 0.025
    assert st.clopper_pearson(0, 100)[1] == pytest.approx(1 - 0.025**0.01)
    low, high = st.clopper_pearson(3, 50)
    assert scipy.stats.binom.sf(2, 50, low) == pytest.approx(0.025, abs=1e-6)
    assert scipy.stats.binom.cdf(3, 50, high) == pytest.approx(0.025, abs=1e-6)


def test_tango_without_flips_is_its_closed_form():
    z2 = scipy.stats.norm.ppf(0.975) ** 2
    low, high = st.tango(0, 0, 400)
    assert high == pytest.approx(z2 / (400 + z2), rel=1e-6)
    assert low == pytest.approx(-high)


@pytest.mark.parametrize(("lost", "gained", "count"), [(1, 0, 44), (12, 3, 200), (0, 9, 100)])
def test_tango_inverts_the_score_test(lost, gained, count):
    low, high = st.tango(lost, gained, count)
    for edge, sign in ((low, 1), (high, -1)):
        # The restricted maximum likelihood of the lost share given the difference, by brute force.
        gain = np.linspace(max(0, -edge) + 1e-9, (1 - abs(edge)) / 2, 200_001)
        loss = gain + edge
        same = 1 - gain - loss
        keep = (loss > 0) & (same > 0)
        gain, loss, same = gain[keep], loss[keep], same[keep]
        likelihood = lost * np.log(loss) + gained * np.log(gain) + (count - lost - gained) * np.log(same)
        rate = gain[np.argmax(likelihood)]
        score = (lost - gained - count * edge) / np.sqrt(count * (2 * rate + edge * (1 - edge)))
        assert score == pytest.approx(sign * 1.96, abs=0.02)


def test_tango_mirrors_when_losses_become_gains():
    low, high = st.tango(7, 2, 150)
    assert st.tango(2, 7, 150) == (pytest.approx(-high), pytest.approx(-low))


@pytest.mark.parametrize(("p_lost", "p_gained"), [(0.005, 0.0), (0.01, 0.01), (0.05, 0.02), (0.0, 0.0)])
def test_binary_interval_covers_where_the_bootstrap_does_not(p_lost, p_gained):
    rng = np.random.default_rng(3)
    hits = 0
    for _ in range(400):
        lost, gained, _same = rng.multinomial(200, [p_lost, p_gained, 1 - p_lost - p_gained])
        low, high = st.binary_interval(lost, gained, 200, perfect=False)
        hits += low <= p_lost - p_gained <= high
    assert hits >= 0.92 * 400


def test_agreement_is_a_plain_proportion():
    assert st.binary_interval(4, 0, 100, perfect=True) == st.clopper_pearson(4, 100)


def test_rule_of_three():
    assert st.unseen(1000) == pytest.approx(3.7 / 1000, rel=0.01)
    # Were the share just that, seeing none of 1,000 would happen once in forty times.
    assert (1 - st.unseen(1000)) ** 1000 == pytest.approx(0.025)


@pytest.mark.parametrize(
    ("drop", "high", "allowed", "verdict"),
    [
        (0.002, 0.009, 0.01, "met"),
        (0.002, 0.02, 0.01, "met on the sample, not proven"),
        (0.02, 0.03, 0.01, "missed"),
        (0.0, 0.0, 0.0, "met"),
        (-0.5, -0.1, 0.0, "met"),
        (0.1 - 0.09, 0.1 - 0.09, 0.01, "met"),
        (1e-6, 1e-6, 0.0, "missed"),
    ],
)
def test_budget_verdict(drop, high, allowed, verdict):
    assert st.budget_verdict(drop, high, allowed) == verdict


@pytest.mark.parametrize(
    ("flips", "perfect"), [((0, 0), False), ((3, 1), False), ((2, 0), True), ((0, 0), True)]
)
def test_proof_n_samples_would_prove_it(flips, perfect):
    count, allowed = 200, 0.03
    drop = (flips[0] - flips[1]) / count
    high = st.binary_interval(*flips, count, perfect=perfect)[1]
    needed = st.proof_n(drop, high, 0.015 if flips == (0, 0) else allowed, count, flips, perfect=perfect)
    allowed = 0.015 if flips == (0, 0) else allowed
    assert needed is not None
    assert needed > count

    def upper(n):
        return st.binary_interval(flips[0] * n / count, flips[1] * n / count, n, perfect=perfect)[1]

    assert upper(needed + 2) <= allowed
    # "about": to one part in a hundred; half as many are not enough
    assert upper(needed // 2) > allowed


def test_proof_n_of_other_scores_shrinks_with_the_root():
    assert st.proof_n(0.0, 0.04, 0.01, 100, None, perfect=False) == 1600


def test_proof_n_is_none_where_no_number_would_do():
    assert st.proof_n(0.01, 0.02, 0.01, 100, None, perfect=False) is None
    assert st.proof_n(0.0, 0.009, 0.01, 100, None, perfect=False) is None


def test_spearman_is_scipys_with_ties_and_in_resamples():
    rng = np.random.default_rng(0)
    x, y = rng.integers(0, 12, 80).astype(float), rng.integers(0, 7, 80) + rng.integers(0, 12, 80) / 3
    statistic = st.spearman(x, y)
    assert statistic(np.ones((1, 80)))[0] == pytest.approx(scipy.stats.spearmanr(x, y).statistic, abs=1e-12)
    weights = next(st.resamples(80, 5, seed=0))
    for row, value in zip(weights, statistic(weights), strict=True):
        drawn = np.repeat(np.arange(80), row.astype(int))
        assert value == pytest.approx(scipy.stats.spearmanr(x[drawn], y[drawn]).statistic, abs=1e-12)


def test_spearman_without_order_is_no_correlation():
    assert st.spearman(np.ones(5), np.arange(5.0))(np.ones((1, 5)))[0] == 0
