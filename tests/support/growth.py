"""How a search's steps grow with its sizes.

Run by `PYTHONPATH=.:tests .venv/bin/python -m support.growth --figure=growth.png`.
Measures time and memory of each kind of step at three values of each size, the others
as in `BASE`, each in a process of its own, and draws them on logarithmic axes with the
exponent of the straight line through them.
"""

import argparse
import concurrent.futures
import multiprocessing
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator

BASE = {
    "batch_size": 16,
    "init_channels": 8,
    "num_cells": 4,
    "image_size": 32,
    "num_nodes": 3,
}
VALUES = {
    "batch_size": (8, 16, 32),
    "init_channels": (4, 8, 16),
    "num_cells": (2, 4, 8),
    "image_size": (16, 32, 64),
    "num_nodes": (2, 3, 4),
}
# The alphas' step is the first part of the penalised one.
KINDS = "weights", "penalised alphas"


def measure(kind: str, size: dict[str, int]) -> tuple[float, float, float]:
    """Seconds of a step, its memory in GB, and seconds of tracing and first run."""
    from advrush_tf.runs import profiling
    from advrush_tf.search.model import AdvRushSearchModel

    before = profiling.peak_memory()
    side = size["image_size"]
    model = AdvRushSearchModel(
        10,
        (side, side, 3),
        size["init_channels"],
        size["num_cells"],
        size["num_nodes"],
    )
    # At once, so that each size alone changes.
    model.compile(penalty_batch=size["batch_size"])
    cost = profiling.measure_search_step(model, kind, size["batch_size"], repeats=3)
    start = cost.trace_seconds + cost.first_seconds - cost.seconds
    return cost.seconds, (cost.peak_bytes - before) / 1e9, start


def exponent(sizes: Sequence[float], values: Sequence[float]) -> float:
    """Slope of the straight line through the logarithms, by least squares."""
    return float(np.polyfit(np.log(sizes), np.log(values), 1)[0])


def draw(results: dict[str, dict[str, list[tuple[float, ...]]]], path: Path) -> None:
    """Draws each quantity over each size.

    Args:
        results: of each size's name and kind of step, what `measure` gave.
        path: of the PNG file.
    """
    from advrush_tf.figures import style

    quantities = "step, s", "memory, GB", "before the first step, s"
    figure = Figure((3 * len(results), 8), dpi=style.DPI, layout="constrained")
    axes = figure.subplots(len(quantities), len(results), sharey="row", squeeze=False)
    for column, (name, kinds) in enumerate(results.items()):
        for row, quantity in enumerate(quantities):
            axis = axes[row, column]
            for number, (kind, points) in enumerate(kinds.items()):
                values = [point[row] for point in points]
                slope = exponent(VALUES[name], values)
                label = f"{kind}: {slope:.2f}"
                axis.loglog(
                    VALUES[name], values, label=label, **style.curve_style(number)
                )
            axis.set_xticks(VALUES[name], [str(value) for value in VALUES[name]])
            axis.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
            axis.yaxis.set_major_formatter("{x:g}")
            axis.minorticks_off()
            axis.margins(y=0.3)  # For the legend.
            axis.grid(alpha=0.3)
            axis.legend(fontsize=7, title="exponent", title_fontsize=7)
            if not column:
                axis.set_ylabel(quantity)
        axes[-1, column].set_xlabel(name)
    style.picture(figure, path)


def main() -> None:
    """Measures, prints a table with the exponents, and draws the figure."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--figure", type=Path, required=True, help="PNG to write.")
    path = parser.parse_args().figure
    known: dict[tuple[str, tuple[int, ...]], tuple[float, ...]] = {}
    results: dict[str, dict[str, list[tuple[float, ...]]]] = {}
    print("| size | values | step | step, s | memory, GB | before the first, s |")
    print("|---|---|---|---|---|---|")
    for name, values in VALUES.items():
        results[name] = {}
        for kind in KINDS:
            points = []
            for value in values:
                size = BASE | {name: value}
                key = kind, tuple(size.values())
                if key not in known:
                    known[key] = _in_own_process(kind, size)
                points.append(known[key])
            results[name][kind] = points
            columns = [
                ", ".join(f"{point[i]:.3g}" for point in points)
                + f" ({exponent(values, [point[i] for point in points]):.2f})"
                for i in range(3)
            ]
            print(
                f"| {name} | {', '.join(map(str, values))} | {kind} | "
                + " | ".join(columns)
                + " |",
                flush=True,
            )
    draw(results, path)


def _in_own_process(kind: str, size: dict[str, int]) -> tuple[float, ...]:
    spawn = multiprocessing.get_context("spawn")
    with concurrent.futures.ProcessPoolExecutor(1, spawn) as pool:
        return pool.submit(measure, kind, size).result()


if __name__ == "__main__":
    main()
