"""The AdvRush penalty: the curvature of the loss as a function of the input.

With the cross-entropy L of one example and its gradient g(x) = dL/dx in the image,

    z = h * sign(g(x)) / ||sign(g(x))||       the probe, of length h
    r = ||g(x + z) - g(x)||                   the penalty of the example

all norms L2. To first order r = ||H z||, with the Hessian H of L in the image: a flat
loss has small r. An alpha step descends

    mean(L) + gamma * lambda * mean(r)

in the alphas; z counts as constant. Images are in the units of the network's normalised
input, and batch normalisation is in inference mode, so that examples do not interact.

Source: Mok et al., AdvRush, ICCV 2021, equations 4 to 6; z and the squared form r^2 are
CURE's (Moosavi-Dezfooli et al., arXiv 1811.09716, section 4).
"""

from collections.abc import Callable
from typing import Any

import keras
import tensorflow as tf

from advrush_tf.custom_gradient import custom_gradient
from advrush_tf.errors import Choice
from advrush_tf.inputs import (
    as_labels,
    check_count,
    check_images,
    check_logits,
    check_pixels,
)
from advrush_tf.losses import exact_cross_entropy
from advrush_tf.nn.checks import check_precision
from advrush_tf.nn.second_derivatives import check_second_derivatives

LossesFn = Callable[..., tf.Tensor]

# Name of the scope of an input gradient, in graphs.
INPUT_GRADIENT = "input_gradient"
# The official code's, added to the sign and to its length.
_TINY = 1e-7


class Penalty(Choice):
    """Form of the curvature penalty."""

    NORM = "norm"
    SQUARED_NORM = "squared_norm"


def input_gradient(
    model_fn: Callable[[tf.Tensor], tf.Tensor],
    x: tf.Tensor,
    y: tf.Tensor,
    losses_fn: LossesFn = exact_cross_entropy,
) -> tf.Tensor:
    """Gradient of each example's cross-entropy in the example's image.

    The sum of the losses is differentiated, never the mean, so that no value depends
    on how a data set is cut into batches.

    Args:
        model_fn: maps images to logits (batch, classes); examples must not interact
            (batch normalisation in inference mode).
        x: (batch, height, width, channels), float32 or float64.
        y: (batch,), integer labels.
        losses_fn: of the labels and the logits, the cross-entropies (batch,).

    Returns:
        A tensor of the shape and the dtype of `x`.
    """
    with tf.name_scope(INPUT_GRADIENT):
        with tf.GradientTape(watch_accessed_variables=False) as tape:
            tape.watch(x)
            logits = tf.cast(model_fn(x), x.dtype)
            losses = losses_fn(y, logits)
        return tape.gradient(losses, x)


def probe_direction(gradient: tf.Tensor, h: float) -> tf.Tensor:
    """Step of L2 length `h` along the sign of each example's gradient.

    Args:
        gradient: (batch, ...), the input gradients.
        h: length of the step, in the units of the model's input.

    Returns:
        A tensor of the shape of `gradient`, constant for differentiation; zero for an
        example whose gradient is zero, for which the official code has `h` in every
        pixel.
    """
    sign = tf.sign(gradient)
    length = tf.sqrt(_sum_of_squares(sign))
    length = tf.reshape(length, [-1] + [1] * (len(gradient.shape) - 1))
    step = h * (sign + _TINY) / (length + _TINY)
    return tf.stop_gradient(tf.where(length > 0, step, length))


