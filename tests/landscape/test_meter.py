import functools

import keras
import numpy as np
import pytest
import tensorflow as tf

from advrush_tf.attacks.base import BatchedClassifier
from advrush_tf.errors import NonFiniteLossError
from advrush_tf.landscape.hessian import hessian_products, hessian_vector_product
from advrush_tf.landscape.meter import PROBE_LENGTH, CurvatureMeter, measure_curvature
from advrush_tf.nn.supernet import Supernet
from advrush_tf.official import weights as official
from advrush_tf.search.penalty import curvature_penalty, input_gradient
from support import golden
from support.small_networks import tiny_batch, tiny_network

SHAPE, CLASSES, IMAGES = (4, 3, 2), 4, 5
SIZE = int(np.prod(SHAPE))
DATA = golden.load("supernet_c4_l5_s1")


@pytest.fixture
def rng():
    return np.random.default_rng(0)


@pytest.fixture
def x(rng):
    return rng.random((IMAGES, *SHAPE))


@pytest.fixture
def y(rng):
    return rng.integers(0, CLASSES, IMAGES)


def _keras_network(*layers, dtype="float64", shape=SHAPE, classes=CLASSES):
    """A classifier of large weights, so that there is something to measure."""
    policy = keras.config.dtype_policy()
    keras.config.set_dtype_policy(dtype)
    try:
        ends = keras.layers.Flatten(), keras.layers.Dense(classes)
        made = [layer() for layer in layers]
        model = keras.Sequential([keras.layers.Input(shape, dtype=dtype), *made, *ends])
    finally:
        keras.config.set_dtype_policy(policy)
    generator = np.random.default_rng(1)
    for variable in model.variables:
        low = 0.5 if "variance" in variable.path else -0.7
        variable.assign(generator.uniform(low, 1, variable.shape))
    return model


def _convolution(activation):
    layer = functools.partial(keras.layers.Conv2D, 4, 3, padding="same")
    return functools.partial(layer, activation=activation)


NETWORKS = {
    "smooth": (_convolution("tanh"), _convolution("tanh")),
    "piecewise linear": (
        _convolution("relu"),
        keras.layers.BatchNormalization,
        keras.layers.MaxPooling2D,
        _convolution("relu"),
    ),
}


@pytest.fixture(scope="module", params=NETWORKS)
def network(request):
    return _keras_network(*NETWORKS[request.param])


def _dense_hessians(model_fn, x, y):
    """(images, n, n), row by row of as many copies, and without our derivatives."""
    size = x[0].size
    points, labels = (tf.constant(np.repeat(z, size, 0)) for z in (x, y))
    rows = tf.constant(np.tile(np.eye(size), (len(x), 1)).reshape(points.shape))
    with tf.GradientTape() as outer:
        outer.watch(points)
        with tf.GradientTape() as inner:
            inner.watch(points)
            losses = keras.losses.sparse_categorical_crossentropy(
                labels, model_fn(points), from_logits=True
            )
        gradient = inner.gradient(losses, points)
    hessians = outer.gradient(gradient, points, tf.cast(rows, points.dtype))
    return np.reshape(hessians, (len(x), size, size))


def _in_inference(network):
    return lambda images: network(images, training=False)


def test_products_are_those_of_the_dense_hessians(network, x, y, rng):
    v = rng.normal(size=x.shape)
    products = hessian_vector_product(network, x, y, v)
    hessians = _dense_hessians(_in_inference(network), x, y)
    expected = np.einsum("bij,bj->bi", hessians, v.reshape(IMAGES, SIZE))
    assert products.dtype == tf.float64 and np.abs(expected).max() > 0.01
    np.testing.assert_allclose(
        products, expected.reshape(x.shape), atol=1e-10 * np.abs(expected).max()
    )


def test_products_are_the_gradients_differences(x, y, rng):
    network = _keras_network(*NETWORKS["smooth"])
    v, step = rng.normal(size=x.shape), 1e-5
    far, near = (
        input_gradient(_in_inference(network), tf.constant(x + sign * step * v), y)
        for sign in (1, -1)
    )
    difference = (far - near) / (2 * step)
    products = hessian_vector_product(network, x, y, v)
    np.testing.assert_allclose(products, difference, rtol=1e-5, atol=1e-8)


