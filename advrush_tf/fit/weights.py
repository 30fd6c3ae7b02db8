"""Averages (EMA) and adversarial perturbations (AWP) of a network's weights."""

import contextlib
from collections.abc import Iterator, Sequence

import keras
import tensorflow as tf

from advrush_tf.variables import of_one_name


class WeightAverage(keras.layers.Layer):
    """Exponential moving averages of variables, kept beside them.

    Running statistics are averaged like weights: those of the last step would not fit
    averaged weights.

    Args:
        variables: the ones to average.
        decay: weight of the old average, in (0, 1).

    Raises:
        ValueError: the decay is out of range.

    Source: Gowal et al., arXiv 2010.03593, for adversarial fits.
    """

    def __init__(self, variables: Sequence[keras.Variable], decay: float):
        if not 0 < decay < 1:
            raise ValueError(f"the decay of an average must be in (0, 1), not {decay}")
        super().__init__(name="average")
        self.decay = decay
        self._sources = [variable.value for variable in variables]
        with of_one_name():
            self._averages = [
                self.add_weight(
                    name=f"average_{index}",
                    shape=variable.shape,
                    dtype=variable.dtype,
                    initializer=keras.initializers.Constant(variable.numpy()),
                    trainable=False,
                    autocast=False,
                ).value
                for index, variable in enumerate(variables)
            ]
        self.built = True

    def update(self, step: tf.Tensor) -> None:
        """Moves the averages towards the variables' present values.

        Args:
            step: number of updates before this one. The first ones count more, so that
                the initial weights are soon forgotten.
        """
        step = tf.cast(step, tf.float32)
        decay = tf.minimum(self.decay, (1 + step) / (10 + step))
        for average, source in zip(self._averages, self._sources, strict=True):
            share = tf.cast(1 - decay, source.dtype)
            average.assign_sub((average - source) * share)

    @contextlib.contextmanager
    def in_use(self) -> Iterator[None]:
        """Puts the averages in the variables' place inside a `with`."""
        own = [tf.identity(source) for source in self._sources]
        for average, source in zip(self._averages, self._sources, strict=True):
            source.assign(average)
        try:
            yield
        finally:
            for value, source in zip(own, self._sources, strict=True):
                source.assign(value)


@contextlib.contextmanager
def perturbed(
    weights: Sequence[keras.Variable],
    gradients: Sequence[tf.Tensor],
    gamma: float,
) -> Iterator[None]:
    """Moves kernels up a loss inside a `with`, each by a share of its length.

    Kernels are what has two dimensions or more; offsets, scales and biases stay.

    Args:
        weights: a network's trainable weights.
        gradients: of the loss in them.
        gamma: length of the move over the length of the kernel.

    Source: Wu et al., arXiv 2004.05884, with one step.
    """
    kernels = [(w, g) for w, g in zip(weights, gradients, strict=True) if w.ndim >= 2]
    with restored_afterwards([kernel for kernel, _ in kernels]):
        for kernel, gradient in kernels:
            scale = gamma * tf.norm(kernel.value)
            step = tf.math.divide_no_nan(scale * gradient, tf.norm(gradient))
            kernel.assign(kernel.value + step)
        yield


@contextlib.contextmanager
def restored_afterwards(variables: Sequence[keras.Variable]) -> Iterator[None]:
    """Gives variables, such as running statistics, their values back after a `with`."""
    values = [tf.identity(variable.value) for variable in variables]
    try:
        yield
    finally:
        for variable, value in zip(variables, values, strict=True):
            variable.assign(value)
