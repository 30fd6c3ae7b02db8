"""Figures of the curvature near images, with several models in each."""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import SymmetricalLogLocator

from advrush_tf.figures.style import DPI, colour, curve_style, literal, picture, wrapped
from advrush_tf.landscape.meter import Curvature
from advrush_tf.landscape.spectrum import eigenvalues_beyond

_SLOPE, _BEND = "nats per [0, 1] unit", "nats per squared [0, 1] unit"
_WIDE = 30.0  # ratio of numbers beyond which an axis is logarithmic
_DECADES = 1e6  # largest over smallest number of a logarithmic side of zero
_TICKS = 7  # of an axis with two such sides, about
_DENSITIES = 1e6  # highest over lowest density shown
_KEY = "points: images; boxes: quartiles; whiskers: 5 % to 95 %; diamonds: means"
_THRESHOLDS = 400
_FEWEST = 1e-2  # eigenvalues an image that are shown
_GOLDEN = (5**0.5 - 1) / 2


def draw_curvature(
    curvatures: Mapping[str, Curvature], path: Path | None
) -> np.ndarray:
    """Draws each model's distribution of curvature and slope over the images.

    Four panels: the Hessian's eigenvalue of the largest size, its trace, the AdvRush
    penalty and the gradient's norm. A point is an image, a box reaches from the first
    to the third quartile with a line at the median, its whiskers to the outermost
    images between 5 % and 95 %; a diamond is the mean, which few images can make large.

    Args:
        curvatures: model's name -> curvature of its images, one or more of each.
        path: of a PNG file, replaced if it is there; None to write none.

    Returns:
        The RGB picture, uint8, (height, width, 3).

    Raises:
        OSError: the file could not be written.
    """
    names = [wrapped(name) for name in curvatures]
    lines = sum(1 + name.count("\n") for name in names)
    height = 2 + 2 * (0.25 * len(names) + 0.16 * lines)
    figure = Figure((9.2, height), layout="constrained", dpi=DPI)
    figure.suptitle(_KEY, fontsize="small")
    panels = {
        f"largest eigenvalue, {_BEND}": lambda each: each.eigenvalues[:, 0],
        f"trace, {_BEND}": lambda each: each.traces,
        f"AdvRush penalty, {_SLOPE}": lambda each: each.penalties,
        f"gradient's norm, {_SLOPE}": lambda each: each.gradient_norms,
    }
    grid = figure.subplots(2, 2, sharey=True)
    for axes, (label, values_of) in zip(grid.flat, panels.items(), strict=True):
        rows = [values_of(each) for each in curvatures.values()]
        for number, values in enumerate(rows):
            _draw_points(axes, values, number)
        _draw_boxes(axes, rows)
        axes.set_xlabel(label)
        axes.grid(axis="x", alpha=0.3)
        _spread(axes, np.concatenate(rows))
    for axes in grid[:, 0]:
        axes.tick_params("y", labelsize="small")
    # Shared by all panels; the first model is on top.
    grid[0, 0].set_yticks(range(len(names)), names)
    grid[0, 0].set_ylim(len(names) - 0.5, -0.5)
    return picture(figure, path)


def draw_spectra(
    densities: Mapping[str, tuple[np.ndarray, np.ndarray]], path: Path | None
) -> np.ndarray:
    """Draws the density of the input Hessian's eigenvalues, of several models.

    Densities are logarithmic. Those of models are comparable if they were smoothed
    alike, as `mean_spectra` does; `draw_counts` shows ranges that differ much.

    Args:
        densities: model's name -> (eigenvalues, their density), each (points,), rising
            eigenvalues; one model or more.
        path: of a PNG file, replaced if it is there; None to write none.

    Returns:
        The RGB picture, uint8, (height, width, 3).

    Raises:
        OSError: the file could not be written.
    """
    figure, axes = _curves(densities)
    peaks = [density.max() for _, density in densities.values()]
    axes.set_yscale("log")
    axes.set_ylim(min(peaks) / _DENSITIES, 2 * max(peaks))
    axes.set(
        xlabel=f"eigenvalue of the input Hessian, {_BEND}",
        ylabel="density of eigenvalues (integral 1)",
    )
    return picture(figure, path)


