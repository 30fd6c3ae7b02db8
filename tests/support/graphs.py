"""What TensorFlow does with small graphs that takes longer than to run them."""

import tensorflow as tf
from tensorflow.python.util import tf_stack


def optimise_graphs(on: bool) -> None:
    """Sets whether this process optimises the graphs that it runs from now on.

    Tests leave it off where it is not the subject: it takes a quarter of the time that
    a small graph needs to its first numbers.
    """
    tf.config.optimizer.set_experimental_options({"disable_meta_optimizer": not on})


def forget_where_operations_are_made() -> None:
    """Gives the operations that this process traces from now on one and the same stack.

    TensorFlow keeps the stack of each for its errors. pytest's are deep, and take a
    seventh of the time of tests that trace.
    """
    stack = tf_stack.extract_stack()
    tf_stack.extract_stack = lambda stacklevel=1: stack
