"""Figures of a search: the weights of its edges and its measurements."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from advrush_tf.figures.style import COLOURS, DPI, colour, curve_style, picture
from advrush_tf.genotypes.search_space import ALL_PRIMITIVES
from advrush_tf.search.history import CELLS, SearchHistory
from advrush_tf.search.penalty import Penalty

_GREY = "#666666"
_NARROWEST = 0.005  # of the weights' axis, to each side of equal weights
_FEW = 15  # epochs, whose points are marked: a single one has no line
# No two operations have both colour and hatch in common.
_HATCHES = ("", "////", "", "....", "", "\\\\\\\\")
_NAMES = {"normal": "normal cell", "reduce": "reduction cell"}
_LOSSES = {
    "loss": "weight half, training",
    "alpha_loss": "alpha half, training",
    "val_loss": "alpha half, inference",
}
_ACCURACIES = {
    name.replace("loss", "accuracy"): label for name, label in _LOSSES.items()
}


def draw_alphas(history: SearchHistory, kind: str, path: Path | None) -> np.ndarray:
    """Draws the weights of a cell's operations over the epochs, a panel an edge.

    A row of panels for each node, a column for each state that it may read. Thick is
    the operation that the last epoch's genotype keeps; other edges are not kept.
    Dotted are equal weights, and where the penalty sets in.

    Args:
        history: of the search.
        kind: "normal" or "reduce".
        path: of a PNG file, replaced if it is there; None to write none.

    Returns:
        The RGB picture, uint8, (height, width, 3).

    Raises:
        OSError: the file could not be written.
    """
    weights, kept = history.weights[kind], history.kept(kind)[-1]
    nodes = history.genotypes[0].num_nodes
    size = (max(5.5, 0.6 + 1.9 * (nodes + 1)), 1.3 + 1.6 * nodes)
    figure = Figure(size, layout="constrained", dpi=DPI)
    panels = figure.subplots(nodes, nodes + 1, sharex=True, sharey=True, squeeze=False)
    edges = iter(range(weights.shape[1]))
    for (node, state), axes in np.ndenumerate(panels):
        if state >= node + 2:
            axes.set_axis_off()
            continue
        operation = kept.get((node + 2, state))
        _draw_edge(axes, history, weights[:, next(edges)], operation)
        weight = "bold" if operation else "normal"
        axes.set_title(f"{node + 2} ← {state}", size="medium", weight=weight)
    for axes in panels[-1]:
        axes.set_xlabel("epoch")
    _set_epochs(panels[0, 0], history)
    _set_weights(panels[0, 0], weights)
    figure.suptitle(f"{_NAMES[kind]}: node ← state that it reads; bold if kept")
    figure.supylabel("weight (softmax of the alphas)")
    lines = [
        Line2D([], [], label=name, **_style(name) | _marks(history, 4))
        for name in history.primitives
    ]
    figure.legend(
        handles=lines,
        loc="outside lower center",
        ncols=min(5, nodes + 1),
        fontsize="small",
        handlelength=3.5,
    )
    return picture(figure, path)


def _draw_edge(
    axes: Axes, history: SearchHistory, weights: np.ndarray, kept: str | None
) -> None:
    """A line for each operation's weights, (epochs, operations)."""
    for name, values in zip(history.primitives, weights.T, strict=True):
        emphasis = {"lw": 3, "zorder": 3} if name == kept else {"lw": 1}
        style = {**_style(name), **_marks(history, 3), **emphasis}
        axes.plot(history.epochs, values, label=name, **style)
    axes.axhline(1 / len(history.primitives), color=_GREY, lw=0.6, ls=":", zorder=0)
    if (start := _penalty_start(history)) is not None:
        axes.axvline(start, color=_GREY, lw=1.2, ls=":", zorder=0)
    axes.grid(alpha=0.2)


def _style(operation: str) -> dict[str, Any]:
    """The same for an operation in all figures."""
    return {**curve_style(ALL_PRIMITIVES.index(operation)), "ms": 4}


def _set_weights(axes: Axes, weights: np.ndarray) -> None:
    equal = 1 / weights.shape[-1]
    low = min(float(weights.min()), equal - _NARROWEST)
    high = max(float(weights.max()), equal + _NARROWEST)
    margin = 0.03 * (high - low)
    axes.set_ylim(low - margin, high + margin)


def draw_history(history: SearchHistory, path: Path | None) -> np.ndarray:
    """Draws a search's losses, accuracies, penalty, entropy, changes and operations.

    A dotted line marks where the penalty sets in. A panel without data says "not
    recorded".

    Args:
        history: of the search.
        path: of a PNG file, replaced if it is there; None to write none.

    Returns:
        The RGB picture, uint8, (height, width, 3).

    Raises:
        OSError: the file could not be written.
    """
    figure = Figure((9, 12), layout="constrained", dpi=DPI)
    panels = figure.subplots(4, 2)
    _draw_metrics(panels[0, 0], history, _LOSSES)
    panels[0, 0].set(title="loss", ylabel="cross-entropy, nats")
    _draw_metrics(panels[0, 1], history, _ACCURACIES)
    panels[0, 1].set(title="accuracy", ylabel="accuracy")
    _draw_penalty(panels[1, 0], history, "penalty")
    panels[1, 0].set(title="curvature penalty", ylabel=f"penalty, {_unit(history)}")
    _draw_penalty(panels[1, 1], history, "penalty_share")
    panels[1, 1].set(title="the penalty's share of the alphas' gradient", ylim=(0, 1))
    panels[1, 1].set(ylabel="share of the norm")
    _draw_entropy(panels[2, 0], history)
    _draw_changes(panels[2, 1], history)
    for axes, kind in zip(panels[3], CELLS, strict=True):
        _draw_operations(axes, history, kind)
    for axes in panels.flat:
        _finish(axes, history)
    for axes in panels[:3].flat:
        if axes.has_data():
            axes.legend(fontsize="small")
    figure.legend(
        handles=panels[3, 0].containers,
        loc="outside lower center",
        ncols=5,
        fontsize="small",
    )
    return picture(figure, path)


