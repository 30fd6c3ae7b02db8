"""Fast adaptive boundary attack: steps along the boundary towards the image.

Sources: Croce & Hein, arXiv 1907.02044, algorithm 1, without its final search, and for
the targeted form arXiv 2003.01690, section 5.
"""

import dataclasses
from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf

from advrush_tf.attacks.base import LogitsFn, open_labelled, warn_of_bad_gradients
from advrush_tf.attacks.geometry import (
    Norm,
    finite,
    fused,
    length,
    nearest,
    per_image,
    with_gradient,
)
from advrush_tf.attacks.iterative import Batch, IterativeAttack, StepResult
from advrush_tf.attacks.losses import is_wrong, pick
from advrush_tf.attacks.randomness import seeds_of

_TINY = 1e-12


@dataclasses.dataclass(frozen=True)
class FAB(IterativeAttack):
    """FAB, which looks for the nearest adversarial image.

    Of the first run (of each target) the start is the image itself, of further ones
    a random image at a distance of at most epsilon / 2.

    Attributes:
        targeted: whether a run aims at one class; else a step aims at the class
            whose linearised boundary is nearest, and takes the gradients of a batch
            that is (classes - 1) times as large.
        targets: how many of the classes with the highest clean logits are aimed at.
        iterations: steps of a run.
        restarts: runs; if targeted, of each target.
        alpha_max: how much a step may lean towards the image, in [0, 1].
        eta: how far a step goes to the boundary, 1 or more; more is past it.
        beta: how far from the image a step backwards ends, in (0, 1]; 1 is no step.

    Raises:
        ValueError: a number is out of range.
    """

    targeted: bool = True
    targets: int = 9
    iterations: int = 100
    restarts: int = 1
    alpha_max: float = 0.1
    eta: float = 1.05
    beta: float = 0.9

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("targets", "iterations", "restarts", "eta"):
            if not 1 <= getattr(self, name) < float("inf"):
                raise ValueError(f"{name} must be 1 or more, not {getattr(self, name)}")
        if not 0 <= self.alpha_max <= 1:
            raise ValueError(f"alpha_max must be from 0 to 1, not {self.alpha_max}")
        if self.persistent:
            raise ValueError("FAB looks for near images and cannot be persistent")
        if not 0 < self.beta <= 1:
            raise ValueError(f"beta must be in (0, 1], not {self.beta}")

    def runs(self, num_classes):
        return self.restarts * self._aims(num_classes)

    @property
    def steps(self):
        return self.iterations

    def start(self, batch):
        return {"images": self._first(batch, self.epsilon)}

    def step(self, logits_fn, batch, index, draws, state):
        del index, draws
        found = self._search_on(logits_fn, batch, state["images"])
        inside = length(self.norm, found.images - batch.x) <= self.epsilon
        return found._replace(wrong=found.wrong & inside)

    def _search_on(
        self, logits_fn: LogitsFn, batch: Batch, images: tf.Tensor
    ) -> StepResult:
        """A step of the search, whose image may be anywhere."""
        values, w = self._boundary(logits_fn, batch, images)
        moved = fused(self._move, images, batch.x, values, w)
        wrong = is_wrong(logits_fn(moved), batch.y)
        following = fused(self._step_back, batch.x, moved, wrong)
        return StepResult({"images": following}, moved, wrong)

    def _step_back(self, x, moved, wrong) -> tf.Tensor:
        """Where the search goes on: nearer to the image if that was adversarial."""
        return tf.where(per_image(wrong), x + self.beta * (moved - x), moved)

    def minimal(
        self, model: Any, x: np.ndarray, y: np.ndarray, seed: int = 0, **options: Any
    ) -> tuple[np.ndarray, np.ndarray]:
        """Finds the nearest adversarial images, however far they are.

        All steps of all runs are taken. Epsilon only limits how far from the image
        restarts begin. Warns as `craft` does.

        Args:
            model: see `BatchedClassifier`.
            x: (images, height, width, channels), floats in [0, 1].
            y: labels, see `advrush_tf.inputs.as_labels`.
            seed: of the attack's random numbers.
            **options: of `BatchedClassifier`.

        Returns:
            The adversarial images, as `x`, and their distances, (images,). An image
            that is misclassified as it is has distance 0; one for which nothing was
            found is given back with distance infinity.
        """
        classifier, x, y = open_labelled(model, x, y, **options)
        seeds, logits = seeds_of(seed, np.arange(len(x))).numpy(), classifier.predict(x)
        search = self._search(classifier.followed_logits)
        images, distances = x.copy(), np.zeros(len(x), np.float32)
        size = min(classifier.batch_size, len(x)) or 1
        for first in range(0, len(x), size):
            # The last batch is filled up with its last image.
            rows = np.arange(first, first + size).clip(max=len(x) - 1)
            batch = Batch(
                tf.constant(x[rows]),
                tf.constant(y[rows]),
                tf.constant(logits[rows]),
                tf.constant(seeds[rows]),
                tf.zeros(size, tf.int32),
            )
            best = search(batch)
            images[rows], distances[rows] = best.images, best.distances
        warn_of_bad_gradients(classifier)
        return images, distances

    def _aims(self, num_classes: int) -> int:
        """The number of classes that runs aim at, one each."""
        return min(self.targets, num_classes - 1) if self.targeted else 1

    def _first(self, batch: Batch, radius: Any) -> tf.Tensor:
        restart = per_image(batch.run >= self._aims(batch.logits.shape[-1]))
        return tf.where(restart, batch.in_ball(self.norm, radius / 2), batch.x)

    def _boundary(self, logits_fn: LogitsFn, batch: Batch, images: tf.Tensor):
        """A class's logit less the label's, and the gradient of this difference."""
        num_classes = batch.logits.shape[-1]
        if self.targeted:
            target = batch.target(batch.run % self._aims(num_classes))
            return _difference(logits_fn, images, batch.y, target)
        others = num_classes - 1
        classes = (batch.y[:, None] + tf.range(1, num_classes)) % num_classes
        values, w = _difference(
            logits_fn,
            tf.repeat(images, others, 0),
            tf.repeat(batch.y, others),
            tf.reshape(classes, [-1]),
        )
        size = _dual_length(self.norm, w)
        distances = tf.where(size > 0, tf.abs(values) / size, np.inf)
        closest = tf.argmin(tf.reshape(distances, [-1, others]), -1, tf.int32)
        rows = tf.range(tf.shape(closest)[0]) * others + closest
        return tf.gather(values, rows), tf.gather(w, rows)

    def _move(self, images, x, values, w) -> tf.Tensor:
        """A step past the boundary that leans towards the image `x`."""
        b = values - tf.reduce_sum(w * images, [1, 2, 3])
        # One call for both, whose iterations are then shared.
        both = nearest(
            self.norm,
            tf.concat([images, x], 0),
            tf.concat([w, w], 0),
            tf.concat([b, b], 0),
        )
        here, there = tf.split(both, 2)
        # Where there is no gradient the step only leans towards the image.
        size, other = tf.split(tf.maximum(length(self.norm, both), _TINY), 2)
        alpha = per_image(tf.minimum(size / (size + other), self.alpha_max))
        moved = (1 - alpha) * (images + self.eta * here)
        return tf.clip_by_value(moved + alpha * (x + self.eta * there), 0.0, 1.0)

    def _search(self, logits_fn: LogitsFn):
        """A compiled function from slots to the nearest images of all runs."""

        def run(number, batch, best):
            batch = batch._replace(run=tf.fill(tf.shape(batch.y), number))
            radius = per_image(tf.minimum(best.distances, self.epsilon))

            def step(index, images, best):
                found = self._search_on(logits_fn, batch, images)
                best = best.improved(self.norm, batch.x, found)
                return index + 1, found.state["images"], best

            *_, best = _repeat(self.steps, step, self._first(batch, radius), best)
            return number + 1, batch, best

        @tf.function(autograph=False)
        def search(batch: Batch) -> _Nearest:
            wrong = is_wrong(batch.logits, batch.y)
            distances = tf.where(wrong, 0.0, tf.fill(tf.shape(wrong), np.inf))
            best = _Nearest(batch.x, tf.cast(distances, batch.x.dtype))
            runs = self.runs(batch.logits.shape[-1])
            return _repeat(runs, run, batch, best)[-1]

        return search


