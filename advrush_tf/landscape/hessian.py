"""Products with the Hessian of the loss in the image."""

from typing import Any

import tensorflow as tf

from advrush_tf.attacks.base import LogitsFn, as_logits_fn
from advrush_tf.losses import exact_cross_entropy
from advrush_tf.nn.second_derivatives import check_second_derivatives
from advrush_tf.search.penalty import (
    LossesFn,
    check_model_images,
    checked_losses,
    input_gradient,
)


def hessian_vector_product(
    model_fn: Any, x: tf.Tensor, y: tf.Tensor, v: tf.Tensor
) -> tf.Tensor:
    """Hessian of each example's cross-entropy in its image, times a vector.

    Exact; for piecewise linear networks, the Hessian of the current linear region.

    Args:
        model_fn: a Keras classifier of images in [0, 1], or a function from images in
            other units to logits (batch, classes) in which examples do not interact.
        x: (batch, height, width, channels), floats in those units.
        y: labels, see `advrush_tf.inputs.as_labels`.
        v: as `x`, the vectors.

    Returns:
        A tensor of the shape and dtype of `x`.

    Raises:
        ValueError: images or labels are not as above, the model gives probabilities,
            a derivative is lost on the way, or TensorFlow's is wrong (see
            `advrush_tf.nn.second_derivatives`).
    """
    check_model_images(model_fn, x)
    logits_fn, x = as_logits_fn(model_fn), tf.convert_to_tensor(x)
    check_second_derivatives(logits_fn, x)
    return hessian_products(logits_fn, x, y, v, checked_losses)


def hessian_products(
    logits_fn: LogitsFn,
    x: tf.Tensor,
    y: tf.Tensor,
    v: tf.Tensor,
    losses_fn: LossesFn = exact_cross_entropy,
) -> tf.Tensor:
    """As `hessian_vector_product`, of images and labels that are known to be right.

    Args:
        logits_fn: maps images in whatever units to logits.
        x, v: tensors as there.
        y: (batch,), integer labels.
        losses_fn: of the labels and the logits, differentiable twice.
    """
    # Both derivatives by back-propagation. With the outer one in forward mode
    # (`tf.autodiff.ForwardAccumulator`) a CellNetwork's products took twice the time,
    # and the float64 supernet's, through our custom gradients, came out wrong.
    with tf.GradientTape(watch_accessed_variables=False) as tape:
        tape.watch(x)
        gradient = require_connected(input_gradient(logits_fn, x, y, losses_fn))
    # Not 0 where it is lost: a linear model's gradient, too, depends on the image,
    # through the probabilities.
    return require_connected(tape.gradient(gradient, x, tf.cast(v, x.dtype)))


def require_connected(derivative: tf.Tensor | None) -> tf.Tensor:
    """Returns a derivative that is there.

    Raises:
        ValueError: it is None, which is lost and not 0.
    """
    if derivative is None:
        raise ValueError(
            "the model's logits, or their gradient, do not depend on the images "
            "through operations that TensorFlow can differentiate; a model that "
            "recomputes its cells is to be given itself, not compiled by tf.function"
        )
    return derivative
