"""What a search shows in TensorBoard beside its curves: the alphas, the genotype."""

from collections.abc import Mapping, Sequence
from typing import ClassVar

import numpy as np
import tensorflow as tf
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from advrush_tf.figures.genotype import genotype_image
from advrush_tf.figures.style import COLOURS, picture
from advrush_tf.runs.tensorboard import RunTensorBoard

_NARROWEST = 0.02  # of the colour scale, to each side of equal weights
_FRAME = COLOURS[1]
_DPI = 130


class SearchTensorBoard(RunTensorBoard):
    """`RunTensorBoard` of a search.

    A step's values are its own, not the running means of its epoch. Per epoch there are
    the pictures `alphas/normal`, `alphas/reduce` and `genotype/cells`.
    """

    metric_names: ClassVar[Mapping[str, str]] = {
        **RunTensorBoard.metric_names,
        "epoch/penalty": "penalty",
    }

    def step_values(self, logs):
        del logs
        return self.model.last_step

    def optimizers(self):
        return {"": self.model.optimizer, "alpha_": self.model.alpha_optimizer}

    def epoch_pictures(self, epoch):
        genotype = self.model.genotype()
        pictures = {"genotype/cells": genotype_image(genotype)}
        for kind, alphas in zip(("normal", "reduce"), self.model.alphas, strict=True):
            pictures[f"alphas/{kind}"] = alphas_image(
                np.asarray(tf.nn.softmax(alphas.value)),
                self.model.supernet.primitives,
                f"{kind} cell, epoch {epoch + 1}",
                getattr(genotype, kind),
            )
        return pictures


def alphas_image(
    weights: np.ndarray,
    primitives: Sequence[str],
    title: str,
    kept: Sequence[tuple[str, int]],
) -> np.ndarray:
    """Draws a cell's weights as a heat map: a row per edge, a column per operation.

    Rows are named "<node> <- <state>", both counted with the cell's inputs as 0 and 1.
    Framed are the edges and operations that the genotype keeps.

    Args:
        weights: Weights of the operations, in [0, 1], shape (edges, operations), the
            edges ordered by node and then by state.
        primitives: Names of the operations.
        title: What is written above.
        kept: The genotype's (operation, state), two for each node.

    Returns:
        RGB picture, uint8, shape (height, width, 3).
    """
    rows, columns = weights.shape
    figure = Figure((2.1 + 0.5 * columns, 1.3 + 0.27 * rows), layout="constrained")
    figure.set_dpi(_DPI)
    axes = figure.add_subplot()
    low, high = _colour_range(weights)
    image = axes.imshow(weights, "viridis", aspect="auto", vmin=low, vmax=high)
    figure.colorbar(image, label="weight (softmax of the alphas)")
    edges = _edges(rows)
    axes.set_xticks(range(columns), primitives, rotation=30, ha="right")
    axes.set_yticks(range(rows), [f"{node} \u2190 {state}" for node, state in edges])
    axes.set(title=title, ylabel="edge (node \u2190 state)")
    for (row, column), weight in np.ndenumerate(weights):
        colour = "black" if weight > (low + high) / 2 else "white"
        axes.text(column, row, f"{weight:.3f}", color=colour, ha="center", va="center")
    for slot, (name, state) in enumerate(kept):
        row, column = edges.index((slot // 2 + 2, state)), primitives.index(name)
        corner = (column - 0.46, row - 0.44)
        axes.add_patch(Rectangle(corner, 0.92, 0.88, fill=False, ec=_FRAME, lw=2.5))
    return picture(figure)


def _edges(count: int) -> list[tuple[int, int]]:
    nodes = range(2, count + 2)
    return [(node, state) for node in nodes for state in range(node)][:count]


def _colour_range(weights: np.ndarray) -> tuple[float, float]:
    equal = 1 / weights.shape[1]
    return (
        min(float(weights.min()), max(equal - _NARROWEST, 0)),
        max(float(weights.max()), equal + _NARROWEST),
    )
