"""Operations whose second derivative is silently wrong in TensorFlow."""

from collections.abc import Iterator

import tensorflow as tf

# The derivative of each counts as one that depends on nothing.
_CONSTANT = ("ResizeBilinearGrad", "ScaleAndTranslateGrad")


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
