import numpy as np
import pytest

from advrush_tf.statistics import accuracy_per_class, wilson


@pytest.mark.parametrize("total", [1, 2, 10, 97, 1000, 10_000])
@pytest.mark.parametrize("share", [0, 0.01, 0.3, 0.5, 0.98, 1])
def test_wilson_is_scipys(share, total):
    stats = pytest.importorskip("scipy.stats")
    successes = round(share * total)
    test = stats.binomtest(successes, total)
    expected = test.proportion_ci(0.95, method="wilson")
    assert wilson(successes, total) == pytest.approx(tuple(expected), abs=1e-12)


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
    for total in range(1, 300):
        low, high = wilson(0, total)
        assert low == 0 < high < 1
        low, high = wilson(total, total)
        assert 0 < low < 1 == high


def test_nothing_is_known_from_no_images():
    assert wilson(0, 0) == (0.0, 1.0)


@pytest.mark.parametrize(("successes", "total"), [(-1, 5), (6, 5), (1, 0)])
def test_counts_that_cannot_be_are_refused(successes, total):
    with pytest.raises(ValueError, match=f"0 to {total}, not {successes}"):
        wilson(successes, total)


def test_accuracy_per_class_by_hand():
    labels = np.array([3, 0, 0, 3, 1, 0])
    right = np.array([True, False, True, True, False, False])
    assert accuracy_per_class(labels, right, 5) == [1 / 3, 0.0, None, 1.0, None]


def test_a_class_is_not_measured_without_images():
    nothing = np.array([], int)
    assert accuracy_per_class(nothing, nothing.astype(bool), 2) == [None, None]
