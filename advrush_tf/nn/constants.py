"""Constants that all their users share.

A graph captures the same tensor once. Tracing and optimising a constant costs as much
as any other node, and two fifths of a supernet's nodes would be constants.
"""

import contextlib
import contextvars
import functools
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import tensorflow as tf

_INLINED = contextvars.ContextVar("inlined", default=False)


@contextlib.contextmanager
def inlined() -> Iterator[None]:
    """Makes constants nodes of each graph that is traced inside a `with`.

    An exported graph cannot capture tensors that only its gradients use.
    """
    token = _INLINED.set(True)
    try:
        yield
    finally:
        _INLINED.reset(token)


def _shared(make: Callable[..., tf.Tensor]) -> Callable[..., tf.Tensor]:
    @functools.cache
    def shared(*arguments: Any) -> tf.Tensor:
        with tf.init_scope():
            return make(*arguments)

    @functools.wraps(make)
    def shared_or_inlined(*arguments: Any) -> tf.Tensor:
        return (make if _INLINED.get() else shared)(*arguments)

    return shared_or_inlined


@_shared
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
    return tf.constant(value, dtype, shape)


@_shared
def block_identity(blocks: int, width: int, dtype: tf.DType | str) -> tf.Tensor:
    """(blocks, blocks * width): row i has ones in block i of the columns, else zeros.

    With `width` 1 the identity matrix.
    """
    return tf.constant(np.kron(np.eye(blocks), np.ones((1, width))), dtype)
