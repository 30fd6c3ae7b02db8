"""Checks of the first and second derivatives of functions of tensors."""

import functools
from collections.abc import Callable, Sequence

import numpy as np
import pytest
import tensorflow as tf


def first(function, inputs):
    """A scalar of the outputs with curvature in every one, and its gradients."""
    with tf.GradientTape() as tape:
        tape.watch(inputs)
        y = function(*inputs)
        phase = tf.cast(tf.reshape(tf.range(tf.size(y)), tf.shape(y)), y.dtype)
        value = tf.reduce_sum(tf.sin(y + phase))
    return value, tape.gradient(value, inputs)


def second(function, inputs):
    """A scalar of the first gradients, and its gradients."""
    with tf.GradientTape() as tape:
        tape.watch(inputs)
        gradients = first(function, inputs)[1]
        value = tf.add_n([tf.reduce_sum(tf.sin(3 * g)) for g in gradients])
    return value, tape.gradient(value, inputs)


def check_against_differences(
    function: Callable,
    shapes: Sequence[tuple[int, ...]],
    order: Callable,
    traced: bool,
) -> None:
    """Compares derivatives in float64 with differences along random directions.

    Args:
        function: of tensors of these shapes.
        shapes: of the function's arguments.
        order: `first` or `second`.
        traced: whether the derivatives are taken in a graph.
    """
    step = 1e-6
    rng = np.random.default_rng(0)
    inputs = _inputs(shapes, rng)
    scalar = functools.partial(order, function)
    compiled = tf.function(scalar) if traced else scalar
    directions = [rng.normal(size=x.shape) for x in inputs]
    ends = [
        scalar([x + side * step * d for x, d in zip(inputs, directions, strict=True)])
        for side in (1, -1)
    ]
    difference = float(ends[0][0] - ends[1][0]) / (2 * step)
    gradients = compiled(inputs)[1]
    along = sum(np.sum(g * d) for g, d in zip(gradients, directions, strict=True))
    assert abs(difference) > 1e-3
    assert along == pytest.approx(difference, rel=1e-6)


def check_single_precision(
    function: Callable, shapes: Sequence[tuple[int, ...]], traced: bool
) -> None:
    """Compares second derivatives in float32 with those in float64."""
    inputs = _inputs(shapes, np.random.default_rng(0))
    scalar = functools.partial(second, function)
    expected = scalar(inputs)[1]
    compiled = tf.function(scalar) if traced else scalar
    actual = compiled([tf.cast(x, tf.float32) for x in inputs])[1]
    for value, reference in zip(actual, expected, strict=True):
        scale = np.abs(reference).max()
        np.testing.assert_allclose(value, reference, rtol=0, atol=1e-4 * scale)


def check_half_precision(
    function: Callable,
    shapes: Sequence[tuple[int, ...]],
    dtype: str,
    tolerance: float,
    kept: int = 0,
) -> None:
    """Compares both derivatives in half precision with those in float64.

    Args:
        function: of tensors of these shapes.
        shapes: of the function's arguments.
        dtype: "float16" or "bfloat16".
        tolerance: largest error, relative to the largest value of a derivative.
        kept: number of last arguments that stay in float32.
    """
    rng = np.random.default_rng(0)
    dtypes = [dtype] * (len(shapes) - kept) + ["float32"] * kept
    inputs = [
        tf.cast(rng.normal(size=s), d) for s, d in zip(shapes, dtypes, strict=True)
    ]
    got = _both(function, inputs, np.random.default_rng(1))
    exact = [tf.cast(x, tf.float64) for x in inputs]
    for value, reference in zip(
        got, _both(function, exact, np.random.default_rng(1)), strict=True
    ):
        assert value.dtype in (dtype, "float32")
        error = np.abs(tf.cast(value, tf.float64) - reference)
        assert np.max(error) <= tolerance * np.max(np.abs(reference))


def _inputs(shapes, rng):
    return [tf.constant(rng.normal(size=shape)) for shape in shapes]


def _both(function, inputs, rng):
    """First and second derivatives of a function, the latter along fixed numbers."""
    with tf.GradientTape() as outer:
        outer.watch(inputs)
        with tf.GradientTape() as inner:
            inner.watch(inputs)
            y = function(*inputs)
            weights = tf.cast(rng.normal(size=y.shape), y.dtype)
            value = tf.reduce_sum(weights * y * y)
        gradients = inner.gradient(value, inputs)
        along = [tf.cast(rng.normal(size=g.shape), g.dtype) for g in gradients]
        products = [
            tf.cast(tf.reduce_sum(a * g), tf.float64)
            for a, g in zip(along, gradients, strict=True)
        ]
        value = tf.add_n(products)
    return [*gradients, *outer.gradient(value, inputs)]
