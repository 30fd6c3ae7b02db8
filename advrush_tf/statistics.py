"""Statistics of results: proportions, means, paired differences, rank correlation."""

import dataclasses
import math
import warnings
from collections.abc import Sequence

import numpy as np
from scipy import stats

_FEWEST = 4  # pairs
_RESAMPLES = 9999
_BATCH = 500  # resamples at a time, which bounds the memory
_LEVEL = 0.05  # of all tests together
_POWER = 0.8
_MOST_PAIRS = 1000


def wilson(successes: int, total: int) -> tuple[float, float]:
    """The 95 % Wilson score interval of a proportion.

    Args:
        successes: how many of `total`, 0 to `total`.
        total: number of trials, such as images; without any the interval is (0, 1).

    Returns:
        Lower and upper bound, in [0, 1].

    Raises:
        ValueError: `successes` is out of range.

    Source: Wilson, JASA 22 (1927); Brown, Cai and DasGupta, Statistical Science 16
    (2001), equation 4.
    """
    if successes == total == 0:
        return 0.0, 1.0
    interval = stats.binomtest(successes, total).proportion_ci(method="wilson")
    return float(interval.low), float(interval.high)


def accuracy_per_class(
    labels: np.ndarray, right: np.ndarray, num_classes: int
) -> list[float | None]:
    """The accuracy on the images of each class.

    Args:
        labels: (images,), integers, 0 to `num_classes` - 1.
        right: (images,), bool, True where the model is right.
        num_classes: number of classes.

    Returns:
        Accuracies in [0, 1], (num_classes,), None for a class without images.
    """
    totals = np.bincount(labels, minlength=num_classes).tolist()
    rights = np.bincount(labels[right], minlength=num_classes).tolist()
    return [
        count / total if total else None
        for count, total in zip(rights, totals, strict=True)
    ]


@dataclasses.dataclass(frozen=True)
class Mean:
    """A mean with its 95 % interval.

    Attributes:
        mean: of the values.
        low, high: Student's interval, within what is possible; None for a single value.
        count: number of values.
    """

    mean: float
    low: float | None
    high: float | None
    count: int


def mean_interval(
    values: Sequence[float] | np.ndarray,
    least: float = -math.inf,
    most: float = math.inf,
) -> Mean:
    """Returns the mean of independent values, such as of seeds, with its interval.

    Args:
        values: one or more, finite.
        least, most: a value can be, such as 0 and 1; the interval reaches no farther.
    """
    values = np.asarray(values, np.float64)
    count, mean = len(values), float(values.mean())
    if count < 2:
        return Mean(mean, None, None, count)
    reach = float(stats.t.ppf(0.975, count - 1) * stats.sem(values))
    return Mean(mean, max(mean - reach, least), min(mean + reach, most), count)


@dataclasses.dataclass(frozen=True)
class PairedDifference:
    """The difference of paired values, such as of two architectures over seeds.

    Attributes:
        mean: mean of the differences.
        low, high: its 95 % bootstrap interval over the pairs, by percentiles; of few
            pairs it is too narrow. None for a single pair.
        p: of the permutation test that flips the sign of each difference, two-sided and
            exact up to 16 pairs. With n pairs it is never less than 2 / 2**n.
        deviation: standard deviation of the differences; None for a single pair.
        count: number of pairs.
    """

    mean: float
    low: float | None
    high: float | None
    p: float
    deviation: float | None
    count: int


def paired_difference(
    x: Sequence[float] | np.ndarray, y: Sequence[float] | np.ndarray, seed: int = 0
) -> PairedDifference:
    """Compares paired values by their differences, x - y.

    Args:
        x, y: (pairs,), one pair or more, finite.
        seed: of the resamples.

    Source: Efron and Tibshirani, An Introduction to the Bootstrap (1993), chapters 13
    and 15.
    """
    differences = np.asarray(x, np.float64) - np.asarray(y, np.float64)
    count, mean = len(differences), float(differences.mean())
    if count < 2:
        return PairedDifference(mean, None, None, 1.0, None, count)
    rng = np.random.default_rng(seed)
    largest = np.abs(differences).max() or 1.0
    found = stats.bootstrap(
        (differences,), np.mean, n_resamples=_RESAMPLES, method="percentile", rng=rng
    ).confidence_interval
    test = stats.permutation_test(
        (differences, np.zeros(count)),
        # Sums that are equal but for rounding must count as equal.
        lambda x, y, axis: np.round(np.mean(x - y, axis) / largest, 12),
        permutation_type="samples",
        vectorized=True,
        n_resamples=2**16,
        rng=rng,
    )
    deviation = float(differences.std(ddof=1))
    low, high = float(found.low), float(found.high)
    return PairedDifference(mean, low, high, float(test.pvalue), deviation, count)


