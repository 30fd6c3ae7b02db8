"""Recomputation: a layer that keeps only its inputs for the backward pass.

The backward pass runs the layer again: less memory, more time. The gradient is itself a
recomputed function, so that gradients of gradients save memory in the same way.

Source: Chen et al., Training Deep Nets with Sublinear Memory Cost, arXiv 1604.06174.
"""

from collections.abc import Callable, Sequence
from typing import Any

import keras
import tensorflow as tf
from tensorflow.python.eager import record

from advrush_tf.custom_gradient import custom_gradient


def recomputed(
    layer: keras.layers.Layer, others: Sequence[keras.Variable] = ()
) -> Callable[..., tf.Tensor]:
    """Returns the call of a layer that keeps only its inputs for the backward pass.

    Numbers and gradients of any order are the layer's. The second run reads the values
    that the variables had in the first one and leaves no trace in them: running
    statistics move once, and what was drawn at random is drawn again.

    Args:
        layer: built; it reads and assigns its variables through Keras alone.
        others: variables, not trainable, that the call reads beside the layer's own.

    Returns:
        A function of a sequence of tensors and of further single ones, which the layer
        takes in this order, and of whatever else it takes, by name; it returns one
        tensor.
    """
    trainable = layer.trainable_variables
    state = [*layer.non_trainable_variables, *others]

    def call(images: Sequence[tf.Tensor], *parameters: tf.Tensor, **fixed: Any):
        before = _values(state)

        def run(images, parameters, weights):
            values = zip((*trainable, *state), (*weights, *before), strict=True)
            with keras.StatelessScope(list(values)) as scope:
                return layer(*images, *parameters, **fixed), scope

        arguments = [list(images), list(parameters), _values(trainable)]
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


def _differentiable(
    value: Any, function: Callable[..., Any], arguments: list[list[tf.Tensor]]
) -> Any:
    """`value`, which is `function(*arguments)`, with the gradient of the function.

    Differentiating in one argument alone costs no gradients of the others.
    """
    # Whom no tape watches needs no gradient: the attack of a fit none of the weights.
    wanted = [i for i, a in enumerate(arguments) if record.should_record_backprop(a)]
    if not wanted:
        return value

    @custom_gradient
    def attach(*_):
        def gradient(*dy):
            return tf.nest.flatten(_gradients(function, arguments, wanted, list(dy)))

        return value, gradient

    return attach(*tf.nest.flatten([arguments[i] for i in wanted]))


def _gradients(
    function: Callable[..., Any],
    arguments: list[list[tf.Tensor]],
    wanted: list[int],
    dy: list[tf.Tensor],
) -> list[list[tf.Tensor]]:
    """The gradient in each wanted argument, itself differentiable by recomputation."""

    def backward(wanted, arguments, dy):
        sources = [arguments[i] for i in wanted]
        with tf.GradientTape(watch_accessed_variables=False) as tape:
            tape.watch(sources)
            y = tf.nest.flatten(function(*arguments))
        return tape.gradient(y, sources, dy, unconnected_gradients="zero")

    # The second run must wait for the backward pass to arrive, and its operations must
    # not look to an optimiser of graphs like those of the first.
    with tf.control_dependencies(dy):
        delayed = _detached([arguments, dy])
    return [
        _differentiable(
            value,
            lambda *a, i=i: backward([i], a[:-1], a[-1])[0],
            [*arguments, dy],
        )
        for i, value in zip(wanted, backward(wanted, *delayed), strict=True)
    ]
