"""Figure of a fit: its accuracies, losses and learning rate."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from advrush_tf.figures.style import COLOURS, DPI, picture

# Solid for held-out images, dashed for training images.
_BLUE, _ORANGE, _GREY = *COLOURS[:2], "#666666"
_FEW = 15  # points, which are marked: a single one has no line
_ACCURACIES = {
    "val_accuracy": ("clean, held out", _BLUE, "-"),
    "val_robust_accuracy": ("robust, held out", _ORANGE, "-"),
    "accuracy": ("clean, training", _BLUE, "--"),
    "robust_accuracy": ("robust, training", _ORANGE, "--"),
}


def draw_curves(
    history: Sequence[Mapping[str, float]], best_epoch: int, path: Path | None
) -> np.ndarray:
    """Draws accuracies, losses and learning rate over the epochs.

    Args:
        history: a row an epoch, with `epoch`, `loss`, `learning_rate` and the
            accuracies that were measured then.
        best_epoch: where a line marks the best weights.
        path: of a PNG file, replaced if it is there; None to write none.

    Returns:
        The RGB picture, uint8, (height, width, 3).

    Raises:
        OSError: the file could not be written.
    """
    figure = Figure((9, 3.4), layout="constrained", dpi=DPI)
    accuracy, loss = figure.subplots(1, 2)
    for name, (label, colour, style) in _ACCURACIES.items():
        _plot(accuracy, history, name, label=label, color=colour, ls=style)
    accuracy.axvline(best_epoch, color=_GREY, lw=1, ls=":", label="best weights")
    accuracy.set(ylabel="accuracy", ylim=(0, 1))
    accuracy.legend(fontsize="small")
    _plot(loss, history, "loss", label="loss, training", color=_BLUE, ls="--")
    _plot(loss, history, "val_loss", label="clean loss, held out", color=_BLUE, ls="-")
    loss.set(ylabel="loss, nats")
    rate = loss.twinx()
    _plot(rate, history, "learning_rate", label="learning rate", color=_GREY, ls=":")
    rate.set(ylabel="learning rate")
    lines = [*loss.lines, *rate.lines]
    loss.legend(lines, [line.get_label() for line in lines], fontsize="small")
    for axes in (accuracy, loss):
        axes.set(xlabel="epoch")
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    return picture(figure, path)


def _plot(
    axes: Axes, history: Sequence[Mapping[str, float]], name: str, **style: Any
) -> None:
    points = [(row["epoch"], row[name]) for row in history if name in row]
    if points:
        marker = "o" if len(points) < _FEW else None
        axes.plot(*zip(*points, strict=True), marker=marker, ms=3, **style)
