"""The geometry of an attack: balls of radius epsilon, inside the box [0, 1]."""

import functools
import math
from collections.abc import Callable
from typing import Any, Self

import numpy as np
import tensorflow as tf

from advrush_tf.errors import Choice

_TINY = 1e-12
# Each iteration of `nearest` divides the product of what is missing and the slope by
# four or more, so that floats run out long before; the loop itself ends when nothing
# changes.
_ITERATIONS = 100


class Norm(Choice):
    """The norm that measures a perturbation."""

    LINF = "Linf"
    L2 = "L2"


class Radius(float):
    """The radius of a ball in [0, 1] units, a float that remembers how it was written.

    `str` gives the text back, such as "8/255"; everything else is the float's.

    Args:
        value: a number, or a text that is one or a fraction.

    Raises:
        ValueError: it is not a number, negative or infinite.
    """

    _text: str

    def __new__(cls, value: str | float) -> Self:
        text = str(value).strip()
        number = value if isinstance(value, float) else read_number(text)
        if not 0 <= number < math.inf:
            raise ValueError(f"a radius must be 0 or more and finite, not {text}")
        radius = super().__new__(cls, number)
        radius._text = text
        return radius

    def __str__(self) -> str:
        return self._text

    def __getnewargs__(self) -> tuple[str]:  # type: ignore[override]
        return (self._text,)


def usual_radius(norm: Norm) -> Radius:
    """The radius where none is given: 8/255 in Linf.

    Raises:
        ValueError: the norm has none.
    """
    if norm is not Norm.LINF:
        raise ValueError(f"{norm} has no usual epsilon: give one, such as 0.5")
    return Radius("8/255")


def read_number(text: str) -> float:
    """Reads a number, also one written as a fraction such as 8/255.

    Raises:
        ValueError: it is neither.
    """
    top, slash, bottom = text.partition("/")
    try:
        number = float(top) / (float(bottom) if slash else 1)
        if slash and not math.isfinite(number):
            raise ValueError
        return number
    except (ValueError, ArithmeticError):
        raise ValueError(
            f"it must be a number or a fraction such as 8/255, not '{text}'"
        ) from None


def as_number(value: str | float) -> float:
    """Returns a number, also one written as a text, see `read_number`."""
    return read_number(value) if isinstance(value, str) else value


def per_image(values: tf.Tensor) -> tf.Tensor:
    """Gives (batch,) the shape (batch, 1, 1, 1), to go with images."""
    return tf.reshape(values, [-1, 1, 1, 1])


def length(norm: Norm, delta: tf.Tensor) -> tf.Tensor:
    """The norm of each perturbation.

    Args:
        norm: which one.
        delta: (batch, height, width, channels).

    Returns:
        (batch,).
    """
    largest = tf.reduce_max(tf.abs(delta), [1, 2, 3])
    if norm is Norm.LINF:
        return largest
    # Squares of small numbers would underflow, and of large ones overflow.
    shares = tf.math.divide_no_nan(delta, per_image(largest))
    return largest * tf.sqrt(tf.reduce_sum(tf.square(shares), [1, 2, 3]))


def finite(values: tf.Tensor) -> tf.Tensor:
    """The values with 0 in place of NaN and infinity."""
    return tf.where(tf.math.is_finite(values), values, tf.zeros_like(values))


def scaled(delta: tf.Tensor) -> tf.Tensor:
    """Each image's numbers over the largest among them, however small that is.

    Args:
        delta: (batch, height, width, channels); NaN and infinity count as 0.

    Returns:
        Of the same shape, in [-1, 1]; zero stays zero.
    """
    delta = finite(delta)
    largest = tf.reduce_max(tf.abs(delta), [1, 2, 3], keepdims=True)
    return tf.math.divide_no_nan(delta, largest)


def unit(norm: Norm, delta: tf.Tensor) -> tf.Tensor:
    """Scales each perturbation to length 1; zero stays zero, NaN and infinity are 0."""
    delta = scaled(delta)
    return tf.math.divide_no_nan(delta, per_image(length(norm, delta)))


