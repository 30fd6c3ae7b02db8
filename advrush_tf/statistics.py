"""Statistics of results: proportions with intervals, rank correlation."""

import dataclasses
import math
import warnings
from collections.abc import Sequence

import numpy as np
from scipy import stats

_FEWEST = 4  # pairs
_RESAMPLES = 9999
_BATCH = 500  # resamples at a time, which bounds the memory


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
