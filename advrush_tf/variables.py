"""Variables that are made in less time."""

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import tensorflow as tf


@contextlib.contextmanager
def of_one_name() -> Iterator[None]:
    """Gives the TensorFlow variables made inside a `with` one name.

    TensorFlow makes a kernel, and keeps it, for every name that it makes a variable of:
    a third of the time that a network of a thousand variables is built in. Keras' own
    names and paths, by which all else knows a variable, are as ever.
    """

    def named(make: Callable[..., tf.Variable], **settings: Any) -> tf.Variable:
        # The slash is for a name without the scopes around it.
        return make(**(settings | {"name": "variable/"}))

    with tf.variable_creator_scope(named):
        yield
