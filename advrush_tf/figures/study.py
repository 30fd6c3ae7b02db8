"""Figure of a study: the accuracies of each entry's seeds."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from advrush_tf.figures.style import DPI, colour, picture, wrapped

_QUANTITIES = {"clean": "clean accuracy", "robust": "robust accuracy"}
# From an entry's place to its mean, and to both ends of its points.
_MEAN, _POINTS = 0.15, (-0.3, -0.05)
_LEGEND = "Points are seeds, diamonds their means with Student's 95 % intervals."


def draw_study(
    runs: Sequence[Mapping[str, Any]],
    means: Sequence[Mapping[str, Any]],
    outline: str,
    path: Path | None,
) -> np.ndarray:
    """Draws clean and robust accuracy side by side, a row of axes an objective.

    Each seed is a point, beside them the mean with its 95 % interval.

    Args:
        runs: each with `entry`, `objective`, `clean` and `robust`; one or more.
        means: a row an entry and objective, with `mean`, `low` and `high` (or None) of
            both accuracies.
        outline: what was measured, in a sentence.
        path: of a PNG file, replaced if it is there; None to write none.

    Returns:
        The RGB picture, uint8, (height, width, 3).

    Raises:
        OSError: the file could not be written.
    """
    objectives = list(dict.fromkeys(run["objective"] for run in runs))
    entries = list(dict.fromkeys(run["entry"] for run in runs))
    width, height = 2 * (1.2 + 0.9 * max(len(entries), 3)), 3.2 * len(objectives)
    figure = Figure((width, height), layout="constrained", dpi=DPI)
    grid = figure.subplots(len(objectives), len(_QUANTITIES), squeeze=False)
    for objective, row in zip(objectives, grid, strict=True):
        for (name, label), axes in zip(_QUANTITIES.items(), row, strict=True):
            for number, entry in enumerate(entries):
                wanted = {"entry": entry, "objective": objective}
                values = [run[name] for run in runs if wanted.items() <= run.items()]
                mean = next((m for m in means if wanted.items() <= m.items()), None)
                _draw_entry(axes, number, values, mean and mean[name])
            axes.set(ylabel=f"{label}, {objective}")
            names = [wrapped(entry) for entry in entries]
            ticks = {"rotation": 30, "ha": "right", "fontsize": "small"}
            axes.set_xticks(range(len(entries)), names, **ticks)
            axes.grid(alpha=0.3, axis="y")
    figure.suptitle(f"{outline} {_LEGEND}", fontsize="small", wrap=True)
    return picture(figure, path)


def _draw_entry(
    axes: Axes, number: int, values: Sequence[float], mean: Mapping[str, Any] | None
) -> None:
    places = number + np.linspace(*_POINTS, len(values) + 2)[1:-1]
    style: dict[str, Any] = {"color": colour(number), "ls": ""}
    axes.plot(places, values, marker="o", ms=4, alpha=0.6, mec="white", **style)
    if mean is None:
        return
    low, high = (
        mean[end] if mean[end] is not None else mean["mean"] for end in ("low", "high")
    )
    reach = [[mean["mean"] - low], [high - mean["mean"]]]
    axes.errorbar(
        number + _MEAN, mean["mean"], reach, marker="D", ms=6, capsize=4, **style
    )
