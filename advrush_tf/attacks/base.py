"""The parts that all attacks share: classifier, hyper-parameters and outcomes."""

import abc
import contextlib
import dataclasses
import functools
import warnings
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from advrush_tf.attacks import sanity_checks
from advrush_tf.attacks.geometry import Norm, as_number, is_inside
from advrush_tf.attacks.losses import is_wrong
from advrush_tf.custom_gradient import custom_gradient
from advrush_tf.errors import UserError
from advrush_tf.inputs import (
    are_probabilities,
    image_array,
    label_array,
    warn_of_probabilities,
)
from advrush_tf.nn.checks import check_precision

LogitsFn = Callable[[tf.Tensor], tf.Tensor]

# Images for a look at a model's answers.
_IMAGES = 64
# That models expect; the first is the one of all images here.
_RANGES = {
    "[0, 1]": (np.float32(0), np.float32(1)),
    "[0, 255]": (np.float32(0), np.float32(255)),
    "[-1, 1]": (np.float32(-1), np.float32(1)),
}


class StoppedError(RuntimeError):
    """An attack was ended by `BatchedClassifier.stop`."""


def as_logits_fn(model: Any) -> LogitsFn:
    """Returns a Keras model's logits in inference mode, or the function itself.

    Raises:
        ValueError: the model computes in float16.
    """
    if isinstance(model, keras.Layer):
        check_precision(model.compute_dtype)
        return lambda images: model(images, training=False)
    return model


class BatchedClassifier:
    """The logits of the classifier under attack, compiled once.

    Attacks on few images have smaller batches. One graph serves all sizes, unless the
    model must know the size: then each has its own.

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
        logits_fn = as_logits_fn(model)
        self.model = model
        self.image_shape = tuple(image_shape)
        self.batch_size = batch_size

        self._stopped = False
        self._bad_gradients = tf.Variable(0, trainable=False, dtype=tf.int64)

        def logits(images: tf.Tensor) -> tf.Tensor:
            outputs = logits_fn(images)
            if isinstance(outputs, list | tuple | dict):
                raise UserError(
                    f"the model has {len(outputs)} outputs: take the one with the "
                    "logits, such as keras.Model(model.inputs, model.outputs[0])"
                )
            return tf.cast(outputs, images.dtype)

        self._logits, shape = self._traced(logits)
        if not _are_logits(shape):
            raise ValueError(
                "the model must give logits of shape (batch, classes), with two "
                f"classes or more, not {shape}"
            )
        self.num_classes = int(shape[1])

    def _traced(self, logits: LogitsFn) -> tuple[Any, tf.TensorShape]:
        """The compiled function, and the shape of what it gives."""

        def trace(number: int | None) -> tuple[Any, tf.TensorShape]:
            function = tf.function(logits, autograph=False)
            spec = tf.TensorSpec((number, *self.image_shape), tf.float32)
            return function, function.get_concrete_function(spec).output_shapes

        # What has another cause than the unknown size is raised below.
        with contextlib.suppress(Exception):
            function, shape = trace(None)
            if _are_logits(shape):
                return function, shape
        return trace(self.batch_size)

    def logits(self, images: tf.Tensor) -> tf.Tensor:
        """Logits of a batch of images, (batch, classes), in their arithmetic.

        Raises:
            StoppedError: as `check_stop`; only outside of graphs.
        """
        self.check_stop()
        logits = self._logits(images)
        # The graph of all sizes does not know this one.
        logits.set_shape((images.shape[0], None))
        return logits

    @functools.cached_property
    def followed_logits(self) -> LogitsFn:
        """As `logits`, for attacks: `bad_gradients` counts what comes back to them.

        One function for all calls: what TensorFlow traced with it is found by it.
        """

        # Graphs that outlive the classifier own the gradient: it may not own that.
        bad_gradients = self._bad_gradients

        @custom_gradient
        def counted(images):
            def gradient(upstream):
                upstream.set_shape(images.shape)
                bad = ~tf.reduce_all(tf.math.is_finite(upstream))
                bad_gradients.assign_add(tf.cast(bad, tf.int64))
                return upstream

            return tf.identity(images), gradient

        return lambda images: self.logits(counted(images))

    @property
    def bad_gradients(self) -> int:
        """Number of batches of gradients so far that had NaN or infinite entries."""
        return int(self._bad_gradients)

    def stop(self) -> None:
        """Ends all attacks on the model, also in other threads.

        They end within a few steps, those of CleverHans within a batch.
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
        indices = np.minimum(np.arange(self.batch_size), len(images) - 1)
        return tf.constant(images[indices])


def _are_logits(shape: tf.TensorShape) -> bool:
    return shape.rank == 2 and (shape[1] or 0) >= 2


def is_right(
    classifier: BatchedClassifier, images: np.ndarray, y: np.ndarray
) -> np.ndarray:
    """Compares the model's answers with the labels: the basis of every accuracy.

    Args:
        classifier: the model.
        images: (images, height, width, channels), clean or adversarial, in [0, 1].
        y: (images,), integer labels.

    Returns:
        (images,), bool, True where the model gives the label, see `losses.is_wrong`.
    """
    return ~is_wrong(classifier.predict(images), y).numpy()


def open_labelled(
    model: Any, x: Any, y: Any, batch_size: int = 128
) -> tuple[BatchedClassifier, np.ndarray, np.ndarray]:
    """The classifier and the images of an attack, once checked.

    Warns of a model that gives probabilities, see `warn_of_probabilities`, and of what
    `check_answers` finds.

    Args:
        model, batch_size: see `BatchedClassifier`; no more than there are images.
        x: (images, height, width, channels), floats in [0, 1], one image or more.
        y: labels, see `advrush_tf.inputs.as_labels`.

    Returns:
        The model, the images as float32, and the labels (images,), int32.

    Raises:
        ValueError: images, labels or model are not so.
    """
    x = image_array(x).astype(np.float32)
    classifier = BatchedClassifier(model, x.shape[1:], min(batch_size, len(x)))
    y = label_array(y, len(x), classifier.num_classes)
    found = are_probabilities(classifier.predict(x[: classifier.batch_size]))
    warn_of_probabilities(bool(found))
    for finding in check_answers(classifier, x, y):
        warnings.warn(finding.sentence, stacklevel=3)
    return classifier, x, y