def test_eigenvalues_are_those_that_numpy_finds(network, x, y):
    eigenvalues = np.linalg.eigvalsh(_dense_hessians(_in_inference(network), x, y))
    order = np.argsort(-np.abs(eigenvalues), 1)[:, :3]
    expected = np.take_along_axis(eigenvalues, order, 1)
    found = measure_curvature(network, x, y, top=3, lanczos_steps=SIZE)
    rounding = 1e-13 * np.abs(expected).max()
    np.testing.assert_allclose(found.eigenvalues, expected, rtol=1e-9, atol=rounding)
    assert found.eigenvalue_bounds.max() < 1e-9


def test_as_many_steps_as_classes_do_for_a_piecewise_linear_network(x, y):
    network = _keras_network(*NETWORKS["piecewise linear"])
    eigenvalues = np.linalg.eigvalsh(_dense_hessians(_in_inference(network), x, y))
    found = measure_curvature(network, x, y, top=CLASSES - 1, lanczos_steps=CLASSES)
    expected = eigenvalues[:, :-CLASSES:-1]
    np.testing.assert_allclose(
        found.eigenvalues, expected, atol=1e-9 * np.abs(expected).max()
    )
    np.testing.assert_allclose(found.traces, eigenvalues.sum(1), rtol=1e-9)


def test_traces_are_those_of_the_dense_hessians(network, rng):
    x, y = rng.random((30, *SHAPE)), rng.integers(0, CLASSES, 30)
    hessians = _dense_hessians(_in_inference(network), x, y)
    exact = np.trace(hessians, axis1=1, axis2=2)
    found = measure_curvature(network, x, y, top=1, lanczos_steps=16)
    deviations = np.abs(found.traces - exact)
    assert (deviations <= 4 * found.trace_errors).all()
    assert abs(found.traces.mean() - exact.mean()) < 0.05 * np.abs(exact).mean()
    assert found.mean_trace_error < 0.05 * np.abs(exact).mean()
    # Of single images: many times the mean's, once.
    assert deviations.max() < 0.5 * np.abs(exact).mean()


def test_a_trace_s_error_is_about_its_deviation():
    network = _keras_network(*NETWORKS["smooth"])
    rng = np.random.default_rng(2)
    x, y = rng.random((40, *SHAPE)), rng.integers(0, CLASSES, 40)
    hessians = _dense_hessians(_in_inference(network), x, y)
    found = measure_curvature(network, x, y, top=1, lanczos_steps=3)
    deviations = found.traces - np.trace(hessians, axis1=1, axis2=2)
    ratio = np.sqrt(np.mean(deviations**2) / np.mean(found.trace_errors**2))
    assert 0.5 < ratio < 1.3


def test_a_trace_is_exact_where_nothing_is_left_out(network, x, y):
    hessians = _dense_hessians(_in_inference(network), x, y)
    found = measure_curvature(network, x, y, top=1, lanczos_steps=SIZE)
    exact = np.trace(hessians, axis1=1, axis2=2)
    np.testing.assert_allclose(found.traces, exact, rtol=1e-9)
    np.testing.assert_array_equal(found.trace_errors, 0)


def test_without_probes_of_the_rest_there_is_no_trace(network, x, y):
    found, whole = (
        measure_curvature(network, x, y, top=1, lanczos_steps=3, trace_probes=probes)
        for probes in (0, 4)
    )
    assert np.isnan([found.traces, found.trace_errors]).all()
    np.testing.assert_array_equal(found.eigenvalues, whole.eigenvalues)


def test_many_probes_near_the_trace(network, x, y):
    # The estimate's variance is at most 2 |H|^2, in the Frobenius norm, over probes.
    hessians = _dense_hessians(_in_inference(network), x, y)
    found = measure_curvature(network, x, y, top=1, lanczos_steps=1, probes=200)
    exact = np.trace(hessians, axis1=1, axis2=2)
    deviation = np.linalg.norm(hessians, axis=(1, 2)) * np.sqrt(2 / 200)
    assert (np.abs(found.traces - exact) < 4 * deviation).all()


