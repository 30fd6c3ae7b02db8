"""Figure of a supernet's architectures: robust accuracy over curvature."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import LogFormatter, MaxNLocator

from advrush_tf.figures.style import COLOURS, DPI, picture
from advrush_tf.landscape.architectures import SampledGenotype
from advrush_tf.statistics import RankCorrelation

_BINS = 16
_EIGENVALUE = "mean largest eigenvalue of the Hessian,\nnats per squared [0, 1] unit"
_ROBUST = "accuracy under PGD"
_DRAWN = {"color": COLOURS[0], "marker": "o"}
_FOUND = {"color": COLOURS[1], "marker": "*"}


def draw_architectures(
    samples: Sequence[SampledGenotype],
    found: SampledGenotype | None,
    correlation: RankCorrelation | None,
    path: Path | None,
) -> np.ndarray:
    """Draws robust accuracy over top eigenvalue, with the distribution of each.

    The eigenvalues' axis is logarithmic if all are more than 0.

    Args:
        samples: random genotypes, one or more.
        found: the genotype that the search derived, which is marked; None without one.
        correlation: of the two quantities, written above; None without one.
        path: of a PNG file, replaced if it is there; None to write none.

    Returns:
        The RGB picture, uint8, (height, width, 3).

    Raises:
        ValueError: there are no samples.
        OSError: the file could not be written.
    """
    if not samples:
        raise ValueError("there are no architectures to draw")
    figure = Figure((6.4, 5.4), layout="constrained", dpi=DPI)
    axes = figure.subplot_mosaic(
        [["above", "."], ["scatter", "beside"]],
        width_ratios=(5, 1),
        height_ratios=(1, 5),
    )
    axes["above"].sharex(axes["scatter"])
    axes["beside"].sharey(axes["scatter"])
    drawn = _points(samples)
    _draw_points(axes["scatter"], drawn, f"{len(samples)} random genotypes", _DRAWN)
    if found:
        own = _points([found])
        _draw_points(axes["scatter"], own, "the search's own", {**_FOUND, "ms": 14})
        axes["above"].axvline(own[0, 0], color=_FOUND["color"], ls="--")
        axes["beside"].axhline(own[0, 1], color=_FOUND["color"], ls="--")
    _finish_scatter(axes["scatter"])
    _draw_distributions(axes, drawn)
    if correlation:
        figure.suptitle(f"Spearman's {correlation}", fontsize="medium")
    return picture(figure, path)


def _points(samples: Sequence[SampledGenotype]) -> np.ndarray:
    return np.array([(sample.top_eigenvalue, sample.robust) for sample in samples])


def _draw_points(
    axes: Axes, points: np.ndarray, label: str, style: dict[str, Any]
) -> None:
    # Points that cover each other look darker.
    axes.plot(*points.T, label=label, ls="", mec="white", mew=0.5, alpha=0.8, **style)


def _finish_scatter(axes: Axes) -> None:
    axes.set(xlabel=_EIGENVALUE, ylabel=_ROBUST)
    if min(np.min(line.get_xdata()) for line in axes.lines) > 0:
        axes.set_xscale("log")
        axes.xaxis.set_major_formatter(LogFormatter())
        axes.xaxis.set_minor_formatter(LogFormatter(minor_thresholds=(1.5, 0.5)))
    axes.grid(alpha=0.3)
    axes.legend(fontsize="small")


def _draw_distributions(axes: dict[str, Axes], points: np.ndarray) -> None:
    """Draws marginal histograms, with bins of equal width on the scatter's axes."""
    above, beside = axes["above"], axes["beside"]
    style: dict[str, Any] = {
        "color": _DRAWN["color"],
        "alpha": 0.8,
        "ec": "white",
        "lw": 0.5,
    }
    x, y = points.T
    if above.get_xscale() == "log":
        bins = 10 ** np.histogram_bin_edges(np.log10(x), _BINS)
        # Rounding may move an end inwards, which would leave out a point.
        bins[0], bins[-1] = min(bins[0], x.min()), max(bins[-1], x.max())
    else:
        bins = np.histogram_bin_edges(x, _BINS)
    above.hist(x, bins.tolist(), **style)
    beside.hist(y, _BINS, orientation="horizontal", **style)
    above.set_ylabel("genotypes")
    beside.set_xlabel("genotypes")
    above.tick_params(labelbottom=False, which="both")
    beside.tick_params(labelleft=False)
    for axis in (above.yaxis, beside.xaxis):
        axis.set_major_locator(MaxNLocator(2, integer=True))