def steepest(norm: Norm, gradient: tf.Tensor) -> tf.Tensor:
    """The direction of length 1 in which each loss rises most.

    Args:
        norm: what the length is measured in.
        gradient: (batch, height, width, channels), of any scale; NaN and infinity
            count as 0.

    Returns:
        Of the same shape; zero where the gradient is.
    """
    return tf.sign(finite(gradient)) if norm is Norm.LINF else unit(norm, gradient)


def project(
    norm: Norm, images: tf.Tensor, x: tf.Tensor, epsilon: float | tf.Tensor
) -> tf.Tensor:
    """Moves images into the epsilon-ball around `x` and into [0, 1].

    Of the L2 ball the delta is scaled, then the image clipped, which only shortens it.
    An image that is inside is returned as it is.

    Args:
        norm: of the ball.
        images, x: (batch, height, width, channels), x in [0, 1].
        epsilon: radius of the ball, in [0, 1] units.
    """
    if norm is Norm.LINF:
        images = tf.minimum(tf.maximum(images, x - epsilon), x + epsilon)
    else:
        size = length(norm, images - x)
        scale = per_image(epsilon / tf.maximum(size, _TINY))
        outside = per_image(size > epsilon)
        images = tf.where(outside, x + (images - x) * scale, images)
    return tf.clip_by_value(images, 0.0, 1.0)


def is_inside(norm: Norm, image: np.ndarray, x: np.ndarray, epsilon: float) -> bool:
    """True for a finite image in [0, 1] and in the ball, up to the rounding of floats.

    Args:
        norm: of the ball.
        image, x: (height, width, channels), the image and the ball's middle.
        epsilon: radius of the ball.
    """
    order = np.inf if norm is Norm.LINF else 2
    size = np.linalg.norm(np.ravel(image - x).astype(np.float64), order)
    # Written so that NaN is not inside.
    in_box = image.min() >= 0 and image.max() <= 1
    return bool(in_box and size <= epsilon + tolerance(norm, epsilon))


def tolerance(norm: Norm, epsilon: float) -> float:
    """Returns how much float32 may round a distance of `epsilon`: in L2, a long sum."""
    return (1e-5 if norm is Norm.L2 else 1e-6) * max(epsilon, 1.0)


def projected_step(
    norm: Norm,
    images: tf.Tensor,
    gradient: tf.Tensor,
    step_size: float | tf.Tensor,
    x: tf.Tensor,
    epsilon: float | tf.Tensor,
) -> tf.Tensor:
    """A step of projected gradient ascent, inside the ball and [0, 1].

    Args:
        norm: of the ball, and what the length of the step is measured in.
        images: (batch, height, width, channels), where the step begins.
        gradient: of the loss at `images`, of the same shape.
        step_size: length of the step, in [0, 1] units; broadcasts to `images`.
        x: the clean images, of the same shape, in [0, 1].
        epsilon: radius of the ball around `x`.

    Source: Madry et al., arXiv 1706.06083, section 2.1.
    """
    return project(norm, images + step_size * steepest(norm, gradient), x, epsilon)


def with_gradient(
    loss_fn: Callable[[tf.Tensor], tf.Tensor], images: tf.Tensor
) -> tuple[tf.Tensor, tf.Tensor]:
    """Losses and their gradient in the images, 0 where that is not finite.

    Args:
        loss_fn: maps images to losses (batch,), each of one image alone. No
            gradient in weights is computed.
        images: (batch, height, width, channels).
    """
    with tf.GradientTape(watch_accessed_variables=False) as tape:
        tape.watch(images)
        losses = loss_fn(images)
    gradient = tape.gradient(losses, images, unconnected_gradients="zero")
    return losses, finite(gradient)


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


def fused(function: Callable, *arguments: Any) -> Any:
    """Calls a function of tensors that XLA compiles; the model has no part in it.

    Between two looks at a model an attack takes dozens of passes over all pixels, each
    bound by memory; fused they are a few.

    Args:
        function: of TensorFlow operations on static shapes; a function or a method of
            something that can be hashed, which is compiled once for each shape.
        *arguments: tensors, or structures of them.
    """
    return _compiled(function)(*arguments)


@functools.lru_cache(maxsize=64)
def _compiled(function: Callable) -> Callable:
    return tf.function(function, jit_compile=True, autograph=False)
