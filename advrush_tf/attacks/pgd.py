"""Crafting adversarial images inside a fit: steps along the sign of a gradient."""

import dataclasses
from collections.abc import Callable
from typing import Any

import keras
import tensorflow as tf

from advrush_tf import replication
from advrush_tf.attacks.geometry import Norm, as_number, projected_step, with_gradient
from advrush_tf.errors import Choice
from advrush_tf.inputs import check_images
from advrush_tf.version import PACKAGE

LossFn = Callable[[tf.Tensor], tf.Tensor]


class Start(Choice):
    """Where an attack starts: the image plus noise.

    GAUSSIAN adds 0.001 * N(0, 1), UNIFORM a uniform point of the epsilon-ball, clipped
    to [0, 1].
    """

    GAUSSIAN = "gaussian"
    UNIFORM = "uniform"


_GAUSSIAN_DEVIATION = 1e-3


def usual_step_size(epsilon: float, steps: int) -> float:
    """The step of PGD where none is given: 2.5 * epsilon / steps, at most epsilon.

    Steps then reach any point of the ball from any other, and turn round in it.

    Args:
        epsilon: radius of the ball.
        steps: of a run.

    Source: Madry et al., arXiv 1706.06083, figure 6.
    """
    return as_number(epsilon) * min(2.5 / steps, 1.0)


@keras.saving.register_keras_serializable(PACKAGE)
@dataclasses.dataclass(frozen=True)
class SignAscent:
    """Steps that raise a loss and stay in an L-infinity ball and in [0, 1].

    Attributes:
        epsilon: radius of the ball, in [0, 1] units; a text such as "8/255" is
            understood, here and in the next.
        step_size: length of a step in each pixel, in the same units.
        steps: number of steps, each one forward and one input-gradient pass.
        start: where the first step starts.

    Raises:
        ValueError: a number is out of range.

    Source: Madry et al., arXiv 1706.06083, section 2.1.
    """

    epsilon: float = 0.031
    step_size: float = 0.01
    steps: int = 7
    start: Start = Start.GAUSSIAN

    def __post_init__(self) -> None:
        object.__setattr__(self, "start", Start(self.start))
        for name in ("epsilon", "step_size"):
            object.__setattr__(self, name, as_number(getattr(self, name)))
            if not 0 < getattr(self, name) < float("inf"):
                raise ValueError(f"{name} must be positive, not {getattr(self, name)}")
        if self.steps < 1:
            raise ValueError(f"steps must be 1 or more, not {self.steps}")

    def craft(self, loss_fn: LossFn, x: tf.Tensor, seed: tf.Tensor) -> tf.Tensor:
        """Crafts adversarial images from a random start.

        Args:
            loss_fn: maps images to losses (batch,), each of one image alone.
            x: (batch, height, width, channels) in [0, 1].
            seed: two integers; the same ones give the same start.

        Returns:
            Images of the shape of `x`, constant for differentiation.

        Raises:
            ValueError: images are not floats in [0, 1].
        """
        check_images(x)
        x = tf.convert_to_tensor(x)
        return self.ascend(loss_fn, x, x + self.noise(x, seed))

    def noise(self, x: tf.Tensor, seed: tf.Tensor) -> tf.Tensor:
        """The noise that `craft` adds to the images before the first step."""
        size = tf.shape(x)

        def draw(rows):
            shape = tf.concat([[rows], size[1:]], 0)
            if self.start is Start.GAUSSIAN:
                normal = tf.random.stateless_normal(shape, seed, dtype=x.dtype)
                return _GAUSSIAN_DEVIATION * normal
            return tf.random.stateless_uniform(
                shape, seed, -self.epsilon, self.epsilon, dtype=x.dtype
            )

        noise = replication.local_rows(draw, size[0])
        if self.start is Start.GAUSSIAN:
            return noise
        return tf.clip_by_value(x + noise, 0.0, 1.0) - x

    def ascend(self, loss_fn: LossFn, x: tf.Tensor, start: tf.Tensor) -> tf.Tensor:
        """Takes the steps from a given start, which itself may lie outside [0, 1].

        No weight gradient is computed: each step costs one forward pass and one
        backward pass to the images.

        Args and returns are those of `craft`; `start` has the shape of `x`.
        """
        x, start = tf.convert_to_tensor(x), tf.convert_to_tensor(start)

        def step(index, images):
            _, gradient = with_gradient(loss_fn, images)
            return index + 1, projected_step(
                Norm.LINF, images, gradient, self.step_size, x, self.epsilon
            )

        # A loop, not an unrolled graph, which would be as many times larger.
        _, images = tf.while_loop(
            lambda index, _: index < self.steps,
            step,
            (0, start),
            maximum_iterations=self.steps,
            parallel_iterations=1,
        )
        return tf.stop_gradient(images)

    def get_config(self) -> dict[str, Any]:
        """The numbers, for Keras' serialisation."""
        return dataclasses.asdict(self)

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> "SignAscent":
        """The attack with these numbers."""
        return cls(**config)
