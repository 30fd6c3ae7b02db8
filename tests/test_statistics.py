import itertools

import numpy as np
import pytest
from scipy import stats

from advrush_tf.statistics import (
    RankCorrelation,
    accuracy_per_class,
    mean_interval,
    paired_difference,
    pairs_needed,
    rank_correlation,
    wilson,
)


@pytest.mark.parametrize(
    ("successes", "total", "expected"),
    [
        # Newcombe, Statistics in Medicine 17 (1998), table I, method 3.
        (81, 263, (0.2553, 0.3662)),
        (15, 148, (0.0624, 0.1605)),
        (0, 20, (0.0, 0.1611)),
        (1, 29, (0.0061, 0.1718)),
    ],
)
def test_wilson_is_the_published_interval(successes, total, expected):
    assert wilson(successes, total) == pytest.approx(expected, abs=5e-5)


def test_the_ends_are_exact():
    for total in (1, 2, 3, 10, 299):
        low, high = wilson(0, total)
        assert low == 0 < high < 1
        low, high = wilson(total, total)
        assert 0 < low < 1 == high


def test_without_images_the_interval_is_everything():
    assert wilson(0, 0) == (0.0, 1.0)


@pytest.mark.parametrize(("successes", "total"), [(-1, 5), (6, 5), (1, 0)])
def test_counts_that_cannot_be_are_refused(successes, total):
    with pytest.raises(ValueError, match="must"):
        wilson(successes, total)


def test_accuracy_per_class_by_hand():
    labels = np.array([3, 0, 0, 3, 1, 0])
    right = np.array([True, False, True, True, False, False])
    assert accuracy_per_class(labels, right, 5) == [1 / 3, 0.0, None, 1.0, None]


def test_a_class_is_not_measured_without_images():
    nothing = np.array([], int)
    assert accuracy_per_class(nothing, nothing.astype(bool), 2) == [None, None]


def _pairs(count, slope, seed=0):
    generator = np.random.default_rng(seed)
    x = generator.normal(size=count)
    return x, slope * x + generator.normal(size=count)


def _interval(found):
    return [found.low, found.high]


def test_a_correlation_worked_by_hand():
    # Differences of the ranks are 1, -1, 1, -1, 0: 1 - 6 * 4 / (5 * 24) = 0.8.
    found = rank_correlation([10, 20, 30, 40, 50], [2, 1, 4, 3, 9])
    assert found.rho == pytest.approx(0.8)
    assert found.count == 5


def test_ties_get_the_mean_of_their_ranks():
    # Ranks 1, 2.5, 2.5, 4 and 1, 3, 2, 4; both centred: 4.5 / sqrt(4.5 * 5).
    found = rank_correlation([0, 1, 1, 2], [0, 2, 1, 3])
    assert found.rho == pytest.approx(4.5 / np.sqrt(4.5 * 5))


@pytest.mark.parametrize("slope", [0.0, 0.5, -1.0])
def test_the_interval_is_near_the_one_of_normal_theory(slope):
    x, y = _pairs(100, slope)
    found = rank_correlation(x, y)
    # Bonett and Wright, Psychometrika 65 (2000): Fisher's z of a rank correlation.
    half = 1.96 * np.sqrt((1 + found.rho**2 / 2) / (100 - 3))
    low, high = (np.tanh(np.arctanh(found.rho) + side * half) for side in (-1, 1))
    np.testing.assert_allclose(_interval(found), (low, high), atol=0.05)


def _skewed(count=20):
    generator = np.random.default_rng(1)
    x = generator.exponential(size=count)
    return x, 3 * x + generator.exponential(size=count)


def test_the_interval_is_scipys_bias_corrected_and_accelerated_one():
    def spearman(x, y, axis=-1):
        x, y = (stats.rankdata(values, axis=axis) for values in (x, y))
        return stats.pearsonr(x, y, axis=axis).statistic

    def scipys(method):
        settings = {"paired": True, "vectorized": True, "n_resamples": 4000}
        rng = np.random.default_rng(7)
        found = stats.bootstrap(_skewed(), spearman, method=method, rng=rng, **settings)
        return np.array(found.confidence_interval)

    interval = _interval(rank_correlation(*_skewed()))
    # On skewed pairs the bounds of the two methods are 0.18 and 0.03 apart.
    np.testing.assert_allclose(interval, scipys("BCa"), atol=0.02)
    assert interval[0] < scipys("percentile")[0] - 0.1


def test_only_the_order_counts():
    x, y = _pairs(25, 0.5)
    plain = rank_correlation(x, y)
    assert rank_correlation(np.exp(x), 3 * y + 7) == plain
    turned = rank_correlation(x, -y)
    assert turned.rho == pytest.approx(-plain.rho)
    np.testing.assert_allclose(_interval(turned), (-plain.high, -plain.low), atol=0.02)


def test_the_seed_alone_decides_on_the_interval():
    x, y = _pairs(20, 0.5)
    assert rank_correlation(x, y, 3) == rank_correlation(x, y, 3)
    other = rank_correlation(x, y, 4)
    assert _interval(other) != _interval(rank_correlation(x, y, 3))