def check_answers(
    classifier: BatchedClassifier, x: np.ndarray, y: np.ndarray
) -> list[sanity_checks.Finding]:
    """Checks whether a model is fitted, and to images in [0, 1], on 64 of them.

    Args:
        classifier: the model.
        x: (images, height, width, channels), float32, one image or more.
        y: (images,), integer labels.
    """
    x, y = some_rows(x), some_rows(y)
    answers = classifier.predict(x).argmax(-1)
    right = {
        name: int(is_right(classifier, low + (high - low) * x, y).sum())
        for name, (low, high) in _RANGES.items()
    }
    findings = [
        sanity_checks.chance(answers, y, classifier.num_classes),
        sanity_checks.other_range(right, len(x)),
    ]
    return [finding for finding in findings if finding]


def some_rows(rows: np.ndarray) -> np.ndarray:
    """At most 64 rows, from all over: the first ones may be of one class."""
    count = min(len(rows), _IMAGES)
    return rows[np.linspace(0, len(rows) - 1, count).astype(int)]


def warn_of_bad_gradients(classifier: BatchedClassifier) -> None:
    """Warns if an attack met gradients of a model that are not finite."""
    attacks = ["the attack"] if classifier.bad_gradients else []
    if finding := sanity_checks.bad_gradients(attacks):
        warnings.warn(finding.sentence, stacklevel=3)


@dataclasses.dataclass(frozen=True)
class Outcome:
    """The result of an attack on one image.

    Attributes:
        index: of the image among the attacked ones.
        image: (height, width, channels), in the ball around the given one and in
            [0, 1]: adversarial if broken, else the given one, or of a persistent
            attack the last one tried.
        broken: whether it is adversarial.
    """

    index: int
    image: np.ndarray
    broken: bool


@dataclasses.dataclass(frozen=True)
class Attack(abc.ABC):
    """Base of the attacks: hyper-parameters only; model and data come at the call.

    What an attack finds is checked here: only a finite image inside the ball and
    [0, 1] is adversarial, and an image that nothing broke is given back.

    Attributes:
        norm: of the ball.
        epsilon: its radius, in [0, 1] units; a text such as "8/255" is understood.
        persistent: for images that transfer to other models: one that nothing broke is
            given back as it was tried last, and our own attacks go on to the last
            step of a run, for the last adversarial image in place of the first, or
            else the one of the highest loss. It breaks the same images.

    Raises:
        ValueError: a number is out of range.
    """

    norm: Norm = Norm.LINF
    epsilon: float = 8 / 255
    persistent: bool = dataclasses.field(default=False, kw_only=True)

    def __post_init__(self) -> None:
        object.__setattr__(self, "norm", Norm(self.norm))
        object.__setattr__(self, "epsilon", as_number(self.epsilon))
        self._require_positive("epsilon")

    def _require_positive(self, *names: str) -> None:
        for name in names:
            if not 0 < getattr(self, name) < float("inf"):
                raise ValueError(
                    f"{name} must be more than 0, not {getattr(self, name)}"
                )

    def outcomes(
        self,
        classifier: BatchedClassifier,
        x: np.ndarray,
        y: np.ndarray,
        seed: int,
        indices: np.ndarray | None = None,
    ) -> Iterator[Outcome]:
        """Attacks images and yields each outcome as soon as it is known.

        Args:
            classifier: the model.
            x: (images, height, width, channels), float32 in [0, 1].
            y: (images,), integer labels.
            seed: of the attack's random numbers.
            indices: (images,), the numbers of the images in their data set, which
                with `seed` give their random numbers; by default 0, 1, 2, ...
        """
        indices = np.arange(len(x)) if indices is None else indices
        for found in self._tried(classifier, x, y, seed, indices):
            given = x[found.index]
            inside = is_inside(self.norm, found.image, given, self.epsilon)
            broken = found.broken and inside
            keep = broken or (self.persistent and inside)
            yield Outcome(found.index, found.image if keep else given, broken)

    @abc.abstractmethod
    def _tried(
        self,
        classifier: BatchedClassifier,
        x: np.ndarray,
        y: np.ndarray,
        seed: int,
        indices: np.ndarray,
    ) -> Iterator[Outcome]:
        """Attacks images and yields, for each, what was found or tried last.

        Args are those of `outcomes`.
        """

    def craft(
        self, model: Any, x: np.ndarray, y: np.ndarray, seed: int = 0, **options: Any
    ) -> np.ndarray:
        """Attacks images, whatever their number.

        Args:
            model: see `BatchedClassifier`.
            x: (images, height, width, channels), floats in [0, 1].
            y: labels, see `advrush_tf.inputs.as_labels`.
            seed: of the attack's random numbers.
            **options: of `BatchedClassifier`.

        Returns:
            Images as `x`, see `Outcome.image`.

        Warns of a model that cannot be attacked as it is, see `open_labelled`, and of
        gradients that are not finite.

        Raises:
            ValueError: images are not floats in [0, 1], or labels are wrong.
        """
        classifier, x, y = open_labelled(model, x, y, **options)
        images = x.copy()
        for outcome in self.outcomes(classifier, x, y, seed):
            images[outcome.index] = outcome.image
        warn_of_bad_gradients(classifier)
        return images
