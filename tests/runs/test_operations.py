import time

import numpy as np
import pytest
import tensorflow as tf

from advrush_tf.runs import operations
from advrush_tf.search.penalty import input_gradient

X, Y = (2, 6, 6, 3), (2,)


@pytest.fixture(scope="module")
def weights():
    rng = np.random.default_rng(0)
    shapes = (3, 3, 3, 4), (5, 5, 4, 1), (4, 10)
    return [tf.constant(rng.normal(size=shape), tf.float32) for shape in shapes]


def logits(x, weights):
    with tf.name_scope("layer"):
        kernel, depthwise, dense = weights
        x = tf.nn.conv2d(x, kernel, 2, "SAME")
        x = tf.nn.depthwise_conv2d(x, depthwise, [1, 1, 1, 1], "SAME")
        return tf.matmul(tf.reduce_mean(x, (1, 2)), dense)


def found(function):
    x, y = tf.random.stateless_uniform(X, (0, 0)), tf.zeros(Y, tf.int32)
    started = time.perf_counter()
    costs = operations.profile([tf.function(function, autograph=False)], x, y)
    seconds = time.perf_counter() - started
    assert 0 < sum(cost.seconds for cost in costs) < seconds
    return {(cost.part, cost.kind): cost for cost in costs}


def test_bytes_and_multiply_adds_by_hand(weights):
    def step(x, y):
        with tf.GradientTape() as tape:
            tape.watch(weights)
            loss = tf.reduce_sum(logits(x, weights) ** 2)
        return tape.gradient(loss, weights)

    costs = found(step)
    expected = {
        ("forward", "Conv2D"): (1, 216 + 108 + 72, 72 * 27),
        ("forward", "DepthwiseConv2dNative"): (1, 72 + 100 + 72, 72 * 25),
        # Of the image no gradient is wanted.
        ("gradient", "Conv2DBackpropFilter"): (1, 216 + 4 + 72 + 108, 72 * 27),
        ("gradient", "DepthwiseConv2dNativeBackpropFilter"): (
            1,
            72 + 4 + 72 + 100,
            72 * 25,
        ),
        ("gradient", "DepthwiseConv2dNativeBackpropInput"): (
            1,
            4 + 100 + 72 + 72,
            72 * 25,
        ),
        ("forward", "MatMul"): (1, 8 + 40 + 20, 80),
        # Of the pooled features, and of the matrix.
        ("gradient", "MatMul"): (2, 20 + 40 + 8 + 8 + 20 + 40, 160),
    }
    for key, (number, values, products) in expected.items():
        cost = costs[key]
        assert (cost.number, cost.moved, cost.multiply_adds) == (
            number,
            4 * values,
            products,
        )
    assert not any(kind == "Conv2DBackpropInput" for _, kind in costs)


def test_passes_of_an_input_gradient_and_of_its_own(weights):
    def step(x, y):
        with tf.GradientTape() as tape:
            tape.watch(weights)
            slopes = input_gradient(lambda z: logits(z, weights) ** 2, x, y)
            value = tf.reduce_sum(slopes**2)
        return tape.gradient(value, weights)

    costs = found(step)
    parts = {part for part, kind in costs if kind == "Conv2D"}
    # The second derivative convolves again.
    assert parts == {"input's forward", "gradient"}
    assert ("input's gradient", "Conv2DBackpropInput") in costs
    assert ("gradient", "Conv2DBackpropFilter") in costs


def test_functions_with_operations_of_one_name(weights):
    x, y = tf.random.stateless_uniform(X, (0, 0)), tf.zeros(Y, tf.int32)
    functions = [
        tf.function(lambda x, y, n=n: logits(x[:n], weights), autograph=False)
        for n in (1, 2)
    ]
    costs = operations.profile(functions, x, y)
    (found,) = (cost for cost in costs if cost.kind == "Conv2D")
    assert (found.number, found.multiply_adds) == (2, 3 * 36 * 27)


def test_operations_in_a_loop_count_each_time(weights):
    def attack(x, y):
        return tf.while_loop(
            lambda i, z: i < 3,
            lambda i, z: (i + 1, z + tf.reduce_sum(logits(z, weights))),
            (0, x),
        )

    assert found(attack)["attack's forward", "Conv2D"].number == 3


def test_the_table():
    cost = operations.OperationCost
    costs = [
        cost("forward", "Conv2D", 2, 3.0, 10**9, 2 * 10**9),
        cost("gradient", "AddN", 1, 1.0, 4 * 10**9, 0),
        cost("gradient", "Mul", 7, 0.01, 1, 0),
    ]
    table = operations.as_table(costs, operations.Limits(8e9, 4e9)).splitlines()
    assert table[2] == "| forward | Conv2D | 2 | 3.000 | 74.8% | 1.00 | 2.00 | 6.0 |"
    assert table[3] == "| gradient | AddN | 1 | 1.000 | 24.9% | 4.00 | 0.00 | 2.0 |"
    assert table[4] == "| | all others | | 0.010 | 0.2% | | | |"
    assert "4.010 s" in table[-1]


def test_limits_are_of_this_machine():
    limits = operations.measure_limits(side=256)
    # From an old telephone's to the largest server's.
    assert 1e8 < limits.bandwidth < 1e13
    assert 1e8 < limits.products < 1e15
