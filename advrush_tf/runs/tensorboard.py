"""Callbacks for TensorBoard: curves, learning rates, settings, a search's alphas."""

import contextlib
import os
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import keras
import numpy as np
import tensorflow as tf
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from tensorboard.plugins.hparams import api as hp

from advrush_tf.errors import short_line
from advrush_tf.figures.genotype import CAN_DRAW, genotype_image
from advrush_tf.figures.style import COLOURS, picture

_NARROWEST = 5e-4  # of the colour scale, to each side: half of the last digit shown
_FRAME = COLOURS[1]
_DPI = 130


@contextlib.contextmanager
def event_files() -> Iterator[None]:
    """Raises OSError in place of TensorFlow's error where event files are written."""
    try:
        yield
    except tf.errors.OpError as error:
        raise OSError(None, short_line(str(error.message))) from None


@contextlib.contextmanager
def event_writer(folder: Path) -> Iterator[tf.summary.SummaryWriter]:
    """Gives TensorFlow's writer of summaries, the default one within, at step 0.

    Args:
        folder: of the event file; made if it does not exist.

    Raises:
        OSError: the file could not be made, written or closed.
    """
    with event_files():
        writer = tf.summary.create_file_writer(str(folder))
        with writer.as_default(0):
            yield writer
        writer.close()


class RunTensorBoard(keras.callbacks.Callback):
    """Writes a run's progress to event files for TensorBoard.

    Per step `step/...`: the step's logs and the learning rates that it used. Per epoch
    `epoch/...`: the logs of `fit` and the learning rates of the epoch's first step.
    Steps are counted by the model's optimizer and epochs from 1, so that the curves of
    a resumed run continue; the steps that an interrupted one wrote beyond that point
    are removed. A callback that restores or saves the model has to come
    before this one, so that no epoch is written twice.

    Args:
        folder: Folder of the event files, made if it does not exist; its parent names
            the trial in the HParams tab.
        hyperparameters: Name and value of each setting, for the HParams tab.
        every_steps: Steps from one step that is written to the next, at least 1.

    Raises:
        ValueError: If `every_steps` is less than 1.
        OSError: Within `fit`, if an event file cannot be written.
    """

    # Scalars that the HParams tab lists, and their names there.
    metric_names: ClassVar[Mapping[str, str]] = {
        "epoch/val_accuracy": "validation accuracy",
        "epoch/loss": "loss",
    }

    def __init__(
        self,
        folder: str | os.PathLike,
        hyperparameters: Mapping[str, Any],
        every_steps: int = 10,
    ):
        super().__init__()
        if every_steps < 1:
            raise ValueError(f"every_steps must be 1 or more, not {every_steps}.")
        self._folder = os.fspath(folder)
        self._hyperparameters = {k: _simple(v) for k, v in hyperparameters.items()}
        self._every_steps = every_steps
        self._epoch_rates: dict[str, float] = {}
        self._step_rates: dict[str, float] = {}

    def on_train_begin(self, logs=None):
        with event_files():
            self._writer = tf.summary.create_file_writer(self._folder)
            _mark_start(self._writer, self._step + 1)
            with self._writer.as_default():
                hp.hparams_config(
                    # Without domains, which would hide the values of other runs.
                    [hp.HParam(name) for name in self._hyperparameters],
                    [
                        hp.Metric(t, display_name=n)
                        for t, n in self.metric_names.items()
                    ],
                )
                # Without a name it is a hash of the settings; of long ones the table
                # shows the first letters.
                run = Path(self._folder).parent
                hp.hparams(self._hyperparameters, f"{run.name} ({run})")
            self._writer.flush()

    def on_train_batch_begin(self, batch, logs=None):
        # Afterwards a schedule would already give the rate of the step to come.
        if batch == 0:
            self._epoch_rates = self._learning_rates()
        if (self._step + 1) % self._every_steps == 0:
            self._step_rates = self._learning_rates()

    def on_train_batch_end(self, batch, logs=None):
        step = self._step
        if step % self._every_steps == 0:
            values = self.step_values(logs or {}) | self._step_rates
            self._write_scalars("step", values, step)

    def on_epoch_end(self, epoch, logs=None):
        self._write_scalars("epoch", (logs or {}) | self._epoch_rates, epoch + 1)
        pictures = self.epoch_pictures(epoch)
        with event_files(), self._writer.as_default(epoch + 1):
            for name, picture in pictures.items():
                tf.summary.image(name, picture[np.newaxis])
            for name, values in self.epoch_distributions().items():
                tf.summary.histogram(name, values)
            self._writer.flush()

    def on_train_end(self, logs=None):
        with event_files():
            self._writer.close()

    def step_values(self, logs: Mapping[str, Any]) -> dict[str, Any]:
        """Returns the scalars of a step: by default, the running means of its epoch."""
        return dict(logs)

    def epoch_pictures(self, epoch: int) -> dict[str, np.ndarray]:
        """Returns RGB pictures, uint8 (height, width, 3), of an epoch from 0 on."""
        del epoch
        return {}

    def epoch_distributions(self) -> dict[str, tf.Tensor]:
        """Returns the values of an epoch's end that are shown as histograms."""
        return {}

    def optimizers(self) -> dict[str, keras.optimizers.Optimizer]:
        """Returns the optimizers by the prefix of their learning rate's name."""
        return {"": self.model.optimizer}

    @property
    def _step(self) -> int:
        return int(self.model.optimizer.iterations.numpy())

    def _learning_rates(self) -> dict[str, float]:
        return {
            f"{name}learning_rate": float(
                keras.ops.convert_to_numpy(optimizer.learning_rate)
            )
            for name, optimizer in self.optimizers().items()
        }

    def _write_scalars(self, group: str, values: Mapping[str, Any], step: int) -> None:
        with event_files(), self._writer.as_default(step):
            for name, value in values.items():
                tf.summary.scalar(f"{group}/{name}", value)