def _quadratic_logits(curvatures):
    """Two logits whose cross-entropy for label 0 is half of sum(c x^2).

    With logits (0, s) the loss is log(1 + e^s); s = log(e^q - 1) makes it q.
    """

    def model_fn(images):
        flat = tf.reshape(images, (tf.shape(images)[0], -1))
        q = tf.reduce_sum(tf.constant(curvatures, images.dtype) * flat**2, 1) / 2
        s = tf.math.log(tf.math.expm1(q))
        return tf.stack([tf.zeros_like(s), s], 1)

    return model_fn


def test_a_quadratic_loss_worked_by_hand():
    # Hessian diag(3, -2, 4, 1).
    points = np.array([[0.7, 0.1, 0.4, 0.5], [0.9, 0.3, 0.8, 0.2]])
    model_fn, y = _quadratic_logits([3.0, -2, 4, 1]), np.zeros(2, int)
    x = points.reshape(2, 1, 4, 1)
    found = measure_curvature(
        model_fn, x, y, probe_length=0.1, top=4, lanczos_steps=4, probes=2
    )
    slopes = points * [3, -2, 4, 1]
    np.testing.assert_allclose(found.gradient_norms, np.linalg.norm(slopes, axis=1))
    np.testing.assert_allclose(found.traces, [6, 6])
    np.testing.assert_allclose(found.eigenvalues, [[4, 3, -2, 1]] * 2)
    # z = 0.1 (+-1, +-1, +-1, +-1) / 2, so that |Hz| = 0.05 |(3, 2, 4, 1)|.
    np.testing.assert_allclose(found.penalties, [0.05 * np.sqrt(30)] * 2, rtol=1e-6)
    assert found.ritz_values.shape == found.ritz_weights.shape == (2, 8)
    np.testing.assert_allclose(found.ritz_weights.sum(1), [1, 1])
    moments = (found.ritz_weights * found.ritz_values).sum(1)
    np.testing.assert_allclose(moments, [6 / 4, 6 / 4])


def test_the_penalty_is_that_of_the_search(network, x, y):
    found = measure_curvature(network, x, y, top=1, lanczos_steps=1, batch_size=IMAGES)
    expected = curvature_penalty(network, x, y, PROBE_LENGTH)
    np.testing.assert_allclose(found.penalties, expected, rtol=1e-9)


@pytest.fixture(scope="module")
def supernet():
    """The official supernet in inference mode, as a function of images in [0, 1]."""
    net = Supernet(10, 4, 5, dtype="float64")
    net.build((None, 32, 32, 3))
    after = golden.group(DATA, "state_after")
    tables = {name: DATA[name] for name in ("alphas_normal", "alphas_reduce")}
    official.assign_supernet(net, {**golden.group(DATA, "state"), **after, **tables})
    return lambda images: net(8 * images - 4, training=False)


def _nhwc(name):
    return np.transpose(DATA[name], (0, 2, 3, 1)).astype(np.float64)


# The golden file's images lie in [-4, 4]. Multiples of 8 round nothing.
UNITS = 8**2


def test_products_are_the_official_ones(supernet):
    x, v = (_nhwc("hvp/x") + 4) / 8, _nhwc("hvp/v")
    # Not `hessian_vector_product`, whose check traces the supernet.
    products = hessian_products(supernet, *map(tf.constant, (x, DATA["hvp/y"], v)))
    expected = UNITS * _nhwc("hvp/hv")
    np.testing.assert_allclose(
        products, expected, rtol=0, atol=1e-8 * np.abs(expected).max()
    )


def test_eigenvalues_are_the_official_ones(supernet):
    # With 10 classes the rank is 9: the products with 10 vectors span the range. Many
    # vectors at once, for the supernet's time does not depend on the batch size.
    x, y = np.repeat((_nhwc("hvp/x") + 4) / 8, 10, axis=0), np.repeat(DATA["hvp/y"], 10)

    def times_hessians(columns):
        vectors = columns.transpose(0, 2, 1).reshape(x.shape)
        products = hessian_products(supernet, *map(tf.constant, (x, y, vectors)))
        return np.reshape(products, (2, 10, -1)).transpose(0, 2, 1)

    columns = np.random.default_rng(0).normal(size=(2, x[0].size, 10))
    basis, _ = np.linalg.qr(times_hessians(columns))
    found = np.linalg.eigvalsh(basis.transpose(0, 2, 1) @ times_hessians(basis))
    expected = UNITS * DATA["hessian/eigvals"][:, :-10:-1]
    np.testing.assert_allclose(found[:, -1], UNITS * DATA["hessian/top_eig"], rtol=1e-8)
    np.testing.assert_allclose(
        found[:, :0:-1], expected, rtol=0, atol=1e-8 * expected.max()
    )


