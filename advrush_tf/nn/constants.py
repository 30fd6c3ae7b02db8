"""Constants that all their users share.

A graph captures the same tensor once. Tracing and optimising a constant costs as much
as any other node, and two fifths of a supernet's nodes would be constants.
"""

import functools

import numpy as np
import tensorflow as tf


@functools.cache
def constant(
    value: float | tuple, dtype: tf.DType | str = tf.int32, shape: tuple | None = None
) -> tf.Tensor:
    """A constant tensor, always the same one for the same arguments.

    Args:
        value: a number, or nested tuples of numbers.
        dtype: of the tensor.
        shape: None for the shape of `value`, otherwise what a number fills.

    Returns:
        An eager tensor, also where a graph is being traced.
    """
    with tf.init_scope():
        return tf.constant(value, dtype, shape)


@functools.cache
def block_identity(blocks: int, width: int, dtype: tf.DType | str) -> tf.Tensor:
    """(blocks, blocks * width): row i has ones in block i of the columns, else zeros.

    With `width` 1 the identity matrix.
    """
    with tf.init_scope():
        return tf.constant(np.kron(np.eye(blocks), np.ones((1, width))), dtype)
