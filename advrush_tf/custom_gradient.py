"""Functions with a gradient of their own, whose graphs are let go."""

import functools
import itertools
import weakref
from collections.abc import Callable
from typing import Any

import tensorflow as tf
from tensorflow.python.eager import record
from tensorflow.python.framework import ops

_GRADIENTS = "_advrush_tf_gradients"
_numbers = itertools.count()


def custom_gradient(function: Callable[..., Any]) -> Callable[..., Any]:
    """Returns a function with a gradient of its own, as `tf.custom_gradient` does.

    That one keeps what it needs for a gradient, and with it the whole graph of the
    call, until the process ends: a process that searches, fits or attacks again and
    again runs out of memory. Here a graph owns its gradients. Tracing is quicker too.

    Args:
        function: of tensors, without variables; returns its result, a structure of
            tensors, and the function that turns the gradients of the result into
            those of the arguments, None where there is none. Both may be
            differentiated again.
    """
    eager = tf.custom_gradient(function)

    @functools.wraps(function)
    def call(*arguments: Any) -> Any:
        if tf.executing_eagerly():
            return eager(*arguments)
        inputs = [_of_this_graph(argument) for argument in arguments]
        result, gradient = function(*inputs)
        outputs = [tf.convert_to_tensor(tensor) for tensor in tf.nest.flatten(result)]

        def backward(*upstream):
            return tf.nest.flatten(gradient(*upstream[: len(outputs)]))

        tensors = outputs + inputs
        graph = ops.get_default_graph()
        # A tape reads what is recorded below; where a whole function is differentiated,
        # the operation's type of gradient counts.
        with (
            record.stop_recording(),
            graph.gradient_override_map({"IdentityN": _register(graph, backward)}),
        ):
            named = tf.raw_ops.IdentityN(input=tensors)[: len(outputs)]
        # Without the inputs' copies, for which a tape would make zeros.
        record.record_operation(function.__name__, named, inputs, backward)
        return tf.nest.pack_sequence_as(result, named)

    return call


def _of_this_graph(argument: Any) -> tf.Tensor:
    """A tensor that the gradient's gradient, in a graph of its own, can reach as well.

    A graph reaches the tensors of the one around it, not those further out.
    """
    tensor = tf.convert_to_tensor(argument)
    if tf.is_symbolic_tensor(tensor) and tensor.graph is not ops.get_default_graph():
        return tf.identity(tensor)
    return tensor


def _register(graph: tf.Graph, gradient: Callable[..., Any]) -> str:
    """Names a gradient as a type of TensorFlow's, which ends with the graph."""
    name = f"AdvRushGradient-{next(_numbers)}"
    if not hasattr(graph, _GRADIENTS):
        setattr(graph, _GRADIENTS, [])
    getattr(graph, _GRADIENTS).append(gradient)
    known: Callable[[], Any] = weakref.ref(gradient)

    @tf.RegisterGradient(name)
    def of_operation(_, *upstream):
        gradients = known()(*upstream)
        # Its first inputs are the results, through which nothing flows.
        return [None] * (len(upstream) - len(gradients)) + gradients

    entries = ops.gradient_registry._registry
    weakref.finalize(gradient, entries.pop, name, None).atexit = False
    return name
