"""The eigenvalues of the input Hessians of many images, as densities and as counts.

A piecewise linear network with K classes has at most K - 1 eigenvalues that are not
zero in each image: nearly all the density is a spike at 0. So a density is drawn on a
logarithmic axis (as Ghorbani et al., arXiv 1901.10159, and Yao et al., PyHessian, arXiv
1912.07145, do for Hessians in the weights), and counts show what is beside the spike.

Source: Lin, Saad and Yang, Approximating spectral densities of large matrices, SIAM
Review 58, 2016, for stochastic Lanczos quadrature.
"""

from collections.abc import Mapping

import numpy as np

from advrush_tf.landscape.meter import Curvature

_WIDTHS_IN_RANGE = 300
_POINTS_IN_WIDTH = 4
_MARGIN = 6  # widths


def mean_spectra(
    curvatures: Mapping[str, Curvature],
) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Each model's density of eigenvalues, on one grid and smoothed alike.

    Smoothed by a share of its own range, a flat model would only look denser at 0.

    Args:
        curvatures: model's name -> curvature of its images.

    Returns:
        Model's name -> (points, `spectral_density` there); the points are the same.
    """
    ranges = [curvature.ritz_values.ravel() for curvature in curvatures.values()]
    points, width = density_grid(np.concatenate(ranges))
    return {
        name: (
            points,
            spectral_density(
                curvature.ritz_values, curvature.ritz_weights, points, width
            ),
        )
        for name, curvature in curvatures.items()
    }


def density_grid(ritz_values: np.ndarray) -> tuple[np.ndarray, float]:
    """Returns the points of a density and its smoothing width, 1/300 of the range.

    Args:
        ritz_values: of any shape.

    Returns:
        Rising, equidistant points that go beyond all values, and the width.
    """
    low, high = float(ritz_values.min()), float(ritz_values.max())
    # Of a spectrum that is all one value, any width will do.
    width = (high - low or 1.0) / _WIDTHS_IN_RANGE
    steps = _POINTS_IN_WIDTH * (_WIDTHS_IN_RANGE + 2 * _MARGIN)
    points = np.linspace(low - _MARGIN * width, high + _MARGIN * width, steps + 1)
    return points, width


def spectral_density(
    ritz_values: np.ndarray,
    ritz_weights: np.ndarray,
    points: np.ndarray,
    width: float,
) -> np.ndarray:
    """Density of the eigenvalues, averaged over images and smoothed.

    Args:
        ritz_values, ritz_weights: (images, values), the quadratures of the images'
            spectra, see `Curvature`.
        points: (points,), where the density is evaluated.
        width: standard deviation of the Gaussian that each eigenvalue becomes.

    Returns:
        (points,), per unit of `points`; its integral is 1. Times the number of an
        image's pixels and channels it is the density of the number of eigenvalues.

    Raises:
        ValueError: the width is not positive.
    """
    if not width > 0:
        raise ValueError(f"width must be more than 0, not {width}")
    density = np.zeros(len(points))
    # One image at a time bounds the memory.
    for values, weights in zip(ritz_values, ritz_weights, strict=True):
        distances = (points - values[:, np.newaxis]) / width
        density += weights @ np.exp(-(distances**2) / 2)
    return density / (len(ritz_values) * width * np.sqrt(2 * np.pi))


def eigenvalues_beyond(
    ritz_values: np.ndarray,
    ritz_weights: np.ndarray,
    size: int,
    thresholds: np.ndarray,
) -> np.ndarray:
    """The mean number of an image's eigenvalues beyond each of some sizes.

    Needs no smoothing and leaves out the spike at 0: for two logarithmic axes.

    Args:
        ritz_values, ritz_weights: see `spectral_density`.
        size: number of an image's values (pixels times channels), which is that of its
            eigenvalues.
        thresholds: (thresholds,), 0 or more.

    Returns:
        (thresholds,), from 0 to `size`.
    """
    sizes = np.abs(ritz_values).ravel()
    order = np.argsort(sizes)
    # At each place the weight of all sizes from there on.
    beyond = np.append(np.cumsum(ritz_weights.ravel()[order][::-1])[::-1], 0)
    first = np.searchsorted(sizes[order], thresholds, side="right")
    return beyond[first] * size / len(ritz_values)
