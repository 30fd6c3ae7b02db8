"""Products with the Hessian of the loss in the image, and where they would be wrong.

TensorFlow's second derivative of some operations is silently wrong.
"""

from collections.abc import Iterator
from typing import Any

import tensorflow as tf

from advrush_tf.attacks.base import LogitsFn, as_logits_fn
from advrush_tf.landscape.cross_entropy import cross_entropies
from advrush_tf.search.penalty import (
    LossesFn,
    check_model_images,
    checked_losses,
    input_gradient,
)

# The derivative of each counts as one that depends on nothing.
_CONSTANT = ("ResizeBilinearGrad", "ScaleAndTranslateGrad")


def hessian_vector_product(
    model_fn: Any, x: tf.Tensor, y: tf.Tensor, v: tf.Tensor
) -> tf.Tensor:
    """Hessian of each example's cross-entropy in its image, times a vector.

    Exact; for piecewise linear networks, the Hessian of the current linear region.
    Wrong for the networks that `check_second_derivatives` and `CurvatureMeter` refuse.

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
            or a derivative is lost on the way.
    """
    check_model_images(model_fn, x)
    logits_fn, x = as_logits_fn(model_fn), tf.convert_to_tensor(x)
    return hessian_products(logits_fn, x, y, v, checked_losses(cross_entropies))


def hessian_products(
    logits_fn: LogitsFn,
    x: tf.Tensor,
    y: tf.Tensor,
    v: tf.Tensor,
    losses_fn: LossesFn = cross_entropies,
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


def check_second_derivatives(graph: tf.Graph) -> None:
    """Raises if a graph contains a wrong second derivative.

    Args:
        graph: in which a gradient was differentiated once more.

    Raises:
        ValueError: it has an operation whose second derivative is wrong, by name.
    """
    nodes = list(_nodes(graph))
    stopped = {node.name for node in nodes if node.op == "StopGradient"}
    for node in nodes:
        if _is_pooling_in_place(node):
            raise ValueError(
                "the model has a max pooling with stride 1 and padding 'same', whose "
                "second derivative is wrong in TensorFlow; use "
                "advrush_tf.nn.kernels.max_pool_3x3 instead"
            )
        if node.op == "SquaredDifference" and stopped & set(_inputs(node)):
            # As tf.nn.moments does, whose first derivative is right all the same.
            raise ValueError(
                "the model has a variance whose gradient is stopped at the mean, as "
                "LayerNormalization and GroupNormalization of Keras have, so that "
                "TensorFlow's second derivative is wrong"
            )
        if node.op in _CONSTANT:
            raise ValueError(
                f"the model resizes images, and TensorFlow takes {node.op} for a "
                "constant, so that its second derivative is wrong"
            )


def _nodes(graph: tf.Graph) -> Iterator[tf.compat.v1.NodeDef]:
    definition = graph.as_graph_def()
    yield from definition.node
    for function in definition.library.function:
        yield from function.node_def


def _inputs(node: tf.compat.v1.NodeDef) -> list[str]:
    return [name.partition(":")[0] for name in node.input]


def _is_pooling_in_place(node: tf.compat.v1.NodeDef) -> bool:
    """True if TensorFlow's CPU kernel overwrites an input before its last read."""
    return (
        node.op == "MaxPoolGradGrad"
        and max(node.attr["strides"].list.i) == 1
        and node.attr["padding"].s == b"SAME"
    )
