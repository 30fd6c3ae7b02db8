"""Recomputation: a layer that keeps its inputs alone for the backward pass.

There the layer runs again, which saves memory for time. A gradient is itself a function
that is recomputed, so that gradients of gradients save memory in the same way.

Source: Chen et al., Training Deep Nets with Sublinear Memory Cost, arXiv 1604.06174.
"""

from collections.abc import Callable, Sequence
from typing import Any

import keras
import tensorflow as tf


def recomputed(
    layer: keras.layers.Layer, others: Sequence[keras.Variable] = ()
) -> Callable[..., tf.Tensor]:
    """The call of a layer, of which only the inputs are kept for the backward pass.

    Numbers and gradients of any order are the layer's. The second run reads the values
    that the variables had in the first one and leaves no trace in them: running
    statistics move once, and what was drawn at random is drawn again.

    Args:
        layer: built; it reads and assigns its variables through Keras alone.
        others: variables, not trainable, that the call reads beside the layer's own.

    Returns:
        A function of tensors, by position, and of whatever else the layer takes, by
        name, that returns one tensor.
    """
    trainable = layer.trainable_variables
    state = [*layer.non_trainable_variables, *others]

    def call(*inputs: tf.Tensor, **fixed: Any) -> tf.Tensor:
        before = _values(state)

        def run(*arguments):
            *tensors, weights = arguments
            values = zip((*trainable, *state), (*weights, *before), strict=True)
            with keras.StatelessScope(list(values)) as scope:
                return layer(*tensors, **fixed), scope

        arguments = (*inputs, _values(trainable))
        output, scope = run(*_detached(arguments))
        for variable, value in zip(state, before, strict=True):
            after = scope.get_current_value(variable)
            if after is not value:
                variable.assign(after)
        return _differentiable(output, lambda *a: run(*a)[0], arguments)

    return call


def _values(variables: Sequence[keras.Variable]) -> list[tf.Tensor]:
    return [tf.convert_to_tensor(variable.value) for variable in variables]


def _detached(structure: Any) -> Any:
    # On tensors that no tape watches, nothing is kept for a backward pass.
    return tf.nest.map_structure(tf.stop_gradient, structure)


def _differentiable(value: Any, function: Callable[..., Any], arguments: tuple) -> Any:
    """`value`, which is `function(*arguments)`, with the gradient of the function."""

    @tf.custom_gradient
    def attach(*_):
        return value, lambda *dy: tf.nest.flatten(
            _gradients(function, arguments, tf.nest.pack_sequence_as(value, dy))
        )

    return attach(*tf.nest.flatten(arguments))


def _gradients(function: Callable[..., Any], arguments: tuple, dy: Any) -> list[Any]:
    """Gradients in each argument, which can be differentiated by recomputation."""

    def backward(*everything):
        *inputs, dy = everything
        with tf.GradientTape(watch_accessed_variables=False) as tape:
            tape.watch(inputs)
            y = function(*inputs)
        return tape.gradient(y, inputs, dy, unconnected_gradients="zero")

    everything = (*arguments, dy)
    # The second run must wait for the backward pass to arrive, and its operations must
    # not look to an optimiser of graphs like those of the first.
    with tf.control_dependencies(tf.nest.flatten(dy)):
        delayed = tf.nest.map_structure(tf.identity, _detached(everything))
    # One by one, so that a graph computes only those that somebody reads.
    return [
        _differentiable(value, lambda *a, i=i: backward(*a)[i], everything)
        for i, value in enumerate(backward(*delayed))
    ]