def _draw_metrics(axes: Axes, history: SearchHistory, names: Mapping[str, str]) -> None:
    for number, (name, meaning) in enumerate(names.items()):
        if name in history.metrics:
            style = {**curve_style(number), **_marks(history, 4)}
            axes.plot(history.epochs, history.metrics[name], label=meaning, **style)


def _draw_penalty(axes: Axes, history: SearchHistory, name: str) -> None:
    """Draws the epochs after the warm-up; with a weight of 0 none are measured."""
    on = history.settings["gamma"] > 0
    measured = on & (history.epochs > history.settings["warmup_epochs"])
    if name in history.metrics and measured.any():
        values = np.where(measured, history.metrics[name], np.nan)
        label = name.replace("_", " ")
        axes.plot(
            history.epochs, values, label=label, **curve_style(0) | _marks(history, 4)
        )
        axes.set_ylim(0, 1.3 * max(np.nanmax(values), 1e-9))


def _unit(history: SearchHistory) -> str:
    unit = "nats per input unit"
    squared = history.settings["penalty"] == Penalty.SQUARED_NORM
    return f"({unit})²" if squared else unit


def _draw_entropy(axes: Axes, history: SearchHistory) -> None:
    for number, (kind, values) in enumerate(history.entropy.items()):
        style = {**curve_style(number), **_marks(history, 4)}
        axes.plot(history.epochs, values, label=_NAMES[kind], **style)
    most = np.log(len(history.primitives))
    label = f"equal weights: {most:.3f}"
    axes.axhline(most, color=_GREY, lw=1, ls="--", label=label)
    axes.ticklabel_format(axis="y", useOffset=False)
    axes.set(title="entropy of an edge's weights", ylabel="mean entropy, nats")


def _draw_changes(axes: Axes, history: SearchHistory) -> None:
    """Draws two bars per epoch, one per cell, of new edges and new operations."""
    most = 1
    for number, kind in enumerate(CELLS):
        edges, operations = history.changes(kind)
        epochs = history.epochs + (number - 0.5) * 0.4
        style: dict[str, Any] = {"width": 0.4, "color": COLOURS[number]}
        label = f"{_NAMES[kind]}: other "
        axes.bar(epochs, edges, label=f"{label}edge", **style)
        style["alpha"] = 0.4
        axes.bar(epochs, operations, bottom=edges, label=f"{label}operation", **style)
        most = max(most, (edges + operations).max())
    axes.set(title="changes of the genotype", ylabel="kept edges that changed")
    # Room for the legend above the largest bar.
    axes.set_ylim(0, 2 * most)
    axes.yaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))


def _draw_operations(axes: Axes, history: SearchHistory, kind: str) -> None:
    below = np.zeros(len(history.epochs))
    for name, count in history.counts(kind).items():
        number = ALL_PRIMITIVES.index(name)
        style: dict[str, Any] = {
            "width": 1,
            "color": colour(number),
            "hatch": _HATCHES[number % len(_HATCHES)],
            "ec": "white",
            "lw": 0,
        }
        axes.bar(history.epochs, count, bottom=below, label=name, **style)
        below += count
    axes.set(title=f"operations of the {_NAMES[kind]}", ylabel="kept edges")
    axes.set_ylim(0, below.max())
    axes.yaxis.set_major_locator(MaxNLocator(integer=True))


def _finish(axes: Axes, history: SearchHistory) -> None:
    """Sets the epochs' axis; marks the end of the warm-up or the lack of data."""
    _set_epochs(axes, history)
    axes.set_xlabel("epoch")
    if not axes.has_data():
        middle: dict[str, Any] = {"ha": "center", "va": "center", "color": _GREY}
        axes.text(0.5, 0.5, "not recorded", transform=axes.transAxes, **middle)
    elif (start := _penalty_start(history)) is not None:
        label = "the penalty sets in"
        axes.axvline(start, color=_GREY, lw=1.2, ls=":", label=label)


def _penalty_start(history: SearchHistory) -> float | None:
    """Between the last epoch of the warm-up and the first one after it."""
    start = history.settings["warmup_epochs"] + 0.5
    inside = history.epochs[0] < start < history.epochs[-1]
    return start if inside and history.settings["gamma"] > 0 else None


def _marks(history: SearchHistory, size: float) -> dict[str, Any]:
    """Returns markers for few epochs; the style alone distinguishes long lines."""
    return {"ms": size} if len(history.epochs) < _FEW else {"marker": ""}


def _set_epochs(axes: Axes, history: SearchHistory) -> None:
    axes.set_xlim(history.epochs[0] - 0.5, history.epochs[-1] + 0.5)
    ticks = MaxNLocator(nbins=5, steps=[1, 2, 5, 10], integer=True, min_n_ticks=1)
    axes.xaxis.set_major_locator(ticks)
