"""The classifier under attack."""

from collections.abc import Callable, Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from advrush_tf.nn.checks import check_precision

LogitsFn = Callable[[tf.Tensor], tf.Tensor]


class StoppedError(RuntimeError):
    """An attack was ended by `BatchedClassifier.stop`."""


def as_logits_fn(model: Any) -> LogitsFn:
    """A function from images to logits: a Keras model's inference mode, or itself."""
    if isinstance(model, keras.Layer):
        return lambda images: model(images, training=False)
    return model


class BatchedClassifier:
    """A classifier that is attacked: its logits, compiled once for one batch size.

    Args:
        model: a Keras classifier or a function of TensorFlow operations: images in
            [0, 1] to logits.
        image_shape: (height, width, channels).
        batch_size: images at a time.

    Raises:
        ValueError: it does not take such images, does not give logits, or computes in
            float16.
    """

    def __init__(self, model: Any, image_shape: Sequence[int], batch_size: int = 128):
        check_precision(getattr(model, "compute_dtype", "float32"))
        logits_fn = as_logits_fn(model)
        self.model = model
        self.image_shape = tuple(image_shape)
        self.batch_size = batch_size

        self._stopped = False

        @tf.function(autograph=False)
        def logits(images: tf.Tensor) -> tf.Tensor:
            return tf.cast(logits_fn(images), images.dtype)

        self._logits = logits
        spec = tf.TensorSpec((batch_size, *self.image_shape), tf.float32)
        shape = self._logits.get_concrete_function(spec).output_shapes
        if shape.rank != 2 or (shape[1] or 0) < 2:
            raise ValueError(
                "the model must give logits of shape (batch, classes), with two "
                f"classes or more, not {shape}"
            )
        self.num_classes = int(shape[1])

    def logits(self, images: tf.Tensor) -> tf.Tensor:
        """Logits of a batch of images, (batch, classes), in their arithmetic.

        Raises:
            StoppedError: as `check_stop`; only outside of graphs.
        """
        self.check_stop()
        return self._logits(images)

    def stop(self) -> None:
        """Ends all attacks on the model, also in other threads.

        That is within a few steps, or of CleverHans' attacks within a batch.
        """
        self._stopped = True

    def check_stop(self) -> None:
        """Raises StoppedError after `stop`: for attacks whose steps are graphs."""
        if self._stopped:
            raise StoppedError

    def predict(self, images: np.ndarray) -> np.ndarray:
        """Logits of any number of images, (images, classes)."""
        outputs = [np.zeros((0, self.num_classes), np.float32)]
        for first in range(0, len(images), self.batch_size):
            part = images[first : first + self.batch_size]
            outputs.append(self.logits(self.filled(part)).numpy()[: len(part)])
        return np.concatenate(outputs)

    def filled(self, images: np.ndarray) -> tf.Tensor:
        """A full batch that begins with these images, at most `batch_size`."""
        rows = np.minimum(np.arange(self.batch_size), len(images) - 1)
        return tf.constant(images[rows])
