"""The geometry of an attack: balls of radius epsilon, inside the box [0, 1]."""

import enum

import tensorflow as tf

_TINY = 1e-12


class Norm(enum.StrEnum):
    """How the size of a perturbation is measured."""

    LINF = "Linf"
    L2 = "L2"


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
    if norm is Norm.LINF:
        return tf.reduce_max(tf.abs(delta), [1, 2, 3])
    return tf.sqrt(tf.reduce_sum(tf.square(delta), [1, 2, 3]))


def unit(norm: Norm, delta: tf.Tensor) -> tf.Tensor:
    """Scales each perturbation to length 1; zero stays zero."""
    return delta / per_image(tf.maximum(length(norm, delta), _TINY))


def steepest(norm: Norm, gradient: tf.Tensor) -> tf.Tensor:
    """The direction of length 1 in which each loss rises most.

    Args:
        norm: what the length is measured in.
        gradient: (batch, height, width, channels).

    Returns:
        Of the same shape; zero where the gradient is.
    """
    return tf.sign(gradient) if norm is Norm.LINF else unit(norm, gradient)


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
