"""Measurements on the model for the self-checks of an evaluation, with few images."""

import math
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import tensorflow as tf

from advrush_tf.attacks import sanity_checks
from advrush_tf.attacks.base import BatchedClassifier, check_answers, some_rows
from advrush_tf.attacks.geometry import Norm, project, projected_step, steepest
from advrush_tf.attacks.losses import log_odds, margin
from advrush_tf.attacks.pgd import usual_step_size

_PASSES = 4
_RADII = 3
# Within it, any image can become grey.
_LARGEST = 0.5
_STEPS = 20
# In that ball only: a sound model must not keep an image by bad luck.
_LONG_STEPS = 100
_RESTARTS = 4
# In each pixel; more would break many a model that masks its gradients.
_START_NOISE = 8 / 255


class Probed(NamedTuple):
    """Results of the probes of a model.

    Attributes:
        findings: reasons not to trust an evaluation of the model.
        broken: (images,), bool, of those that were probed the ones that PGD on the
            margin broke in the evaluation's ball.
    """

    findings: list[sanity_checks.Finding]
    broken: np.ndarray


def check_model(
    classifier: BatchedClassifier,
    x: np.ndarray,
    y: np.ndarray,
    norm: Norm,
    epsilon: float,
    seed: int,
) -> Probed:
    """Checks a model on 64 of the images, with PGD on those that it gets right.

    Images outside [0, 1], which PGD would clip, are the only finding, if there are any.
    Logits that are not finite are looked for at all images.

    Args:
        classifier: the model.
        x: (images, height, width, channels), float32, one image or more.
        y: (images,), integer labels.
        norm, epsilon: of the evaluation's ball, in [0, 1] units.
        seed: of PGD's starts, at least 0.
    """
    if outside := sanity_checks.images_outside_box(float(x.min()), float(x.max())):
        return Probed([outside], np.zeros(len(x), bool))
    findings = [sanity_checks.not_finite(classifier.predict(x))]
    broken, rows = np.zeros(len(x), bool), some_rows(np.arange(len(x)))
    x, y = x[rows], y[rows].astype(np.int32)
    passes = np.stack([classifier.predict(x) for _ in range(_PASSES)])
    findings += [
        sanity_checks.random_model(passes),
        sanity_checks.probabilities(passes[0]),
        *check_answers(classifier, x, y),
    ]
    clean = -margin(tf.constant(passes[0]), tf.constant(y)).numpy()
    right = (clean > 0) & np.isfinite(passes[0]).all(-1)
    if right.any():
        prober = _Prober(classifier, x[right], y[right], seed)
        one_step = prober.margins(norm, epsilon, epsilon, 1)
        many_steps = prober.from_noise(norm, epsilon, _STEPS)
        broken[rows[right]] = np.minimum(one_step, many_steps) < 0
        # The cube inside the ball.
        cube = epsilon / (math.sqrt(x[0].size) if norm is Norm.L2 else 1)
        findings += [
            *prober.check_gradients(norm),
            sanity_checks.accuracy_over_epsilon(*prober.curve(cube)),
            sanity_checks.steps_do_not_help(clean[right], one_step, many_steps),
        ]
    return Probed([finding for finding in findings if finding], broken)


