"""Projection onto a hyperplane without leaving the box [0, 1]."""

import functools

import tensorflow as tf

from advrush_tf.attacks.geometry import Norm

# Each iteration divides the product of what is missing and the slope by four or more,
# so that floats run out long before; the loop itself ends when nothing changes.
_ITERATIONS = 100


def nearest(norm: Norm, points: tf.Tensor, w: tf.Tensor, b: tf.Tensor) -> tf.Tensor:
    """The smallest steps from points onto hyperplanes <w, z> + b = 0 in the box.

    Where the box does not reach the hyperplane, the step leads to the point of the
    box that comes nearest to it: its corner, but for features of weight 0, which no
    step changes.

    Args:
        norm: what the length of a step is measured in.
        points: (batch, ...), in [0, 1].
        w: of the same shape, the weights of each point's hyperplane.
        b: (batch,), the offsets.

    Returns:
        The steps, of the shape of `points`; 0 where w is 0.

    Source: Croce & Hein, arXiv 1907.02044, section 2.2, there solved by sorting.
    """
    axes = list(range(1, points.shape.rank))
    total = functools.partial(tf.reduce_sum, axis=axes, keepdims=True)
    # A hyperplane has no scale: small weights shall not underflow when multiplied.
    scale = tf.reduce_max(tf.abs(w), axes, keepdims=True)
    w = tf.math.divide_no_nan(w, scale)
    b = tf.math.divide_no_nan(tf.reshape(b, tf.shape(scale)), scale)
    value = total(w * points) + b
    direction = -tf.sign(value) * tf.sign(w)
    room = tf.where(direction > 0, 1 - points, points)
    gains = tf.abs(w)
    rates = tf.ones_like(w) if norm is Norm.LINF else gains
    time = _solve(total, gains, rates, room, tf.abs(value))
    # The time is infinite where weights are too small for the value.
    return direction * tf.minimum(tf.math.multiply_no_nan(time, rates), room)


def _solve(total, gains, rates, room, value) -> tf.Tensor:
    """The time t at which the sum of gains * min(t * rates, room) is the value.

    The sum rises and is concave and piecewise linear in t: Newton's method from 0
    never overshoots, and ends once it stays on a piece.
    """
    # When a feature has no room left; one of weight 0 has no part in the sums.
    until = tf.math.divide_no_nan(room, rates)
    most, slopes = gains * room, gains * rates

    def improve(_, time):
        full = until <= time
        missing = value - total(tf.where(full, most, 0.0))
        slope = total(tf.where(full, tf.zeros_like(slopes), slopes))
        later = tf.maximum(time, tf.math.divide_no_nan(missing, slope))
        return tf.reduce_any(later > time), later

    _, time = tf.while_loop(
        lambda changed, _: changed,
        improve,
        # Of Newton's first step, where everything has room.
        (True, tf.math.divide_no_nan(value, total(slopes))),
        maximum_iterations=_ITERATIONS,
        parallel_iterations=1,
    )
    return time
