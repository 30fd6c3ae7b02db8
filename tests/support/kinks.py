"""Records which side a run took at each kink, and forces another run to the same ones.

Between its kinks (a ReLU at zero, two equal maxima of a pooling window, the sign of a
zero) a network is smooth, and rounding moves its gradients by no more than rounding. A
kink within rounding of its input may turn, and moves them by far more. So a float32 run
is compared with the float64 run that takes the same sides, and each side that float64
would not have taken itself is reported with its distance from the kink.
"""

import contextlib
from collections.abc import Callable, Iterator
from typing import Any
from unittest import mock

import numpy as np
import tensorflow as tf

EPSILON = float(np.finfo(np.float32).eps)


class Turned:
    """The kinks at which a forced run would have taken the other side.

    Attributes:
        kinks: how many kinks the run met.
        distances: of each turned kink, how far its input is from the kink: in units of
            float32's epsilon times the largest absolute value in the input's tensor.
    """

    def __init__(self) -> None:
        self.kinks = 0
        self.distances: list[float] = []

    def add(self, values: tf.Tensor, turned: tf.Tensor, scale: tf.Tensor) -> None:
        """Adds one tensor of kinks: signed distances, which turned, and the scale."""
        self.kinks += int(tf.size(values))
        distances = np.abs(tf.boolean_mask(values, turned))
        self.distances += (distances / (EPSILON * float(scale))).tolist()


@contextlib.contextmanager
def record() -> Iterator[list[np.ndarray]]:
    """Records the sides taken within the context, eagerly, in the order of the calls.

    Yields:
        A list that fills up: for each ReLU where it passes its input, for each max
        pooling where in its flat input each maximum lies, for each sign the sign.
    """
    sides: list[np.ndarray] = []
    relu, pool, sign = tf.nn.relu, tf.nn.max_pool2d, tf.sign

    def recorded_relu(x):
        sides.append((x > 0).numpy())
        return relu(x)

    def recorded_pool(x, *window):
        sides.append(_winners(x, *window).numpy())
        return pool(x, *window)

    def recorded_sign(x):
        sides.append(sign(x).numpy())
        return sign(x)

    with _patched(recorded_relu, recorded_pool, recorded_sign):
        yield sides


@contextlib.contextmanager
def replay(sides: list[np.ndarray]) -> Iterator[Turned]:
    """Forces a run of the same calls to the recorded sides, derivatives included.

    Args:
        sides: what `record` gave.

    Yields:
        The turned kinks; complete at the end of the context.

    Raises:
        ValueError: If the run has not as many kinks as the recorded one.
    """
    turned, remaining = Turned(), list(reversed(sides))
    sign = tf.sign

    def next_side(dtype):
        if not remaining:
            raise ValueError("The forced run has more kinks than the recorded one.")
        return tf.constant(remaining.pop(), dtype)

    def forced_relu(x):
        passes = next_side(tf.bool)
        turned.add(x, (x > 0) != passes, _largest(x))
        return tf.where(passes, x, tf.zeros_like(x))

    def forced_pool(x, *window):
        flat, side = tf.reshape(x, [-1]), next_side(tf.int64)
        best = tf.gather(flat, _winners(x, *window))
        y = tf.gather(flat, side)
        # Not the largest input, which may be padded with the largest number there is.
        turned.add(best - y, best > y, _largest(best))
        return y

    def forced_sign(x):
        side = next_side(x.dtype)
        turned.add(x, sign(x) != side, _largest(x))
        return side

    with _patched(forced_relu, forced_pool, forced_sign):
        yield turned
    if remaining:
        raise ValueError("The forced run has fewer kinks than the recorded one.")


def _winners(x: tf.Tensor, *window: Any) -> tf.Tensor:
    return tf.nn.max_pool_with_argmax(x, *window, include_batch_in_index=True).argmax


def _largest(x: tf.Tensor) -> tf.Tensor:
    return tf.reduce_max(tf.abs(x))


@contextlib.contextmanager
def _patched(relu: Callable, pool: Callable, sign: Callable) -> Iterator[Any]:
    with (
        mock.patch.object(tf.nn, "relu", relu),
        mock.patch.object(tf.nn, "max_pool2d", pool),
        mock.patch.object(tf, "sign", sign),
    ):
        yield
