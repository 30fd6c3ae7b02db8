import keras
import numpy as np
import pytest
import tensorflow as tf

from advrush_tf import replication
from advrush_tf.nn.batch_norm import batch_normalize, inverse_deviation, update_running
from support.derivatives import (
    check_against_differences,
    check_half_precision,
    check_single_precision,
    first,
    second,
)
from support.replicas import on_each, pieces, strategy

X, CHANNELS = (3, 4, 4, 3), (3,)
# The function, and the shapes of what it is differentiated in.
FORMS: dict[str, tuple] = {
    "affine": (lambda *args: batch_normalize(*args)[0], [X, CHANNELS, CHANNELS]),
    "scaled": (lambda x, scale: batch_normalize(x, scale)[0], [X, CHANNELS]),
    "plain": (lambda x: batch_normalize(x)[0], [X]),
}


def _random(*shape):
    return np.random.default_rng(0).normal(size=shape)


def _numpy_batch_norm(x, scale, offset):
    x = np.float64(x)
    mean, variance = x.mean((0, 1, 2)), x.var((0, 1, 2))
    y = (x - mean) / np.sqrt(variance + 1e-5) * scale + offset
    return y, mean, x.var((0, 1, 2), ddof=1)


# Sizes that cut into four parts and one that does not.
@pytest.mark.parametrize("size", [(4, 4), (6, 2), (5, 3)])
@pytest.mark.parametrize(
    ("dtype", "tolerance"), [("float64", 1e-13), ("float32", 1e-6)]
)
def test_batch_normalisation_equals_numpy(size, dtype, tolerance):
    rng = np.random.default_rng(0)
    x = rng.normal(size=(3, *size, 5)).astype(dtype)
    scale, offset = rng.normal(size=(2, 5)).astype(dtype)
    results = batch_normalize(*map(tf.constant, (x, scale, offset)))
    for actual, expected in zip(
        results, _numpy_batch_norm(x, scale, offset), strict=True
    ):
        assert actual.dtype == dtype
        np.testing.assert_allclose(actual, expected, rtol=0, atol=4 * tolerance)


def test_batch_normalisation_of_an_unknown_batch_size():
    x = _random(3, 4, 4, 5)
    signature = [tf.TensorSpec((None, 4, 4, 5), tf.float64)]
    traced = tf.function(batch_normalize, input_signature=signature)
    results, expected = traced(tf.constant(x)), _numpy_batch_norm(x, 1, 0)
    for actual, value in zip(results, expected, strict=True):
        np.testing.assert_allclose(actual, value, atol=1e-13)


def test_statistics_are_accurate_in_float32():
    # 32768 values a channel, far from zero: one running float32 sum is off by 3e-6.
    x = (_random(32, 32, 32, 16) + 4).astype(np.float32)
    _, mean, variance = batch_normalize(tf.constant(x))
    _, expected_mean, expected_variance = _numpy_batch_norm(x, 1, 0)
    np.testing.assert_allclose(mean, expected_mean, rtol=2e-6)
    np.testing.assert_allclose(variance, expected_variance, rtol=2e-6)


@pytest.mark.parametrize("name", FORMS)
@pytest.mark.parametrize("order", [first, second])
@pytest.mark.parametrize("traced", [False, True])
def test_gradients_against_finite_differences(name, order, traced):
    check_against_differences(*FORMS[name], order, traced)


@pytest.mark.parametrize("name", FORMS)
@pytest.mark.parametrize("traced", [False, True])
def test_second_gradients_in_float32_equal_those_in_float64(name, traced):
    check_single_precision(*FORMS[name], traced)


@pytest.mark.parametrize("name", FORMS)
@pytest.mark.parametrize(
    ("dtype", "tolerance"), [("float16", 4e-3), ("bfloat16", 0.04)]
)
def test_both_derivatives_in_half_precision(name, dtype, tolerance):
    function, shapes = FORMS[name]
    # Scale and offset stay in float32.
    check_half_precision(function, shapes, dtype, tolerance, kept=len(shapes) - 1)


def _batch_norm(synchronized):
    def step(x, weights, scale, offset):
        with tf.GradientTape() as tape:
            watched = (x, scale, offset)
            tape.watch(watched)
            y, mean, variance = batch_normalize(
                x, scale, offset, synchronized=synchronized
            )
            loss = tf.reduce_sum(y * weights)
        dx, *others = tape.gradient(loss, watched)
        return y, dx, replication.all_reduce_sum(others), mean, variance

    return step


@pytest.mark.parametrize("dtype, tolerance", [("float64", 1e-12), ("float32", 1e-5)])
@pytest.mark.parametrize("replicas", [2, 4])
def test_synchronized_batch_norm_is_that_of_the_whole_batch(replicas, dtype, tolerance):
    x, weights = (3 + _random(2, 8, 2, 2, 3)).astype(dtype)
    scale, offset = _random(2, 3).astype(dtype)

    def results(count):
        chosen = strategy(count)
        parts = pieces(chosen, x, weights)
        found = on_each(chosen, _batch_norm(True), *parts, scale, offset)
        y, dx = (np.concatenate([each[i] for each in found]) for i in range(2))
        return y, dx, *found[-1][2], *found[-1][3:]

    for got, expected in zip(results(replicas), results(1), strict=True):
        np.testing.assert_allclose(got, expected, rtol=tolerance, atol=tolerance)


def test_batch_norm_that_is_not_synchronized_uses_its_own_piece():
    x, weights = _random(2, 4, 2, 2, 3)
    ones, zeros = np.ones(3), np.zeros(3)
    chosen = strategy(2)
    found = on_each(
        chosen, _batch_norm(False), *pieces(chosen, x, weights), ones, zeros
    )
    for each, piece in zip(found, np.split(x, 2), strict=True):
        np.testing.assert_allclose(each[3], piece.mean((0, 1, 2)), rtol=1e-12)
        np.testing.assert_allclose(each[4], piece.var((0, 1, 2), ddof=1), rtol=1e-12)


def test_update_running():
    variable = keras.Variable([1.0, 20.0])
    update_running(variable, tf.constant([11.0, 10.0]))
    np.testing.assert_allclose(variable.numpy(), [2.0, 19.0], rtol=1e-6)


def test_inverse_deviation():
    variance = keras.Variable([0.25 - 1e-5, 4.0 - 1e-5])
    np.testing.assert_allclose(inverse_deviation(variance), [2.0, 0.5], rtol=1e-6)
