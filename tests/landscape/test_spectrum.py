import numpy as np
import pytest

from advrush_tf.landscape.lanczos import lanczos, ritz
from advrush_tf.landscape.meter import Curvature
from advrush_tf.landscape.spectrum import (
    density_grid,
    eigenvalues_beyond,
    mean_spectra,
    spectral_density,
)

EIGENVALUES = np.array([-1.0, 0, 0, 0, 0, 0, 0.5, 3])
SIZE = len(EIGENVALUES)


def _quadratures(probes, steps=SIZE):
    """Of `probes` matrices with the same eigenvalues, each from its own start."""
    rng = np.random.default_rng(0)
    bases, _ = np.linalg.qr(rng.normal(size=(probes, SIZE, SIZE)))
    matrices = bases * EIGENVALUES @ bases.transpose(0, 2, 1)
    starts = rng.choice([-1.0, 1.0], (probes, SIZE))

    def product(vectors):
        return np.einsum("bij,bj->bi", matrices, vectors)

    values, weights, _ = ritz(
        lanczos(product, starts, steps, np.zeros((probes, 1), int))
    )
    return values, weights


def _gaussian(distance, width):
    return np.exp(-((distance / width) ** 2) / 2) / (width * np.sqrt(2 * np.pi))


def test_the_density_nears_the_exact_one_with_many_starts():
    points, width = np.linspace(-3, 5, 200), 0.3
    exact = _gaussian(points[:, np.newaxis] - EIGENVALUES, width).mean(1)
    density = spectral_density(*_quadratures(4000), points, width)
    np.testing.assert_allclose(density, exact, atol=0.02 * exact.max())


def test_the_density_of_two_images_worked_by_hand():
    values, weights = np.array([[0.0, 2], [4, 0]]), np.array([[0.75, 0.25], [0.5, 0.5]])
    density = spectral_density(values, weights, np.array([0.0, 2, 4]), 0.1)
    peak = 1 / (0.1 * np.sqrt(2 * np.pi))
    expected = peak * np.array([0.75 + 0.5, 0.25, 0.5]) / 2
    np.testing.assert_allclose(density, expected, rtol=1e-12)


def test_the_density_over_the_automatic_grid_integrates_to_one():
    values, weights = _quadratures(10)
    points, width = density_grid(values)
    density = spectral_density(values, weights, points, width)
    assert np.trapezoid(density, points) == pytest.approx(1, abs=1e-6)


def test_the_automatic_width_is_a_small_part_of_the_range():
    points, width = density_grid(np.array([[-1.0, 0], [3, 0]]))
    assert width == pytest.approx(4 / 300)
    assert points[0] < -1 - 5 * width and points[-1] > 3 + 5 * width
    assert np.diff(points).max() < width / 3


def test_a_spectrum_of_zeros_has_a_grid_too():
    points, width = density_grid(np.zeros((3, 4)))
    assert width > 0 and points[0] < 0 < points[-1]


def test_the_spike_at_zero_does_not_hide_single_eigenvalues():
    points, width = density_grid(EIGENVALUES)
    density = spectral_density(*_quadratures(200), points, width)
    for eigenvalue in (-1, 0.5, 3):
        near = density[np.abs(points - eigenvalue) < width].max()
        assert 1e-3 < near / density.max() < 1


@pytest.mark.parametrize("width", [0.0, -1.0, np.nan])
def test_a_width_must_be_positive(width):
    with pytest.raises(ValueError, match="width must be more than 0"):
        spectral_density(np.ones((1, 1)), np.ones((1, 1)), np.zeros(2), width)


def test_counts_worked_by_hand():
    # Two images of 8 values: the first has 2 eigenvalues of size 3 and 6 zeros, the
    # second 4 of size 1 and 4 zeros.
    values, weights = (
        np.array([[-3.0, 0], [0, 1]]),
        np.array([[0.25, 0.75], [0.5, 0.5]]),
    )
    counts = eigenvalues_beyond(values, weights, 8, np.array([0, 0.5, 1, 2, 3, 9]))
    np.testing.assert_allclose(counts, [3, 3, 1, 1, 0, 0])


def test_counts_near_the_exact_ones_with_many_starts():
    counts = eigenvalues_beyond(*_quadratures(4000), SIZE, np.array([1e-6, 0.7, 2, 4]))
    np.testing.assert_allclose(counts, [3, 2, 1, 0], atol=0.06)


def test_models_are_comparable():
    values, weights = _quadratures(5)

    def curvature(scale):
        unread = [np.zeros(5)] * 6
        return Curvature(*unread, scale * values, weights)

    spectra = mean_spectra({"flat": curvature(1.0), "steep": curvature(100.0)})
    assert list(spectra) == ["flat", "steep"]
    # One grid, whose smoothing is that of the wider range.
    points, width = density_grid(100 * values)
    for scale, (found, density) in zip((1.0, 100.0), spectra.values(), strict=True):
        np.testing.assert_array_equal(found, points)
        expected = spectral_density(scale * values, weights, points, width)
        np.testing.assert_array_equal(density, expected)
