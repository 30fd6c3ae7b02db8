import numpy as np
import pytest
import tensorflow as tf

from advrush_tf.genotypes.search_space import ALL_PRIMITIVES, PRIMITIVES
from advrush_tf.nn.mixed_op import MixedEdges
from support import per_edge

CHANNELS, EDGES = 2, 3
ODD_ONES = ("max_pool_3x3", "sep_conv_7x7", "skip_connect")
SMOOTH = tuple(name for name in ALL_PRIMITIVES if name != "none")


def _layer(stride=1, primitives=ALL_PRIMITIVES, dtype="float64", edges=EDGES):
    layer = MixedEdges(CHANNELS, edges, stride, primitives, dtype=dtype)
    layer.build((None, None, None, CHANNELS))
    rng = np.random.default_rng(1)
    for variable in layer.weights:
        variance = "variance" in variable.name
        low, high = (0.5, 1.5) if variance else (-1.0, 1.0)
        variable.assign(rng.uniform(low, high, variable.shape))
    return layer


def _inputs(size, primitives=ALL_PRIMITIVES, batch=3, dtype="float64", edges=EDGES):
    rng = np.random.default_rng(2)
    x = rng.normal(size=(batch, *size, CHANNELS))
    weights = rng.dirichlet(np.ones(len(primitives)), edges)
    return tf.constant(x, dtype), tf.constant(weights, dtype)


def _loss(y):
    factor = np.random.default_rng(3).normal(size=y.shape)
    return tf.reduce_sum(y * tf.constant(factor, y.dtype))


def _with_gradients(function, x, weights, variables):
    watched = [x, weights, *(v.value for v in variables)]
    with tf.GradientTape() as tape:
        tape.watch([x, weights])
        y = function(x, weights)
        loss = _loss(y)
    return y, tape.gradient(loss, watched)


def _close(actual, expected, tolerance):
    bound = tolerance * max(1.0, np.abs(expected).max())
    np.testing.assert_allclose(actual, expected, rtol=0, atol=bound)


def _compare(layer, x, weights, training, tolerance):
    statistics = per_edge.Statistics(training)
    variables = layer.trainable_variables
    expected, expected_gradients = _with_gradients(
        lambda x, w: per_edge.mixed_edges(x, layer, w, statistics),
        x,
        weights,
        variables,
    )
    actual, gradients = _with_gradients(
        lambda x, w: layer(x, w, training=training), x, weights, variables
    )
    _close(actual, expected, tolerance)
    for gradient, reference in zip(gradients, expected_gradients, strict=True):
        _close(gradient, reference, tolerance)
    for variable, part, value in statistics.expected:
        _close(variable.numpy()[part], value, tolerance)
    recorded = sum(value.shape[0] for _, _, value in statistics.expected)
    owned = sum(v.shape[0] for v in layer.non_trainable_variables)
    assert recorded == (owned if training else 0)


@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("size", [(8, 8), (7, 7), (8, 7)])
@pytest.mark.parametrize("training", [False, True])
def test_equals_the_mixture_edge_by_edge(stride, size, training):
    x, weights = _inputs(size)
    _compare(_layer(stride), x, weights, training, 1e-11)


@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize(
    "primitives",
    [PRIMITIVES, ODD_ONES, ("none", "avg_pool_3x3"), ("dil_conv_5x5",)],
)
def test_equals_it_for_other_primitives(stride, training, primitives):
    layer = _layer(stride, primitives)
    x, weights = _inputs((8, 8), primitives)
    _compare(layer, x, weights, training, 1e-11)


@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("training", [False, True])
def test_equals_it_in_float32(stride, training):
    layer = _layer(stride, dtype="float32")
    x, weights = _inputs((8, 8), dtype="float32")
    _compare(layer, x, weights, training, 2e-5)


def test_output_shape_and_weight_of_nothing():
    layer = _layer(2)
    x, _ = _inputs((7, 8))
    weights = np.zeros((EDGES, len(ALL_PRIMITIVES)))
    weights[:, ALL_PRIMITIVES.index("none")] = 1
    y = layer(x, tf.constant(weights))
    assert y.shape == (3, 4, 4, EDGES * CHANNELS)
    np.testing.assert_array_equal(y, np.zeros(y.shape))


def _second(function, x, weights, variables):
    """A scalar of the input gradient, and its gradients in everything."""
    watched = [x, weights, *(v.value for v in variables)]
    with tf.GradientTape() as outer:
        outer.watch([x, weights])
        with tf.GradientTape() as tape:
            tape.watch(x)
            loss = tf.reduce_sum(tf.sin(function(x, weights)))
        value = tf.reduce_sum(tf.sin(tape.gradient(loss, x)))
    return value, outer.gradient(value, watched)


@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("name", SMOOTH)
def test_gradient_of_gradient_of_each_operation(stride, training, name):
    layer = _layer(stride, ("none", name), edges=2)
    x, weights = _inputs((6, 6), ("none", name), batch=2, edges=2)
    variables = layer.trainable_variables

    def call(x, weights):
        return layer(x, weights, training=training)

    def value_and_gradients(x, weights):
        return _second(call, x, weights, variables)

    difference, directions = _difference(value_and_gradients, (x, weights), variables)
    for compiled in (value_and_gradients, tf.function(value_and_gradients)):
        gradients = compiled(x, weights)[1]
        along = sum(
            np.sum(g * d)
            for g, d in zip(gradients, directions, strict=True)
            if g is not None
        )
        assert along == pytest.approx(difference, rel=1e-5, abs=1e-6)


def _difference(function, inputs, variables, step=1e-6):
    """Central difference along one direction in the inputs and all variables."""
    rng = np.random.default_rng(4)
    start = [*(x.numpy() for x in inputs), *(v.numpy() for v in variables)]
    directions = [rng.normal(size=value.shape) for value in start]
    ends = []
    for side in (1, -1, 0):
        moved = [a + side * step * d for a, d in zip(start, directions, strict=True)]
        for variable, value in zip(variables, moved[2:], strict=True):
            variable.assign(value)
        if side:
            ends.append(float(function(*map(tf.constant, moved[:2]))[0]))
    return (ends[0] - ends[1]) / (2 * step), directions
