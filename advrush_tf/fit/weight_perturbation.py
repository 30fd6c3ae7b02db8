"""Adversarial weight perturbation: the loss is lowered where the weights are worst."""

import contextlib
from collections.abc import Iterator, Sequence

import keras
import tensorflow as tf


@contextlib.contextmanager
def moved(
    weights: Sequence[keras.Variable],
    gradients: Sequence[tf.Tensor],
    gamma: float,
) -> Iterator[None]:
    """Moves kernels up a loss for a while, each by a share of its own length.

    Kernels are what has two dimensions or more; offsets, scales and biases stay.

    Args:
        weights: a network's trainable weights.
        gradients: of the loss in them.
        gamma: length of the move over the length of the kernel.

    Source: Wu et al., arXiv 2004.05884, with one step.
    """
    kernels = [(w, g) for w, g in zip(weights, gradients, strict=True) if w.ndim >= 2]
    own = [tf.identity(weight.value) for weight, _ in kernels]
    for (weight, gradient), value in zip(kernels, own, strict=True):
        scale = gamma * tf.norm(value)
        weight.assign(
            value + tf.math.divide_no_nan(scale * gradient, tf.norm(gradient))
        )
    try:
        yield
    finally:
        for (weight, _), value in zip(kernels, own, strict=True):
            weight.assign(value)


@contextlib.contextmanager
def kept(variables: Sequence[keras.Variable]) -> Iterator[None]:
    """Gives variables, such as running statistics, their values back afterwards."""
    own = [tf.identity(variable.value) for variable in variables]
    try:
        yield
    finally:
        for variable, value in zip(variables, own, strict=True):
            variable.assign(value)