def gradient_changes(
    logits_fn: Callable[[tf.Tensor], tf.Tensor],
    x: tf.Tensor,
    y: tf.Tensor,
    h: float,
    squared: bool = False,
    losses_fn: LossesFn = exact_cross_entropy,
) -> tf.Tensor:
    """As `curvature_penalty`, of images and labels that are known to be right.

    Args:
        logits_fn: maps images in whatever units to logits (batch, classes).
        x: (batch, height, width, channels), in those units, float32 or float64.
        y: (batch,), integer labels.
        h: length of the probe, in the same units.
        squared: whether to return the norms' squares (CURE's form).
        losses_fn: see `input_gradient`.

    Returns:
        (batch,), in the dtype of `x`.
    """
    gradient = input_gradient(logits_fn, x, y, losses_fn)
    far = input_gradient(logits_fn, x + probe_direction(gradient, h), y, losses_fn)
    squares = _sum_of_squares(far - gradient)
    return squares if squared else _safe_sqrt(squares)


def curvature_penalty(
    model_fn: Callable[[tf.Tensor], tf.Tensor],
    x: tf.Tensor,
    y: tf.Tensor,
    h: float = 1.5,
    squared: bool = False,
) -> tf.Tensor:
    """The norm of the change of each example's input gradient along its sign.

    Differentiable: called inside a `tf.GradientTape`, its gradient in the model's
    variables is exact (the probe's direction counts as constant).

    Args:
        model_fn: a Keras model of images in [0, 1], which is called with
            `training=False`; or a function of images in other units, such as
            normalised ones, with batch normalisation in inference mode. It gives
            logits (batch, classes).
        x: (batch, height, width, channels), floats in the units of `model_fn`'s input.
        y: labels, see `advrush_tf.inputs.as_labels`.
        h: length of the probe, in the same units: the recipe's 1.5 in normalised ones
            is 0.37 in [0, 1] with CIFAR-10's deviations.
        squared: whether to return the norms' squares (CURE's form).

    Returns:
        (batch,): the L2 norm of g(x + z) - g(x), where g is the input gradient of the
        cross-entropy and z has length h along sign(g(x)). It is float32, or float64 as
        `x`: the difference and its norm are so whatever the model's arithmetic.

    Raises:
        ValueError: images or labels are not as above, the model gives probabilities or
            computes in float16;
            where the penalty is differentiated, TensorFlow's derivative of the model is
            wrong (see `advrush_tf.nn.second_derivatives`).
    """
    check_precision(getattr(model_fn, "compute_dtype", "float32"))
    check_model_images(model_fn, x)
    x = tf.convert_to_tensor(x)
    if x.dtype.size < tf.float32.size:
        x = tf.cast(x, tf.float32)
    logits_fn = _inference_form(model_fn)
    values = gradient_changes(logits_fn, x, y, h, squared, checked_losses)

    @custom_gradient
    def refused_if_wrong(values):
        def gradient(dy):
            check_second_derivatives(logits_fn, x)
            return dy

        return tf.identity(values), gradient

    return refused_if_wrong(values)


def check_model_images(model_fn: Any, x: Any) -> None:
    """Checks images: of a Keras model in [0, 1], of a function in its own units."""
    if isinstance(model_fn, keras.Model):
        check_images(x)
    else:
        check_pixels(x)


def checked_losses(labels: Any, logits: tf.Tensor) -> tf.Tensor:
    """Exact cross-entropies of logits that are checked, for labels of any form."""
    check_logits(logits)
    numbers = as_labels(labels, logits.shape[-1])
    check_count(numbers, logits.shape[0])
    return exact_cross_entropy(numbers, logits)


def _inference_form(model_fn):
    if isinstance(model_fn, keras.Model):
        return lambda x: model_fn(x, training=False)
    return model_fn


def _sum_of_squares(x: tf.Tensor) -> tf.Tensor:
    return tf.reduce_sum(tf.square(x), axis=list(range(1, len(x.shape))))


def _safe_sqrt(squares: tf.Tensor) -> tf.Tensor:
    """Square root whose gradient at zero is zero instead of infinite."""
    # Not `squares > 0`, which would turn NaN into 0.
    zero = tf.equal(squares, 0)
    root = tf.sqrt(tf.where(zero, tf.ones_like(squares), squares))
    return tf.where(zero, tf.zeros_like(root), root)
