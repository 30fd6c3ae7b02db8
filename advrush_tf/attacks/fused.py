"""Arithmetic on whole batches of images as single kernels."""

import functools
from collections.abc import Callable
from typing import Any

import tensorflow as tf


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