def test_values_do_not_depend_on_the_batch_size(network, x, y):
    settings = {"top": 2, "lanczos_steps": 4, "probes": 2}
    whole = measure_curvature(network, x, y, batch_size=IMAGES, **settings)
    rounding = 1e-8 * np.abs(whole.eigenvalues).max()
    for batch_size in (1, 2, 8):
        parts = measure_curvature(network, x, y, batch_size=batch_size, **settings)
        for name, values in vars(whole).items():
            np.testing.assert_allclose(vars(parts)[name], values, 1e-6, rounding)


def test_an_image_keeps_its_random_numbers(network, x, y):
    settings = {"top": 2, "lanczos_steps": 4, "batch_size": 2}
    whole = measure_curvature(network, x, y, **settings)
    first = measure_curvature(network, x[:3], y[:3], **settings)
    np.testing.assert_allclose(whole.traces[:3], first.traces, rtol=1e-9)


def test_another_seed_draws_other_numbers(network, x, y):
    first, second = (
        measure_curvature(network, x, y, top=1, lanczos_steps=2, seed=seed)
        for seed in (0, 1)
    )
    assert (first.traces != second.traces).all()


def test_several_probes_keep_the_eigenvalues_of_the_best(network, x, y):
    settings = {"top": 1, "lanczos_steps": 2}
    one = measure_curvature(network, x, y, **settings)
    three = measure_curvature(network, x, y, probes=3, **settings)
    np.testing.assert_allclose(three.ritz_values[:, :2], one.ritz_values)
    largest = np.abs(three.ritz_values).max(1)
    np.testing.assert_array_equal(np.abs(three.eigenvalues[:, 0]), largest)
    assert (largest > np.abs(one.eigenvalues[:, 0]) * (1 + 1e-6)).any()


def test_compiled_products_of_our_own_kernels_are_right():
    network, (x, y) = tiny_network(), tiny_batch(size=3)
    compiled = BatchedClassifier(network, (8, 8, 1), 2).logits
    found = measure_curvature(compiled, x, y, top=2, lanczos_steps=4, batch_size=2)
    basis = np.eye(64, dtype=np.float32).reshape(64, 8, 8, 1)
    uncompiled = hessian_products(
        lambda z: network(z, training=False),
        *map(
            tf.constant,
            (np.repeat(x, 64, 0), np.repeat(y, 64), np.tile(basis, (3, 1, 1, 1))),
        ),
    )
    hessians = np.reshape(uncompiled, (3, 64, 64)).astype(np.float64)
    expected = np.linalg.eigvalsh(hessians)[:, :-3:-1]
    assert (expected > 1e-5).all()
    np.testing.assert_allclose(found.eigenvalues, expected, rtol=1e-4)


@pytest.mark.parametrize("gap", [0, 9, 25, 40])
def test_derivatives_of_a_sure_classifier_are_small_not_rounding(gap):
    # Logits W'x + (gap, 0): the Hessian is p (1 - p) d d', with d = w1 - w2.
    weights = np.random.default_rng(0).normal(size=(SIZE, 2)) * 1e3
    x = np.zeros((2, *SHAPE), np.float32)

    def model_fn(images):
        flat = tf.reshape(images, (-1, SIZE))
        return flat @ tf.cast(weights, images.dtype) + [gap, 0.0]

    difference = weights[:, 0] - weights[:, 1]
    expected = difference @ difference * np.exp(-gap) / (1 + np.exp(-gap)) ** 2
    # Rightly sure, then wrongly.
    found = measure_curvature(model_fn, x, [0, 1], top=1, lanczos_steps=3)
    np.testing.assert_allclose(found.eigenvalues, [[expected]] * 2, rtol=1e-4)
    np.testing.assert_allclose(found.traces, [expected] * 2, rtol=1e-4)
    slopes = np.linalg.norm(difference) / (1 + np.exp([gap, -gap]))
    np.testing.assert_allclose(found.gradient_norms, slopes, rtol=1e-4)