@pytest.mark.parametrize("sign", [1, -1])
def test_a_perfect_correlation_has_an_interval(sign):
    found = rank_correlation(np.arange(8.0), sign * np.arange(8.0) ** 3)
    assert (found.rho, *_interval(found)) == pytest.approx((sign, sign, sign))


def test_four_pairs_are_enough():
    found = rank_correlation([1, 2, 3, 4], [1, 3, 2, 4])
    assert -1 <= found.low <= found.rho <= found.high <= 1


@pytest.mark.parametrize(
    ("x", "y", "words"),
    [
        ([1, 2, 3], [1, 2, 3], "4 pairs or more, not 3"),
        ([1, 1, 1, 1], [1, 2, 3, 4], "constant"),
        ([1, 2, 3, 4], [2, 2, 2, 2], "constant"),
        ([1, 2, 3, np.nan], [1, 2, 3, 4], "finite"),
        ([1, 2, 3, 4], [1, 2, 3, np.inf], "finite"),
        ([1, 2, 3, 4], [1, 2, 3, 4, 5], "pairs, not of arrays"),
    ],
)
def test_pairs_without_a_correlation_are_refused(x, y, words):
    with pytest.raises(ValueError, match=words):
        rank_correlation(x, y)


def test_it_reads_as_a_line():
    assert str(RankCorrelation(-0.5, -0.7, -0.25, 40)) == (
        "rho = -0.50 [-0.70, -0.25], n = 40"
    )


def test_a_mean_has_students_interval():
    found = mean_interval([0.1, 0.2, 0.4])
    # By hand: 4.302653 of t's table times sqrt(7/300) / sqrt(3).
    reach = 4.302653 * (7 / 300 / 3) ** 0.5
    numbers = found.low, found.mean, found.high
    assert numbers == pytest.approx((0.7 / 3 - reach, 0.7 / 3, 0.7 / 3 + reach))
    values = np.random.default_rng(0).normal(size=9)
    scale = values.std(ddof=1) / 3
    interval = stats.t.interval(0.95, 8, values.mean(), scale)
    found = mean_interval(values)
    assert (found.low, found.high, found.count) == pytest.approx((*interval, 9))
    assert mean_interval([0.5]).low is None


def test_a_mean_has_an_interval_of_possible_values():
    free, found = (mean_interval([0.01, 0.98, 0.99], *b) for b in ((), (0, 1)))
    assert free.low < 0 and free.high > 1
    assert (found.low, found.mean, found.high) == (0, free.mean, 1)


@pytest.mark.parametrize(
    ("differences", "p"),
    [
        ([1, 2, 3], 2 / 8),
        # Of the sums 6, 4, 2, 0 and their opposites, six are as far from 0 as 2.
        ([1, -2, 3], 6 / 8),
        ([1, 1, 1, 1, 1, 1], 2 / 64),
        ([0, 0], 1),
        ([5], 1),
    ],
)
def test_the_permutation_test_counts_signs(differences, p):
    found = paired_difference(differences, np.zeros(len(differences)))
    assert found.p == pytest.approx(p)
    assert found.mean == pytest.approx(np.mean(differences))


def test_the_permutation_test_is_exact_for_shares_of_images():
    rng = np.random.default_rng(0)
    signs = np.array(list(itertools.product([-1, 1], repeat=6)))
    for counts in rng.integers(4000, 4040, (60, 2, 6)):
        # As whole numbers, whose sums have no rounding.
        sums = abs(signs @ (counts[0] - counts[1]))
        p = np.mean(sums >= abs(np.sum(counts[0] - counts[1])))
        assert paired_difference(*counts / 10_000).p == pytest.approx(p)


def test_of_ranks_the_permutation_test_is_wilcoxons():
    ranks = np.array([1, -2, 3, 4, -5, 6, 7, 8])
    exact = stats.wilcoxon(ranks, method="exact").pvalue
    assert paired_difference(ranks, np.zeros(8)).p == pytest.approx(exact)


def test_the_bootstrap_interval_of_a_difference():
    # Means of two draws of 0 and 1 are 0 and 1 in a quarter of the cases each.
    found = paired_difference([0.5, 1.5], [0.5, 0.5])
    assert (found.low, found.high, found.deviation) == (0, 1, pytest.approx(0.5**0.5))
    x, y = np.random.default_rng(1).normal(size=(2, 40))
    found = paired_difference(x, y)
    reach = stats.norm.ppf(0.975) * (x - y).std() / 40**0.5
    assert found.low == pytest.approx(found.mean - reach, abs=0.05)
    assert found.high == pytest.approx(found.mean + reach, abs=0.05)
    assert paired_difference(x, y) == found


@pytest.mark.parametrize(
    ("mean", "deviation", "comparisons", "pairs"),
    [
        # Cohen, Statistical Power Analysis (1988): of effects 1, 0.5 and 0.2.
        (1, 1, 1, 10),
        (-0.5, 1, 1, 34),
        (0.2, 1, 1, 199),
        # The permutation test reaches 0.05 with 2 / 2**6, and 0.05 / 4 with 2 / 2**8.
        (1, 0, 1, 6),
        (1, 1e-3, 4, 8),
        (0, 1, 1, None),
        (0.01, 1, 1, None),
    ],
)
def test_the_pairs_that_a_difference_needs(mean, deviation, comparisons, pairs):
    assert pairs_needed(mean, deviation, comparisons) == pairs
