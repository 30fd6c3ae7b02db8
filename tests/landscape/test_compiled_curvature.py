"""Curvature through compiled classifiers: each function makes another graph.

Run with and without oneDNN: other kernels are chosen there, and without it grouped
convolutions become several ones.
"""

import functools
import itertools

import keras
import numpy as np
import pytest
import tensorflow as tf

from advrush_tf.attacks.base import BatchedClassifier
from advrush_tf.genotypes.genotype import Genotype
from advrush_tf.genotypes.search_space import ALL_PRIMITIVES
from advrush_tf.landscape.hessian import hessian_products, hessian_vector_product
from advrush_tf.landscape.meter import measure_curvature
from advrush_tf.nn.cell_network import CellNetwork
from advrush_tf.nn.resnet import ResNet18
from advrush_tf.nn.supernet import Supernet
from advrush_tf.search.penalty import input_gradient

SHAPE, CLASSES, IMAGES = (8, 8, 1), 3, 2


def _cells(genotype, cells=2, **settings):
    def make(dtype):
        return CellNetwork(genotype, CLASSES, SHAPE, 2, cells, dtype=dtype, **settings)

    return make


def _of_two_operations(first, second):
    """Normal and reduction cells of two: with stride 1 and with stride 2."""
    edges = [(first, 0), (second, 1)]
    return _cells(Genotype(edges, [2], edges, [2]), cells=3)


def _supernet(dtype):
    kinds = ("max_pool_3x3", "skip_connect", "sep_conv_3x3", "dil_conv_3x3")
    # A reduction cell, whose second node reads the first with stride 1.
    net = Supernet(CLASSES, 2, 1, 2, primitives=kinds, dtype=dtype)
    net.build((None, *SHAPE))
    return net


# DARTS_V1 has a strided maximum pooling.
WHOLE = {
    "DARTS_V1": _cells("DARTS_V1"),
    "supernet": _supernet,
    "ResNet18": lambda dtype: ResNet18(CLASSES, SHAPE, 2, dtype=dtype),
}
OPERATIONS = [name for name in ALL_PRIMITIVES if name != "none"]
PAIRS = list(itertools.zip_longest(OPERATIONS[::2], OPERATIONS[1::2]))
NETWORKS = WHOLE | {
    f"{first}, {second}": _of_two_operations(first, second or first)
    for first, second in PAIRS
}


def _batch(dtype):
    rng = np.random.default_rng(0)
    x, v = rng.random((2, IMAGES, *SHAPE))
    return tf.constant(x, dtype), np.array([0, 2]), tf.constant(2 * v - 1, dtype)


def _scaled(model, factor, middle=0.0):
    return lambda images: factor * (model(images, training=False) - middle)


@functools.cache
def _networks(name):
    """The same function in float32 and in float64, with logits and slopes about 1."""
    keras.utils.set_random_seed(0)
    made = {dtype: NETWORKS[name](dtype) for dtype in ("float32", "float64")}
    pairs = zip(made["float64"].variables, made["float32"].variables, strict=True)
    for double, single in pairs:
        double.assign(tf.cast(single.value, double.dtype))
    x, y, _ = _batch("float64")
    gradient = input_gradient(_scaled(made["float64"], 1), x, y)
    factor = float(1 / tf.norm(gradient))
    middle = np.mean(made["float64"](x, training=False), 0)
    return {
        dtype: _scaled(model, factor, middle.astype(dtype))
        for dtype, model in made.items()
    }


def _largest_error(got, expected):
    """Of the largest value."""
    got, expected = np.asarray(got, np.float64), np.asarray(expected)
    return np.abs(got - expected).max() / np.abs(expected).max()


@functools.cache
def _products(name):
    """Those of the plain function in float64."""
    x, y, v = _batch("float64")
    return hessian_products(_networks(name)["float64"], x, tf.constant(y), v)


@pytest.mark.parametrize("name", NETWORKS)
def test_products_are_the_gradients_differences(name):
    model, (x, y, v) = _networks(name)["float64"], _batch("float64")
    # So short a step crosses no kink of these networks.
    step = 1e-6
    far, near = (input_gradient(model, x + s * v, y) for s in (step, -step))
    assert _largest_error(_products(name), (far - near) / (2 * step)) < 1e-6
    assert np.abs(_products(name)).max() > 1e-3


@pytest.mark.parametrize("name", NETWORKS)
def test_compiled_products_are_the_plain_ones(name):
    function = tf.function(_networks(name)["float32"])
    products = hessian_vector_product(function, *_batch("float32"))
    assert products.dtype == tf.float32
    assert _largest_error(products, _products(name)) < 1e-3


@pytest.mark.parametrize("name", WHOLE)
def test_products_inside_a_function_are_the_plain_ones(name):
    model, batch = _networks(name)["float32"], _batch("float32")
    classifier = BatchedClassifier(model, SHAPE, IMAGES)
    products = _compiled_product(classifier.logits, *batch)
    assert _largest_error(products, _products(name)) < 1e-3


def _compiled_product(model, x, y, v):
    product = functools.partial(hessian_vector_product, model)
    return tf.function(product, autograph=False)(x, tf.constant(y), v)


def test_recomputed_cells_are_right_or_refused():
    # A compiled function's graph is made before anyone wants its gradient, so that
    # recomputation keeps nothing for one: it would be lost.
    model, (x, y, v) = NETWORKS["DARTS_V1"]("float64"), _batch("float64")
    recomputed = _cells("DARTS_V1", recompute_cells=True)("float64")
    recomputed.set_weights(model.get_weights())
    plain = functools.partial(model, training=False)
    expected = hessian_products(plain, x, tf.constant(y), v)
    products = _compiled_product(lambda z: recomputed(z, training=False), x, y, v)
    assert _largest_error(products, expected) < 1e-9
    function = tf.function(lambda z: recomputed(z, training=False))
    with pytest.raises(ValueError, match="recomputes its cells"):
        hessian_vector_product(function, x, y, v)


def test_a_compiled_function_is_measured():
    model, (x, y, _) = NETWORKS["DARTS_V1"]("float64"), _batch("float64")
    settings = {"top": 2, "lanczos_steps": 4, "batch_size": 2}
    function = tf.function(lambda z: model(z, training=False))
    found = measure_curvature(function, x.numpy(), y, **settings)
    expected = measure_curvature(model, x.numpy(), y, **settings)
    assert (expected.eigenvalues > 0).all()
    np.testing.assert_allclose(found.eigenvalues, expected.eigenvalues, rtol=1e-9)
