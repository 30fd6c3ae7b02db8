import numpy as np
import pytest
import tensorflow as tf

from advrush_tf.nn import kernels
from advrush_tf.search.penalty import probe_direction
from support import kinks

RNG = np.random.default_rng(0)
X = RNG.normal(size=(2, 6, 6, 3))
WEIGHTS = RNG.normal(size=(2, 6, 6, 3))


def _smooth(x):
    """A function with ReLUs and both kinds of pooling, and a curvature of its own."""
    pooled = kernels.max_pool_3x3(tf.nn.relu(x) * x, 1)
    return tf.reduce_sum(kernels.max_pool_3x3(pooled * x, 2) ** 2)


def _derivatives(x):
    """Value, gradient, and the gradient of the gradient along a fixed direction."""
    x = tf.constant(x)
    with tf.GradientTape() as outer:
        outer.watch(x)
        with tf.GradientTape() as inner:
            inner.watch(x)
            value = _smooth(x)
        gradient = inner.gradient(value, x)
        along = tf.reduce_sum(gradient * WEIGHTS)
    return value, gradient, outer.gradient(along, x)


def test_a_run_forced_to_its_own_sides_is_the_same():
    expected = _derivatives(X)
    with kinks.record() as sides:
        recorded = _derivatives(X)
    with kinks.replay(sides) as turned:
        forced = _derivatives(X)
    assert turned.kinks == X.size * 2 + X.size // 4
    assert turned.distances == []
    for a, b, c in zip(expected, recorded, forced, strict=True):
        np.testing.assert_array_equal(a, b)
        np.testing.assert_allclose(c, a, rtol=1e-12, atol=1e-12)


def test_turned_kinks_are_continued_smoothly_and_reported():
    x = np.array([[2.0, -1.0, 3.0]])
    with kinks.record() as sides:
        tf.nn.relu(tf.constant([[1.0, 1.0, -1.0]]))
    variable = tf.constant(x)
    with kinks.replay(sides) as turned, tf.GradientTape() as tape:
        tape.watch(variable)
        y = tf.nn.relu(variable)
    np.testing.assert_array_equal(y, [[2.0, -1.0, 0.0]])
    np.testing.assert_array_equal(tape.gradient(y, variable), [[1.0, 1.0, 0.0]])
    np.testing.assert_allclose(
        turned.distances, [1 / 3 / kinks.EPSILON, 1 / kinks.EPSILON]
    )


def test_turned_maxima_and_signs_are_reported():
    x = np.zeros((1, 3, 3, 1))
    x[0, 0, 0], x[0, 2, 2] = 1.0, 0.75
    gradient = tf.constant([[1.0, -0.5]])
    with kinks.record() as sides:
        tf.nn.max_pool2d(tf.constant(x[:, ::-1, ::-1]), 3, 1, "VALID")
        expected = probe_direction(-gradient, 1.0)
    with kinks.replay(sides) as turned:
        y = tf.nn.max_pool2d(tf.constant(x), 3, 1, "VALID")
        direction = probe_direction(gradient, 1.0)
    assert y.numpy().item() == 0.75
    np.testing.assert_array_equal(direction, expected)
    np.testing.assert_allclose(
        np.array(turned.distances) * kinks.EPSILON, [0.25, 1.0, 0.5]
    )


def test_another_number_of_kinks_is_an_error():
    with kinks.record() as sides:
        tf.nn.relu(tf.ones(2))
    with pytest.raises(ValueError, match="fewer"), kinks.replay(sides):
        pass
    with pytest.raises(ValueError, match="more"), kinks.replay(sides):
        for _ in range(2):
            tf.nn.relu(tf.ones(2))


def test_outside_the_contexts_nothing_is_replaced():
    before = tf.nn.relu, tf.nn.max_pool2d, tf.sign
    with kinks.record() as sides, kinks.replay(sides):
        pass
    assert (tf.nn.relu, tf.nn.max_pool2d, tf.sign) == before