class _Nearest(NamedTuple):
    """The nearest adversarial image of each slot so far."""

    images: tf.Tensor
    distances: tf.Tensor

    def improved(self, norm: Norm, x: tf.Tensor, found: StepResult) -> "_Nearest":
        distances = length(norm, found.images - x)
        better = found.wrong & (distances < self.distances)
        return _Nearest(
            tf.where(per_image(better), found.images, self.images),
            tf.where(better, distances, self.distances),
        )


def _repeat(count: int, body, *values):
    """Calls body(number, *values), which returns the next ones, `count` times."""
    return tf.while_loop(
        lambda number, *_: number < count,
        body,
        (0, *values),
        maximum_iterations=count,
        parallel_iterations=1,
    )


def _difference(logits_fn: LogitsFn, images, y, classes) -> tuple[tf.Tensor, tf.Tensor]:
    def difference(images):
        logits = logits_fn(images)
        return pick(logits, classes) - pick(logits, y)

    values, w = with_gradient(difference, images)
    return finite(values), w


def _dual_length(norm: Norm, w: tf.Tensor) -> tf.Tensor:
    """The norm by which a difference of values is divided to give a distance."""
    if norm is Norm.LINF:
        return tf.reduce_sum(tf.abs(w), [1, 2, 3])
    return length(norm, w)