def draw_counts(
    curvatures: Mapping[str, Curvature], size: int, path: Path | None
) -> np.ndarray:
    """Draws the mean number of an image's eigenvalues beyond each size.

    Unlike a density it needs no smoothing, and eigenvalues of 0 do not hide the others.

    Args:
        curvatures: model's name -> curvature of its images.
        size: number of an image's values, which is that of its eigenvalues.
        path: of a PNG file, replaced if it is there; None to write none.

    Returns:
        The RGB picture, uint8, (height, width, 3).

    Raises:
        OSError: the file could not be written.
    """
    counts = {}
    for name, curvature in curvatures.items():
        values, weights = curvature.ritz_values, curvature.ritz_weights
        # Of a Hessian of zeros, any size will do.
        largest = float(np.abs(values).max()) or 1.0
        thresholds = np.geomspace(largest / _DECADES, largest, _THRESHOLDS)
        beyond = eigenvalues_beyond(values, weights, size, thresholds)
        counts[name] = thresholds, beyond
    figure, axes = _curves(counts)
    axes.set(xscale="log", yscale="log")
    axes.set(xlabel=f"size of the eigenvalue, {_BEND}", ylabel="eigenvalues beyond it")
    axes.set_ylim(_FEWEST, size)
    return picture(figure, path)


def _curves(
    curves: Mapping[str, tuple[np.ndarray, np.ndarray]],
) -> tuple[Figure, Axes]:
    """Returns a figure with a line for each model's (x, y), and a legend above."""
    height = 4 + 0.2 * len(curves)
    figure = Figure((6.8, height), layout="constrained", dpi=DPI)
    axes = figure.add_subplot()
    for number, (name, points) in enumerate(curves.items()):
        # Markers would hide narrow peaks.
        style = {**curve_style(number), "marker": "", "label": literal(name)}
        axes.plot(*points, **style)
    axes.grid(alpha=0.3)
    figure.legend(
        # Those that Matplotlib finds itself lack the names that begin with "_".
        handles=axes.lines,
        loc="outside upper center",
        fontsize="small",
        handlelength=3,
    )
    return figure, axes


def _draw_points(axes: Axes, values: np.ndarray, row: int) -> None:
    # Evenly strewn over the height of the box.
    heights = row + 0.5 * (np.arange(len(values)) * _GOLDEN % 1 - 0.5)
    axes.scatter(values, heights, 6, color=colour(row), alpha=0.3, lw=0)


def _draw_boxes(axes: Axes, rows: Sequence[np.ndarray]) -> None:
    axes.boxplot(
        rows,
        positions=range(len(rows)),
        orientation="horizontal",
        widths=0.6,
        whis=(5, 95),
        showcaps=False,
        showfliers=False,
        showmeans=True,
        medianprops={"color": "black", "lw": 2.5},
        meanprops={"marker": "D", "mfc": "white", "mec": "black", "ms": 5},
        manage_ticks=False,
    )


def _spread(axes: Axes, values: np.ndarray) -> None:
    """Makes the horizontal axis logarithmic if the values span a wide range."""
    sizes = np.abs(values[values != 0])
    if not len(sizes) or sizes.max() < _WIDE * np.quantile(sizes, 0.1):
        return
    if values.min() > 0:
        axes.set_xscale("log")
        return
    _set_symlog(axes, np.quantile(sizes, 0.1), sizes.max())


def _set_symlog(axes: Axes, threshold: float, largest: float) -> None:
    """Makes the horizontal axis linear up to about `threshold`, then logarithmic."""
    decade = math.ceil(math.log10(max(threshold, largest / _DECADES)))
    axes.set_xscale("symlog", linthresh=10.0**decade)
    locator = axes.xaxis.get_major_locator()
    assert isinstance(locator, SymmetricalLogLocator)
    locator.set_params(numticks=_TICKS)
