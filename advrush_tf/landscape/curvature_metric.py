"""The curvature of the loss during `fit`, as a Keras callback."""

import contextlib
from typing import Any

import keras
import numpy as np

from advrush_tf.landscape.meter import PROBE_LENGTH, CurvatureMeter


class CurvatureMetric(keras.callbacks.Callback):
    """Adds the mean curvature at given images to the logs of an epoch.

    The logs gain `curvature_top_eigenvalue` (of the largest size, with its
    sign), `curvature_trace`, `curvature_penalty` and `curvature_gradient_norm`: means
    over the images, see `Curvature`. Put it before the callbacks that log them, such
    as TensorBoard and CSVLogger; the history of `fit` always has them.

    Works with any classifier of images in [0, 1] that gives logits, with
    `AdvRushSearchModel` and with `AdvRushFitModel`, whose averaged weights it measures
    if there are any, as `evaluate` does. The model runs in inference mode; weights,
    running statistics and metrics do not change.

    Args:
        x: (images, height, width, channels), floats in [0, 1].
        y: (images,), integer labels.
        h: length of the penalty's probe, in [0, 1] units.
        steps: Lanczos steps, one Hessian-vector product each; see `CurvatureMeter`.
        every_epochs: epochs from one measurement to the next, from the first epoch on.
        batch_size: images at a time.
        seed: of the random numbers, the same in each epoch.

    Raises:
        ValueError: `every_epochs` is out of range; in `fit`, another number is, or the
            images are not as above.
        NonFiniteLossError: in `fit`, a derivative of the loss is not finite.
    """

    def __init__(
        self,
        x: np.ndarray,
        y: np.ndarray,
        h: float = PROBE_LENGTH,
        steps: int = 10,
        every_epochs: int = 1,
        batch_size: int = 32,
        seed: int = 0,
    ):
        super().__init__()
        if every_epochs < 1:
            raise ValueError(f"every_epochs must be 1 or more, not {every_epochs}")
        self._x, self._y, self._every_epochs = x, y, every_epochs
        self._settings: dict[str, Any] = {"h": h, "steps": steps, "top": 1}
        self._settings |= {"batch_size": batch_size, "seed": seed}

    def on_train_begin(self, logs=None):
        # Compiles at the first measurement: the model may have no weights yet.
        self._meter = CurvatureMeter(self.model, **self._settings)

    def on_epoch_end(self, epoch, logs=None):
        if epoch % self._every_epochs or logs is None:
            return
        averaged = getattr(self.model, "averaged", contextlib.nullcontext)
        with averaged():
            curvature = self._meter.measure(self._x, self._y)
        for name, values in curvature.quantities.items():
            logs[f"curvature_{name}"] = float(np.mean(values))