def pairs_needed(mean: float, deviation: float, comparisons: int = 1) -> int | None:
    """Returns how many pairs would probably show a mean difference.

    That many give a paired t-test a power of 80 % at the level 5 %, divided among the
    comparisons (Bonferroni), and let the permutation test reach that level at all.

    Args:
        mean: of the differences.
        deviation: their standard deviation, 0 or more.
        comparisons: number of tests.

    Returns:
        The number of pairs; None for more than 1,000.
    """
    level = _LEVEL / comparisons
    fewest = max(math.ceil(math.log2(2 / level)), 2)
    if mean == 0:
        return None
    pairs = np.arange(fewest, _MOST_PAIRS + 1)
    with np.errstate(divide="ignore"):
        effect = np.minimum(np.divide(abs(mean), deviation), 1e3)
    bound = stats.t.ppf(1 - level / 2, pairs - 1)
    powers = stats.nct.sf(bound, pairs - 1, effect * np.sqrt(pairs))
    enough = pairs[np.nan_to_num(powers, nan=1.0) >= _POWER]
    return int(enough[0]) if enough.size else None


@dataclasses.dataclass(frozen=True)
class RankCorrelation:
    """Spearman's rank correlation of pairs.

    Attributes:
        rho: the correlation, in [-1, 1].
        low, high: its 95 % bootstrap interval.
        count: number of pairs.
    """

    rho: float
    low: float
    high: float
    count: int

    def __str__(self) -> str:
        return (
            f"rho = {self.rho:+.2f} [{self.low:+.2f}, {self.high:+.2f}], "
            f"n = {self.count}"
        )


def rank_correlation(
    x: Sequence[float] | np.ndarray, y: Sequence[float] | np.ndarray, seed: int = 0
) -> RankCorrelation:
    """Spearman's rank correlation with a 95 % bootstrap interval over the pairs.

    The interval is bias-corrected and accelerated (BCa), or the percentiles where that
    is not defined, as for a perfect correlation. A resample in which one side is
    constant counts as a correlation of 0.

    Args:
        x, y: (pairs,), 4 pairs or more, finite, neither constant.
        seed: of the resamples; equal seeds give equal intervals.

    Raises:
        ValueError: the pairs are too few, not finite or constant.

    Source: Efron, Better Bootstrap Confidence Intervals, JASA 82 (1987).
    """
    x, y = np.asarray(x, np.float64), np.asarray(y, np.float64)
    _check(x, y)
    low, high = _interval(x, y, "BCa", seed)
    if not (math.isfinite(low) and math.isfinite(high)):
        low, high = _interval(x, y, "percentile", seed)
    rho = float(stats.spearmanr(x, y).statistic)
    return RankCorrelation(rho, low, high, len(x))


def _check(x: np.ndarray, y: np.ndarray) -> None:
    if x.ndim != 1 or x.shape != y.shape:
        raise ValueError(
            f"a correlation is of pairs, not of arrays of shape {x.shape} and {y.shape}"
        )
    if len(x) < _FEWEST:
        raise ValueError(
            f"a correlation with an interval needs {_FEWEST} pairs or more, "
            f"not {len(x)}"
        )
    for values in (x, y):
        if not np.isfinite(values).all():
            raise ValueError("a correlation needs finite numbers")
        if np.ptp(values) == 0:
            raise ValueError("a constant has no correlation with anything")


def _interval(
    x: np.ndarray, y: np.ndarray, method: str, seed: int
) -> tuple[float, float]:
    # Where BCa is not defined, scipy warns and returns NaN.
    with warnings.catch_warnings(), np.errstate(invalid="ignore"):
        warnings.simplefilter("ignore", stats.DegenerateDataWarning)
        found = stats.bootstrap(
            (x, y),
            _spearman,
            paired=True,
            vectorized=True,
            n_resamples=_RESAMPLES,
            batch=_BATCH,
            method=method,
            rng=np.random.default_rng(seed),
        )
    return float(found.confidence_interval.low), float(found.confidence_interval.high)


def _spearman(x: np.ndarray, y: np.ndarray, axis: int = -1) -> np.ndarray:
    """The rank correlations along an axis, 0 where one side is constant."""
    first, second = (_centred_ranks(values, axis) for values in (x, y))
    sizes = np.sqrt((first**2).sum(axis) * (second**2).sum(axis))
    products = (first * second).sum(axis)
    return np.divide(products, sizes, out=np.zeros_like(products), where=sizes > 0)


def _centred_ranks(values: np.ndarray, axis: int) -> np.ndarray:
    ranks = stats.rankdata(values, axis=axis)
    return ranks - ranks.mean(axis, keepdims=True)
