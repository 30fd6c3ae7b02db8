import gc
import weakref

import numpy as np
import pytest
import tensorflow as tf

from advrush_tf.custom_gradient import custom_gradient
from advrush_tf.nn.kernels import already_scaled


@custom_gradient
def _swapped(x, y):
    """Returns x + y and x * y; the gradients are wrong on purpose, to be told."""

    def gradient(d_sum, d_product):
        return 3 * d_sum + x**2 * d_product, None

    return (x + y, x * y), gradient


def _first(x):
    total, product = _swapped(x, tf.constant([1.0, 2.0]))
    return total + 5 * product


def _gradient(function, x):
    with tf.GradientTape() as tape:
        tape.watch(x)
        y = function(x)
    return tape.gradient(y, x)


def _loop(x):
    _, x = tf.while_loop(lambda i, _: i < 1, lambda i, x: (i + 1, _first(x)), (0, x))
    return x


@pytest.mark.parametrize(
    "function",
    [_first, tf.function(_first), tf.function(tf.function(_first)), tf.function(_loop)],
    ids=["a tape's", "a function's", "an inner function's", "a loop's"],
)
@pytest.mark.parametrize("wrap", [lambda f: f, tf.function], ids=["eager", "graph"])
def test_the_gradient_is_the_function_s_own(function, wrap):
    x = tf.constant([2.0, 7.0])
    first = wrap(lambda x: _gradient(function, x))
    np.testing.assert_array_equal(first(x), [3 + 5 * 4, 3 + 5 * 49])
    second = wrap(lambda x: _gradient(lambda x: _gradient(function, x), x))
    np.testing.assert_array_equal(second(x), [20.0, 70.0])


def test_a_second_derivative_reaches_what_a_function_captured():
    x, scale = tf.constant([[[[2.0, 7.0]]]]), tf.constant([0.5, 3.0])

    def products(x, scale):
        @tf.function(autograph=False)
        def inner(x):
            return already_scaled(x * tf.stop_gradient(scale), scale) ** 2

        return inner(x)

    with tf.GradientTape() as outer:
        outer.watch(scale)
        with tf.GradientTape() as tape:
            tape.watch(scale)
            y = products(x, scale)
        first = tape.gradient(y, scale)
    np.testing.assert_allclose(first, 2 * scale * x[0, 0, 0] ** 2, rtol=1e-6)
    second = outer.gradient(first, scale)
    np.testing.assert_allclose(second, 2 * x[0, 0, 0] ** 2, rtol=1e-6)


def test_a_graph_is_let_go_with_its_gradients():
    from tensorflow.python.framework import ops

    gc.collect()
    known = set(ops.gradient_registry.list())
    function = tf.function(lambda x: _gradient(_first, x))
    graph = weakref.ref(function.get_concrete_function(tf.zeros(2)).graph)
    assert len(set(ops.gradient_registry.list()) - known) == 1
    del function
    gc.collect()
    assert graph() is None
    assert set(ops.gradient_registry.list()) == known


def test_what_is_not_a_tensor_becomes_one():
    values = tf.function(lambda: _swapped(2.0, np.float32(3.0)))()
    assert [float(value) for value in values] == [5.0, 6.0]
