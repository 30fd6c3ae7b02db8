"""What a run shows in TensorBoard: curves, learning rates, its settings."""

import os
from collections.abc import Collection, Mapping
from typing import Any, ClassVar

import keras
import numpy as np
import tensorflow as tf
from tensorboard.plugins.hparams import api as hp


class RunTensorBoard(keras.callbacks.Callback):
    """Writes a run's progress to event files for TensorBoard.

    Per step `step/...`: the step's logs and the learning rates that it used. Per epoch
    `epoch/...`: the logs of `fit` and the learning rates of the epoch's first step.
    Steps are counted by the model's optimizer and epochs from 1, so that a resumed run
    goes on where it was; the steps that an interrupted one wrote beyond that point are
    taken out of the curves. A callback that restores or saves the model has to come
    before this one, so that no epoch is written twice.

    Args:
        folder: Where the event files are written; made if it is not there.
        hyperparameters: Name and value of each setting, for the HParams tab.
        every_steps: Steps from one step that is written to the next, at least 1.

    Raises:
        ValueError: If `every_steps` is less than 1.
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
        try:
            self._writer = tf.summary.create_file_writer(self._folder)
        except tf.errors.OpError as error:
            raise OSError(error.message) from None
        _mark_start(self._writer, self._step + 1)
        with self._writer.as_default():
            hp.hparams_config(
                # Without domains, which would hide the values of other runs.
                [hp.HParam(name) for name in self._hyperparameters],
                [hp.Metric(t, display_name=n) for t, n in self.metric_names.items()],
            )
            hp.hparams(self._hyperparameters)
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
        with self._writer.as_default(epoch + 1):
            for name, picture in self.epoch_pictures(epoch).items():
                tf.summary.image(name, picture[np.newaxis])
        self._writer.flush()

    def on_train_end(self, logs=None):
        self._writer.close()

    def step_values(self, logs: Mapping[str, Any]) -> dict[str, Any]:
        """What is written of a step; of a fit, the running means of its epoch."""
        return dict(logs)

    def epoch_pictures(self, epoch: int) -> dict[str, np.ndarray]:
        """RGB pictures, uint8 (height, width, 3), of an epoch, counted from 0."""
        del epoch
        return {}

    def optimizers(self) -> dict[str, keras.optimizers.Optimizer]:
        """The optimizers by the prefix of their learning rate's name."""
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
        with self._writer.as_default(step):
            for name, value in values.items():
                tf.summary.scalar(f"{group}/{name}", value)


class FitTensorBoard(RunTensorBoard):
    """`RunTensorBoard` of a fit."""

    metric_names: ClassVar[Mapping[str, str]] = {
        **RunTensorBoard.metric_names,
        "epoch/val_robust_accuracy": "validation robust accuracy",
    }


def _mark_start(writer: Any, step: int) -> None:
    """Tells TensorBoard to drop what earlier files hold from this step on."""
    log = tf.compat.v1.SessionLog(status=tf.compat.v1.SessionLog.START)
    event = tf.compat.v1.Event(step=step, session_log=log)
    tf.raw_ops.ImportEvent(writer=writer._resource, event=event.SerializeToString())


def _simple(value: Any) -> bool | int | float | str:
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, Collection) and not isinstance(value, str):
        return ", ".join(map(str, value))
    return value if isinstance(value, bool | int | float | str) else str(value)