@pytest.mark.parametrize("compiled", [False, True])
def test_a_lost_derivative_is_refused(x, y, compiled):
    def model_fn(images):
        return tf.stop_gradient(tf.reshape(images, (-1, SIZE))[:, :CLASSES])

    model = tf.function(model_fn) if compiled else model_fn
    with pytest.raises(ValueError, match="do not depend on the images"):
        hessian_vector_product(model, x, y, x)
    with pytest.raises(ValueError, match="do not depend on the images"):
        measure_curvature(model, x, y, top=1, lanczos_steps=2)


def test_a_model_is_compiled_once_and_sees_new_weights(x, y):
    network, traces = _keras_network(*NETWORKS["smooth"]), []

    def model_fn(images):
        traces.append(images.shape)
        return network(images, training=False)

    meter = CurvatureMeter(model_fn, batch_size=2, top=1, lanczos_steps=3)
    before = meter.measure(x, y)
    count = len(traces)
    for variable in network.variables:
        variable.assign(0.5 * variable)
    after = meter.measure(x, y)
    assert len(traces) == count and set(traces) == {(2, *SHAPE)}
    assert (after.gradient_norms != before.gradient_norms).all()


def test_the_model_stays_as_it_is(x, y):
    network = _keras_network(*NETWORKS["piecewise linear"])
    before = network.get_weights()
    measure_curvature(network, x, y, top=1, lanczos_steps=2)
    for old, new in zip(before, network.get_weights(), strict=True):
        np.testing.assert_array_equal(old, new)


def test_progress_is_told_after_each_batch(network, x, y):
    told = []
    measure_curvature(network, x, y, told.append, top=1, lanczos_steps=2, batch_size=2)
    assert told == [2, 2, 1]


def test_an_image_without_finite_derivatives_is_named(x, y):
    def model_fn(images):
        flat = tf.reshape(images, (images.shape[0], SIZE))
        return (flat / tf.cast(flat != 0.5, flat.dtype))[:, :CLASSES]

    x[3, 0, 0, 0] = 0.5
    with pytest.raises(NonFiniteLossError, match="at image 3 "):
        measure_curvature(model_fn, x, y, top=1, lanczos_steps=2, batch_size=2)


def test_a_pooling_that_tensorflow_differentiates_wrongly_is_refused(x, y):
    pooling = functools.partial(keras.layers.MaxPooling2D, 3, 1, padding="same")
    network = _keras_network(_convolution("relu"), pooling)
    for model in (network, BatchedClassifier(network, SHAPE, 2).logits):
        with pytest.raises(ValueError, match="max pooling with stride 1"):
            measure_curvature(model, x.astype(np.float32), y, batch_size=2)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"batch_size": 0}, "batch_size must be more than 0"),
        ({"probe_length": 0.0}, "probe_length must be more than 0"),
        ({"probe_length": np.nan}, "probe_length must be more than 0"),
        ({"top": 0}, "top must be more than 0"),
        ({"probes": 0}, "probes must be more than 0"),
        ({"lanczos_steps": 4}, "lanczos_steps must be 5 or more"),
        ({"seed": -1}, "seed must be 0 or more"),
        ({"trace_probes": -1}, "trace_probes must be 0 or more"),
        ({"top": SIZE + 1, "lanczos_steps": 99}, f"top must be {SIZE} or less"),
    ],
)
def test_numbers_out_of_range_are_refused(x, y, settings, message):
    with pytest.raises(ValueError, match=message):
        measure_curvature(lambda images: images, x, y, **settings)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda x, y: (255 * x, y), r"images must be in \[0, 1\]"),
        (lambda x, y: ((255 * x).astype(np.uint8), y), "must be floats"),
        (lambda x, y: (x[0], y), "must have the shape"),
        (lambda x, y: (x[:0], y[:0]), "no images"),
        (lambda x, y: (x, y[:-1]), "5 images need as many labels"),
    ],
)
def test_wrong_images_and_labels_are_refused(x, y, change, message):
    with pytest.raises(ValueError, match=message):
        measure_curvature(lambda images: tf.reshape(images, [32, -1]), *change(x, y))
