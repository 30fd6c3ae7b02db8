"""Figures of attacks: adversarial images, robustness curves, transfer."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from advrush_tf.attacks.geometry import Norm
from advrush_tf.figures.style import DPI, colour, curve_style, ink, literal, picture

_ROWS = 8
_CELL = 2.0  # inches
_LONGEST_NAME = 16  # letters, such that neighbours' titles do not meet

_UNITS = {Norm.LINF: "L∞, in [0, 1]", Norm.L2: "L₂, of images in [0, 1]"}
_CLOSEST_TICKS = 1 / 40  # of the axis


def draw_triples(
    clean: np.ndarray,
    adversarial: np.ndarray,
    labels: np.ndarray,
    before: np.ndarray,
    after: np.ndarray,
    class_names: Sequence[str],
    reach: float,
    path: Path | None,
) -> np.ndarray:
    """Draws the first 8 images, each with its adversarial image and their difference.

    All differences have one scale: zero is grey, `reach` and beyond black or white.

    Args:
        clean, adversarial: (images, height, width, channels), floats in [0, 1]. Unless
            there are 3 channels, only the first is shown.
        labels: (images,), integers, the true classes.
        before, after: (images,), integers, the predicted classes of `clean` and of
            `adversarial`.
        class_names: of all classes.
        reach: more than 0, such as the epsilon of an L∞ attack.
        path: of a PNG file, replaced if it is there; None to write none.

    Returns:
        The RGB picture, uint8, (height, width, 3).

    Raises:
        ValueError: there are no images.
        OSError: the file could not be written.
    """
    clean, adversarial = _visible(clean), _visible(adversarial)
    count, height, width = clean.shape[:3]
    rows = min(count, _ROWS)
    size = (3 * _CELL + 0.3, rows * (_CELL * height / width + 0.5))
    figure = Figure(size, layout="constrained", dpi=DPI)
    names = [_short(name) for name in class_names]
    factor = np.format_float_positional(
        1 / reach, precision=2, fractional=False, trim="-"
    )
    for row, axes in enumerate(figure.subplots(rows, 3, squeeze=False)):
        true, first, then = (names[of[row]] for of in (labels, before, after))
        scaled = 0.5 + (adversarial[row] - clean[row]) / reach / 2
        _show(axes[0], clean[row], f"true: {true}\npredicted: {first}")
        _show(axes[1], adversarial[row], f"adversarial\npredicted: {then}")
        _show(axes[2], scaled.clip(0, 1), f"difference x {factor}")
    return picture(figure, path)


def draw_robustness_curves(
    epsilons: Sequence[float],
    curves: Mapping[str, Sequence[tuple[float, float, float]]],
    path: Path | None,
    norm: Norm,
) -> np.ndarray:
    """Draws the accuracy under attacks over epsilon, with interval bands.

    An upper axis labels multiples of 1/255 as fractions if there is room.

    Args:
        epsilons: rising, in [0, 1] units; the first is 0, of the clean images.
        curves: attack's name -> (accuracy, low, high) for each epsilon.
        path: of a PNG file, replaced if it is there; None to write none.
        norm: the norm of epsilon.

    Returns:
        The RGB picture, uint8, (height, width, 3).

    Raises:
        OSError: the file could not be written.
    """
    figure = Figure((6.8, 4), layout="constrained", dpi=DPI)
    axes = figure.add_subplot()
    for number, (name, points) in enumerate(curves.items()):
        accuracy, low, high = zip(*points, strict=True)
        axes.fill_between(epsilons, low, high, color=colour(number), alpha=0.15, lw=0)
        axes.plot(
            epsilons,
            accuracy,
            label=name,
            **curve_style(number),
            ms=5,
            # Where curves meet, the lower ones show through.
            mfc="none",
            # A marker at 0 or 1 is not cut in half.
            clip_on=False,
        )
    axes.set(xlabel=f"epsilon ({_UNITS[norm]})", ylabel="accuracy")
    axes.set(xlim=(0, epsilons[-1]), ylim=(0, 1))
    axes.grid(alpha=0.3)
    _add_fractions(axes, np.asarray(epsilons))
    figure.legend(loc="outside right upper", fontsize="small", handlelength=3)
    return picture(figure, path)


def draw_transfer_matrix(
    names: Sequence[str], matrix: np.ndarray, path: Path | None
) -> np.ndarray:
    """Draws the accuracy of models on images that were crafted on each other.

    Args:
        names: of the models.
        matrix: (models, models), accuracies in [0, 1]; a row for each model that was
            attacked, a column for each model that was measured on its images.
        path: of a PNG file, replaced if it is there; None to write none.

    Returns:
        The RGB picture, uint8, (height, width, 3).

    Raises:
        OSError: the file could not be written.
    """
    count = len(names)
    size = (2.6 + 0.7 * count, 1.8 + 0.5 * count)
    figure = Figure(size, layout="constrained", dpi=DPI)
    axes = figure.add_subplot()
    image = axes.imshow(matrix, "cividis", aspect="auto", vmin=0, vmax=1)
    figure.colorbar(image, label="accuracy")
    axes.set(xlabel="measured on", ylabel="crafted on")
    labels = [literal(name) for name in names]
    axes.set_xticks(range(count), labels, rotation=30, ha="right")
    axes.set_yticks(range(count), labels)
    for (row, column), accuracy in np.ndenumerate(matrix):
        letters = ink(np.array(image.to_rgba(accuracy)))
        axes.text(
            column, row, f"{accuracy:.3f}", color=letters, ha="center", va="center"
        )
    return picture(figure, path)


def _visible(images: np.ndarray) -> np.ndarray:
    return images if images.shape[-1] == 3 else images[..., 0]


def _short(name: str) -> str:
    fits = len(name) <= _LONGEST_NAME
    return literal(name if fits else f"{name[: _LONGEST_NAME - 1]}…")


def _show(axes: Axes, image: np.ndarray, title: str) -> None:
    axes.imshow(image, "gray", vmin=0, vmax=1, interpolation="nearest")
    axes.set_title(title, fontsize="small")
    axes.set_axis_off()


def _add_fractions(axes: Axes, epsilons: np.ndarray) -> None:
    numerators = np.rint(255 * epsilons)
    near = np.diff(epsilons).min(initial=np.inf) < _CLOSEST_TICKS * epsilons[-1]
    if near or not np.allclose(255 * epsilons, numerators, rtol=0, atol=1e-4):
        return
    names = [f"{numerator:.0f}/255" for numerator in numerators]
    axes.secondary_xaxis("top").set_xticks(
        epsilons, names, rotation=90, fontsize="small"
    )
