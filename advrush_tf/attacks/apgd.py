"""Auto-PGD: projected gradient steps whose size adapts to the attack's progress.

Source: Croce & Hein, arXiv 2003.01690, algorithm 1.
"""

import dataclasses
import math

import tensorflow as tf

from advrush_tf.attacks import losses
from advrush_tf.attacks.base import LogitsFn
from advrush_tf.attacks.geometry import (
    finite,
    fused,
    per_image,
    project,
    projected_step,
)
from advrush_tf.attacks.iterative import Batch, IterativeAttack, State, StepResult
from advrush_tf.errors import Choice
from advrush_tf.nn.constants import constant

_MOMENTUM = 0.75
# At most this share of rises among an interval's steps halves the step size: the
# official code's rule; the paper's has "fewer". They differ where 12 of 16 are rises.
_RISES = 0.75


class Loss(Choice):
    """The loss that APGD raises; for CE, the log-odds, which rise with it."""

    CE = "ce"
    DLR = "dlr"
    TARGETED_DLR = "targeted_dlr"


@dataclasses.dataclass(frozen=True)
class APGD(IterativeAttack):
    """Auto-PGD on one of three losses.

    Attributes:
        loss: the one to raise.
        iterations: steps of a run.
        restarts: runs from random starts; with `targets`, of each target.
        targets: how many of the classes with the highest clean logits the targeted
            loss aims at, one run each; other losses have no targets.
        eot: gradients averaged in each step, for a model that is random; of CE those
            of the cross-entropy. The last of these passes decides alone, as in the
            official code: an average of logits would be more robust than the model is.

    Raises:
        ValueError: a number is out of range.
    """

    loss: Loss = Loss.CE
    iterations: int = 100
    restarts: int = 1
    targets: int = 9
    eot: int = 1

    def __post_init__(self) -> None:
        super().__post_init__()
        object.__setattr__(self, "loss", Loss(self.loss))
        for name in ("iterations", "restarts", "targets", "eot"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be 1 or more, not {getattr(self, name)}")

    def runs(self, num_classes):
        if self.loss is Loss.TARGETED_DLR:
            return self.restarts * min(self.targets, num_classes - 1)
        return self.restarts

    @property
    def steps(self):
        # The start is looked at as well.
        return self.iterations + 1

    def start(self, batch):
        images = batch.in_ball(self.norm, self.epsilon)
        lowest = tf.fill(tf.shape(batch.y), batch.x.dtype.min)
        zero = tf.zeros_like(batch.y)
        return {
            "images": images,
            "before": images,
            "step_size": tf.fill(
                tf.shape(batch.y), tf.cast(2 * self.epsilon, batch.x.dtype)
            ),
            "loss": lowest,
            "best_loss": lowest,
            "best_images": images,
            "best_gradient": tf.zeros_like(images),
            "rises": zero,
            "checked_loss": lowest,
            "was_halved": tf.ones_like(batch.y, tf.bool),
        }

    def strongest(self, state):
        return state["best_images"]

    def step(self, logits_fn, batch, index, draws, state):
        del draws
        images = state["images"]
        loss, gradient, logits = self._evaluate(logits_fn, batch, images)
        state = fused(self._update, batch, index, state, loss, gradient)
        return StepResult(state, images, losses.is_wrong(logits, batch.y))

    def _update(self, batch, index, state, loss, gradient) -> State:
        """The state after a look at its images, with the next ones to look at."""
        images, better = state["images"], loss > state["best_loss"]
        rises = state["rises"] + tf.cast((loss > state["loss"]) & (index > 0), tf.int32)
        state = state | {
            "loss": loss,
            "rises": rises,
            "best_loss": tf.where(better, loss, state["best_loss"]),
            "best_images": tf.where(per_image(better), images, state["best_images"]),
            "best_gradient": tf.where(
                per_image(better), gradient, state["best_gradient"]
            ),
        }
        state, halve = self._adapt(index, state)
        origin = tf.where(per_image(halve), state["best_images"], images)
        gradient = tf.where(per_image(halve), state["best_gradient"], gradient)
        images = self._move(batch, index, origin, gradient, state)
        return state | {"before": origin, "images": images}

    def _evaluate(self, logits_fn: LogitsFn, batch: Batch, images: tf.Tensor):
        """Losses and logits at the images, and the direction of the mean gradient.

        The mean is that of `eot` calls, times a factor an image: it cannot underflow.
        """

        def once():
            with tf.GradientTape(watch_accessed_variables=False) as tape:
                tape.watch(images)
                logits = logits_fn(images)
                loss = self._losses(batch, logits)
            gradient = tape.gradient(loss, images, unconnected_gradients="zero")
            return loss, finite(gradient), logits

        def again(number, _, total, __, most):
            loss, gradient, logits = once()
            weight = self._log_weight(loss)
            larger = tf.maximum(most, weight)
            old, new = tf.exp(most - larger), tf.exp(weight - larger)
            total = per_image(old) * total + per_image(new) * gradient
            return number + 1, loss, total, logits, larger

        loss, gradient, logits = once()
        if self.eot == 1:
            return loss, gradient, logits
        _, loss, total, logits, _ = tf.while_loop(
            lambda number, *_: number < self.eot,
            again,
            (1, loss, gradient, logits, self._log_weight(loss)),
            parallel_iterations=1,
        )
        return loss, total, logits

    def _log_weight(self, loss: tf.Tensor) -> tf.Tensor:
        """The logarithm of a pass's weight in the average of gradients, (batch,).

        The gradient of the cross-entropy is that of the log-odds times the probability
        of the wrong classes.
        """
        if self.loss is not Loss.CE:
            return tf.zeros_like(loss)
        return tf.where(
            tf.math.is_finite(loss), tf.math.log_sigmoid(loss), loss.dtype.min
        )

    def _losses(self, batch: Batch, logits: tf.Tensor) -> tf.Tensor:
        if self.loss is Loss.CE:
            return losses.log_odds(logits, batch.y)
        if self.loss is Loss.DLR:
            return losses.dlr(logits, batch.y)
        ranks = batch.run % min(self.targets, logits.shape[-1] - 1)
        return losses.targeted_dlr(logits, batch.y, batch.target(ranks))

    def _adapt(self, index: tf.Tensor, state: State) -> tuple[State, tf.Tensor]:
        """Halves the step size where a checkpoint finds too little progress."""
        intervals = constant(tuple(_intervals(self.iterations)))
        interval = tf.gather(intervals, index)
        check = interval > 0
        few = tf.cast(state["rises"], tf.float32) <= _RISES * tf.cast(
            interval, tf.float32
        )
        stuck = ~state["was_halved"] & (state["best_loss"] <= state["checked_loss"])
        halve = check & (few | stuck)
        size = state["step_size"]
        return state | {
            "step_size": tf.where(halve, size / 2, size),
            "rises": tf.where(check, 0, state["rises"]),
            "checked_loss": tf.where(check, state["best_loss"], state["checked_loss"]),
            "was_halved": tf.where(check, halve, state["was_halved"]),
        }, halve

    def _move(self, batch, index, origin, gradient, state) -> tf.Tensor:
        size = per_image(state["step_size"])
        ahead = projected_step(self.norm, origin, gradient, size, batch.x, self.epsilon)
        # The first step has no momentum.
        share = per_image(tf.where(index == 0, tf.ones_like(state["loss"]), _MOMENTUM))
        moved = (
            origin + share * (ahead - origin) + (1 - share) * (origin - state["before"])
        )
        return project(self.norm, moved, batch.x, self.epsilon)


def checkpoints(iterations: int) -> list[int]:
    """The steps after which APGD looks at its progress, in ascending order.

    Source: Croce & Hein, arXiv 2003.01690, section 3.1: w_j = ceil(p_j N), p_0 = 0,
    p_1 = 0.22, p_j+1 = p_j + max(p_j - p_j-1 - 0.03, 0.06). The official code rounds
    the lengths between them instead, down and to at least 1 step: for 100 steps it has
    the same ones, for fewer others.
    """
    shares = [0.0, 0.22]
    while shares[-1] < 1:
        shares.append(shares[-1] + max(shares[-1] - shares[-2] - 0.03, 0.06))
    # Rounded first, so that 0.22 * 50 is 11 and not 12.
    steps = {math.ceil(round(share * iterations, 6)) for share in shares[1:]}
    return sorted(step for step in steps if step <= iterations)


def _intervals(iterations: int) -> list[int]:
    """The length of the interval that each step ends, 0 for none."""
    lengths, before = [0] * (iterations + 1), 0
    for step in checkpoints(iterations):
        lengths[step], before = step - before, step
    return lengths
