"""TensorFlow's optimiser of graphs, which tests leave off where it is not the subject.

It takes a quarter of the time that a small graph needs to its first numbers.
"""

import tensorflow as tf


def optimise_graphs(on: bool) -> None:
    """Sets whether this process optimises the graphs that it runs from now on."""
    tf.config.optimizer.set_experimental_options({"disable_meta_optimizer": not on})
