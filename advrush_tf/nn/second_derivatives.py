"""Second derivatives that TensorFlow gets wrong, found in the graph that takes them."""

import contextlib
from collections.abc import Callable, Iterator

import tensorflow as tf

from advrush_tf.losses import exact_cross_entropy

# The derivative of each counts as one that depends on nothing.
_CONSTANT = ("ResizeBilinearGrad", "ScaleAndTranslateGrad")


def check_second_derivatives(
    logits_fn: Callable[[tf.Tensor], tf.Tensor], x: tf.Tensor
) -> None:
    """Raises if TensorFlow's second derivative of a model's loss is wrong.

    Traces the derivatives each time: what a function computes may change meanwhile.

    Args:
        logits_fn: images to the model's logits (batch, classes).
        x: (batch, height, width, channels), images; only their shape and dtype count.

    Raises:
        ValueError: as `refuse_wrong_derivatives`, or `tf.function` cannot trace the
            model.
    """

    @tf.function(autograph=False)
    def product(x: tf.Tensor) -> tf.Tensor | None:
        with refuse_wrong_derivatives(), tf.GradientTape(False, False) as outer:
            outer.watch(x)
            with tf.GradientTape(False, False) as inner:
                inner.watch(x)
                logits = tf.cast(logits_fn(x), x.dtype)
                labels = tf.zeros(tf.shape(x)[:1], tf.int32)
                losses = exact_cross_entropy(labels, logits)
            slopes = inner.gradient(losses, x)
            return None if slopes is None else outer.gradient(slopes, x)

    try:
        product.get_concrete_function(tf.TensorSpec(x.shape, x.dtype))
    except tf.errors.OperatorNotAllowedInGraphError as error:
        raise ValueError(
            "whether TensorFlow's second derivative is right can only be seen of a "
            f"model that tf.function can trace: {error}"
        ) from None


@contextlib.contextmanager
def refuse_wrong_derivatives() -> Iterator[None]:
    """Raises if the graph traced inside takes a second derivative that is wrong.

    Raises:
        ValueError: of an operation that it names, TensorFlow has no second derivative
            or a wrong one.
    """
    try:
        yield
    except LookupError as error:
        raise ValueError(
            f"TensorFlow cannot differentiate the model twice: {error}"
        ) from None
    except ValueError:
        _check_current_graph()  # It names the operation, if it is a known one.
        raise
    _check_current_graph()


def _check_current_graph() -> None:
    if tf.executing_eagerly():
        return
    nodes = list(_nodes(tf.compat.v1.get_default_graph()))
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
    """True if TensorFlow's CPU kernel may overwrite an input before its last read."""
    if node.op == "MaxPoolGradGradV2":  # Its strides are tensors.
        return True
    # Beside those of images and channels; the other may be along a side of one pixel.
    smallest = sorted(node.attr["strides"].list.i)[2:3]
    return (
        node.op == "MaxPoolGradGrad"
        and smallest == [1]
        and node.attr["padding"].s == b"SAME"
    )
