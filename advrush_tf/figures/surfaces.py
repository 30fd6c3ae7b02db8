"""Figures of the loss near images, with several models in each."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import PowerNorm
from matplotlib.contour import ContourSet
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from advrush_tf.figures.style import (
    DPI,
    colour,
    curve_style,
    ink,
    literal,
    picture,
    wrapped,
)
from advrush_tf.landscape.surfaces import Cut, Surface

_COLUMNS = 2
_LINES = 8  # of a contour, about
_INNER = 0.85  # of the plane's radius, within which labels are not cut
_LEVELS = 255  # of an image, to which the unit of the axes belongs
_AXES = {"xlabel": "gradient's sign, 1/255", "ylabel": "random signs, 1/255"}
_LOSS = "loss, nats"
_DECADES = 1e6  # of the logarithmic losses, at most


def draw_surfaces(surfaces: Mapping[str, Surface], path: Path | None) -> np.ndarray:
    """Draws each model's mean loss over the plane, in colours and contour lines.

    The colours are common to all models, and low losses have the larger part of them;
    the contour lines are each model's own. A point marks the clean images.

    Args:
        surfaces: model's name -> surface, one or more.
        path: of a PNG file, replaced if it is there; None to write none.

    Returns:
        The RGB picture, uint8, (height, width, 3).

    Raises:
        OSError: the file could not be written.
    """
    colours = _common_colours(surfaces)
    columns = min(len(surfaces), _COLUMNS)
    rows = -(-len(surfaces) // columns)
    size = (1.2 + 4 * columns, 4.2 * rows)
    # Not "constrained", which cuts labels beside axes of a fixed aspect.
    figure = Figure(size, layout="compressed", dpi=DPI)
    grid = figure.subplots(rows, columns, squeeze=False)
    for axes in grid.flat[len(surfaces) :]:
        axes.set_axis_off()
    # The grid has a panel more than there are models if their number is odd.
    for axes, (name, surface) in zip(grid.flat, surfaces.items(), strict=False):
        axes.set_title(wrapped(name), size="medium")
        _draw_contour(axes, surface, colours)
    figure.colorbar(colours, ax=grid, label=_LOSS, aspect=20 * rows)
    return picture(figure, path)


def draw_cuts(
    cuts: Mapping[str, Cut], epsilon_text: str, path: Path | None
) -> np.ndarray:
    """Draws the loss towards the adversarial images, of several models.

    Lines are means over the images, bands their middle halves. The left panel is linear
    and shows the curvature, the right one is logarithmic, for models whose losses
    differ.

    Args:
        cuts: model's name -> cut, one or more.
        epsilon_text: the radius of the attack, such as "8/255".
        path: of a PNG file, replaced if it is there; None to write none.

    Returns:
        The RGB picture, uint8, (height, width, 3).

    Raises:
        OSError: the file could not be written.
    """
    height = 4 + 0.2 * len(cuts)
    figure = Figure((9.2, height), layout="constrained", dpi=DPI)
    linear, logarithmic = figure.subplots(1, 2)
    for axes in (linear, logarithmic):
        for number, (name, cut) in enumerate(cuts.items()):
            _draw_cut(axes, cut, name, number)
        axes.set(xlabel=f"step, in multiples of epsilon = {epsilon_text}", ylabel=_LOSS)
        axes.margins(x=0)
        axes.grid(alpha=0.3)
        marks = axes.secondary_xaxis("top")
        marks.set_xticks([0, 1], ["clean", "adversarial"])
    linear.set_ylim(bottom=0)
    _make_logarithmic(logarithmic)
    figure.legend(
        # Those that Matplotlib finds itself lack the names that begin with "_".
        handles=linear.lines,
        title="mean, and the middle half of the images",
        loc="outside upper center",
        fontsize="small",
        handlelength=3,
    )
    return picture(figure, path)


def _common_colours(surfaces: Mapping[str, Surface]) -> ScalarMappable:
    """A map from the losses of all surfaces to colours."""
    losses = np.concatenate([each.losses.ravel() for each in surfaces.values()])
    low, high = losses.min(), losses.max()
    if low == high:
        low, high = low - 0.5, high + 0.5
    return ScalarMappable(PowerNorm(0.5, low, high), "viridis")


def _draw_contour(axes: Axes, surface: Surface, colours: ScalarMappable) -> None:
    plane, losses = _plane(surface), surface.losses
    mesh = axes.pcolormesh(*plane, losses, shading="gouraud")
    mesh.set(norm=colours.norm, cmap=colours.cmap)
    ticks = MaxNLocator(_LINES).tick_values(losses.min(), losses.max())
    levels = np.asarray(ticks)
    inks = [ink(colour) for colour in colours.to_rgba(levels)]
    lines = axes.contour(*plane, losses, levels, colors=inks, linewidths=0.7)
    axes.clabel(lines, fontsize="small", manual=_label_positions(lines, plane[0].max()))
    axes.plot(0, 0, "o", color="white", mec="black")
    axes.set(**_AXES, aspect="equal")
    axes.locator_params(nbins=5)


def _plane(surface: Surface) -> tuple[np.ndarray, ...]:
    axes = _LEVELS * surface.first, _LEVELS * surface.second
    return tuple(np.meshgrid(*axes, indexing="ij"))


def _label_positions(lines: ContourSet, radius: float) -> list[np.ndarray]:
    """A point on the longest piece of each line, away from the border."""
    positions = []
    for pieces in lines.allsegs:
        inner = [
            piece[np.abs(piece).max(-1) < _INNER * radius]
            for piece in pieces
            if len(piece)
        ]
        longest = max(inner, key=len, default=())
        if len(longest):
            positions.append(longest[len(longest) // 3])
    return positions


def _draw_cut(axes: Axes, cut: Cut, name: str, number: int) -> None:
    low, high = np.quantile(cut.losses, (0.25, 0.75), axis=0)
    axes.fill_between(cut.steps, low, high, color=colour(number), alpha=0.15, lw=0)
    # A marker for each third of epsilon or so.
    style = {**curve_style(number), "ms": 5, "mfc": "none", "markevery": 3}
    axes.plot(cut.steps, cut.losses.mean(0), label=literal(name), **style)


def _make_logarithmic(axes: Axes) -> None:
    """Makes losses logarithmic, down to half the lowest mean, at most 6 decades."""
    means = np.concatenate([line.get_ydata() for line in axes.lines])
    top = axes.get_ylim()[1]
    lowest = means.min(where=means > 0, initial=top)
    axes.set_yscale("log", nonpositive="clip")
    axes.set_ylim(max(lowest / 2, top / _DECADES), top)