class _Prober:
    """Gradients at images that a model gets right, and PGD from them.

    PGD lowers the margin, here the logit of the label minus the best other one.
    """

    def __init__(
        self, classifier: BatchedClassifier, x: np.ndarray, y: np.ndarray, seed: int
    ):
        self._classifier, self._x, self._y = classifier, x, y
        self._random = np.random.default_rng(seed)
        self._slope = _slope(classifier)
        self._descend = {norm: _descent(self._slope, norm) for norm in Norm}

    def check_gradients(self, norm: Norm) -> list[sanity_checks.Finding | None]:
        """Checks the gradients that attacks with the cross-entropy follow."""
        parts = [
            self._slope(*batch, tf.constant(False))[1].numpy()[:count]
            for count, batch in self._batches(self._x, self._y)
        ]
        gradients = np.concatenate(parts)
        return [
            sanity_checks.not_finite_gradients(gradients),
            sanity_checks.zero_gradients(steepest(norm, gradients).numpy()),
        ]

    def curve(self, epsilon: float) -> tuple[list[float], list[float]]:
        """L-infinity radii from epsilon to the largest, and accuracies under PGD."""
        radii = np.geomspace(min(epsilon, _LARGEST), _LARGEST, _RADII).tolist()
        left = [self.from_noise(Norm.LINF, radius, _STEPS) for radius in radii]
        for _ in range(_RESTARTS):
            if (left[-1] < 0).all():
                break
            again = self.from_noise(Norm.LINF, _LARGEST, _LONG_STEPS)
            left[-1] = np.minimum(left[-1], again)
        return radii, [float((margins >= 0).mean()) for margins in left]

    def from_noise(self, norm: Norm, epsilon: float, steps: int) -> np.ndarray:
        """The margins that a run from a random start leaves, (images,)."""
        noise = self._random.uniform(-_START_NOISE, _START_NOISE, self._x.shape)
        start = (self._x + noise).astype(np.float32)
        step_size = usual_step_size(epsilon, steps)
        return self.margins(norm, epsilon, step_size, steps, start)

    def margins(
        self,
        norm: Norm,
        epsilon: float,
        step_size: float,
        steps: int,
        start: np.ndarray | None = None,
    ) -> np.ndarray:
        """The least margins on PGD's way from the start or the images, (images,)."""
        arrays = self._x, self._y, self._x if start is None else start
        numbers = tf.constant(epsilon), tf.constant(step_size), tf.constant(steps)
        parts = [
            self._descend[norm](*batch, *numbers).numpy()[:count]
            for count, batch in self._batches(*arrays)
        ]
        return np.concatenate(parts)

    def _batches(self, *arrays: np.ndarray) -> Iterator[tuple[int, list[tf.Tensor]]]:
        """Full batches of all arrays, each with its number of rows that count."""
        size = self._classifier.batch_size
        for first in range(0, len(self._x), size):
            parts = [array[first : first + size] for array in arrays]
            yield len(parts[0]), [self._classifier.filled(part) for part in parts]


# A network's gradient takes long to trace: all that is measured shares this graph.
def _slope(classifier: BatchedClassifier):
    """Margins, -infinity of logits that are not finite, and a gradient, finite or not.

    The gradient is that of the sum of the margins or of the log-odds.
    """

    @tf.function(autograph=False)
    def slope(images, y, of_margin):
        with tf.GradientTape(watch_accessed_variables=False) as tape:
            tape.watch(images)
            logits = classifier.logits(images)
            margins = -margin(logits, y)
            loss = tf.where(of_margin, margins, log_odds(logits, y))
        # A model that rounds has no gradient at all.
        gradient = tape.gradient(loss, images, unconnected_gradients="zero")
        # As for attacks, see `losses.is_wrong`.
        answered = tf.reduce_all(tf.math.is_finite(logits), -1)
        return tf.where(answered, margins, float("-inf")), gradient

    return slope


def _descent(slope, norm: Norm):
    """PGD, traced once for all radii, step sizes and numbers of steps."""

    @tf.function(autograph=False)
    def descend(x, y, start, epsilon, step_size, steps):
        def step(index, images, least):
            margins, gradient = slope(images, y, tf.constant(True))
            images = projected_step(norm, images, -gradient, step_size, x, epsilon)
            return index + 1, images, tf.minimum(least, margins)

        def goes_on(index, images, least):
            del images
            # The pass after the last step is for its margins.
            return (index <= steps) & tf.reduce_any(least >= 0)

        start = project(norm, start, x, epsilon)
        most = tf.fill(tf.shape(y), x.dtype.max)
        loop = (0, start, most)
        return tf.while_loop(goes_on, step, loop, parallel_iterations=1)[-1]

    return descend