class FitTensorBoard(RunTensorBoard):
    """`RunTensorBoard` of a fit."""

    metric_names: ClassVar[Mapping[str, str]] = {
        **RunTensorBoard.metric_names,
        "epoch/val_robust_accuracy": "validation robust accuracy",
    }


class SearchTensorBoard(RunTensorBoard):
    """`RunTensorBoard` of a search.

    The scalars of a step are not averaged over its epoch. Per epoch there are
    the pictures `alphas/normal`, `alphas/reduce` and, with pygraphviz,
    `genotype/cells`, and the histograms `alpha_values/normal` and
    `alpha_values/reduce`.
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

    def epoch_distributions(self):
        normal, reduce = self.model.alphas
        return {
            "alpha_values/normal": normal.value,
            "alpha_values/reduce": reduce.value,
        }

    def epoch_pictures(self, epoch):
        genotype = self.model.genotype()
        pictures = {"genotype/cells": genotype_image(genotype)} if CAN_DRAW else {}
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
    Framed are the edges and operations that the genotype keeps. The colours reach from
    the smallest weight to the largest.

    Args:
        weights: Weights of the operations, in [0, 1], shape (edges, operations), the
            edges ordered by node and then by state.
        primitives: Names of the operations.
        title: Text above the map.
        kept: (operation, state) of the genotype, two for each node.

    Returns:
        RGB picture, uint8, shape (height, width, 3).
    """
    rows, columns = weights.shape
    figure = Figure((2.1 + 0.5 * columns, 1.3 + 0.27 * rows), layout="constrained")
    figure.set_dpi(_DPI)
    axes = figure.add_subplot()
    low, high = _colour_range(weights)
    image = axes.imshow(weights, "viridis", aspect="auto", vmin=low, vmax=high)
    figure.colorbar(image, label="softmax of the alphas")
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
    low, high = float(weights.min()), float(weights.max())
    margin = max(_NARROWEST - (high - low) / 2, 0)
    return low - margin, high + margin


def _mark_start(writer: Any, step: int) -> None:
    """Makes TensorBoard drop what earlier files hold from this step on."""
    log = tf.compat.v1.SessionLog(status=tf.compat.v1.SessionLog.START)
    event = tf.compat.v1.Event(step=step, session_log=log)
    tf.raw_ops.ImportEvent(writer=writer._resource, event=event.SerializeToString())


def _simple(value: Any) -> bool | int | float | str:
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, Collection) and not isinstance(value, str):
        return ", ".join(map(str, value))
    return value if isinstance(value, bool | int | float | str) else str(value)
