import keras
import numpy as np
import pytest
import tensorflow as tf

from advrush_tf.losses import exact_cross_entropy
from advrush_tf.search import penalty

BATCH, SHAPE, CLASSES, HIDDEN = 5, (3, 2, 2), 4, 6
PIXELS = int(np.prod(SHAPE))


@pytest.fixture
def rng():
    return np.random.default_rng(0)


@pytest.fixture
def x(rng):
    return tf.constant(rng.normal(size=(BATCH, *SHAPE)))


@pytest.fixture
def y(rng):
    return tf.constant(rng.integers(0, CLASSES, BATCH))


class _TanhNetwork:
    """A smooth network whose weights are softmaxed alphas times fixed matrices."""

    def __init__(self, rng):
        self.alphas = tf.Variable(rng.normal(size=(2, 3)))
        self.first = tf.constant(rng.normal(size=(3, PIXELS, HIDDEN)))
        self.second = tf.constant(rng.normal(size=(3, HIDDEN, CLASSES)))

    def __call__(self, x):
        mix = tf.nn.softmax(self.alphas)
        first = tf.tensordot(mix[0], self.first, 1)
        second = tf.tensordot(mix[1], self.second, 1)
        return tf.tanh(tf.reshape(x, (-1, PIXELS)) @ first) @ second


@pytest.fixture
def network(rng):
    return _TanhNetwork(rng)


def _softmax(logits):
    e = np.exp(logits - logits.max(-1, keepdims=True))
    return e / e.sum(-1, keepdims=True)


def test_input_gradient_of_a_linear_model(rng, x, y):
    # d(cross-entropy)/dx = W (softmax(W'x) - onehot(y)).
    matrix = rng.normal(size=(PIXELS, CLASSES))
    flat = x.numpy().reshape(BATCH, PIXELS)
    error = _softmax(flat @ matrix) - np.eye(CLASSES)[y.numpy()]
    g = penalty.input_gradient(lambda x: tf.reshape(x, (-1, PIXELS)) @ matrix, x, y)
    np.testing.assert_allclose(g, (error @ matrix.T).reshape(x.shape), atol=1e-13)


@pytest.mark.parametrize("h", [0.3, 1.5])
def test_probe_direction_worked_by_hand(h):
    gradient = tf.constant(
        [[[[0.1], [-7.0], [2.0], [-1e-9]]], [[[3.0]] * 4]], tf.float64
    )
    z = penalty.probe_direction(gradient, h).numpy()
    np.testing.assert_allclose(
        z[0, 0, :, 0], h / 2 * np.array([1, -1, 1, -1]), rtol=1e-6
    )
    np.testing.assert_allclose(z[1, 0, :, 0], [h / 2] * 4, rtol=1e-6)


def test_probe_direction_leaves_out_pixels_without_gradient():
    z = penalty.probe_direction(tf.constant([[0.0, 2.0, 0.0, 0.0]], tf.float64), 1.5)
    np.testing.assert_allclose(z, [[0, 1.5, 0, 0]], atol=1e-6)


@pytest.mark.parametrize("size", [1e-30, 1e-12, 1.0])
def test_the_probe_has_length_h_but_where_there_is_no_gradient(rng, size):
    gradient = np.float32(size * rng.normal(size=(3, 32, 32, 3)))
    gradient[1] = 0
    z = penalty.probe_direction(tf.constant(gradient), 1.5).numpy()
    lengths = np.sqrt(np.sum(np.square(z, dtype=np.float64), (1, 2, 3)))
    np.testing.assert_allclose(lengths, [1.5, 0, 1.5], rtol=1e-4)
    np.testing.assert_array_equal(np.sign(z), np.sign(gradient))


def test_an_image_without_gradient_has_no_penalty():
    # The hinge of the first pixel is off at 0.2 and would be on at 0.2 + h.
    def model(x):
        hinge = tf.nn.relu(tf.reshape(x, (-1, PIXELS))[:, :1] - 0.5)
        return tf.concat([hinge, -hinge], 1)

    x = tf.fill((1, *SHAPE), tf.constant(0.2, tf.float64))
    assert penalty.curvature_penalty(model, x, tf.constant([1]), h=1.5).numpy() == [0]


def test_probe_direction_is_constant_for_differentiation(x):
    with tf.GradientTape() as tape:
        tape.watch(x)
        z = penalty.probe_direction(x, 1.5)
    assert tape.gradient(z, x) is None


@pytest.mark.parametrize("h", [1e-4, 1e-2])
def test_linear_model_against_its_hessian(rng, x, y, h):
    # H = W (diag(p) - p p') W', so r = |H z| up to a term of h squared.
    matrix = 0.3 * rng.normal(size=(PIXELS, CLASSES))
    flat = x.numpy().reshape(BATCH, PIXELS)
    p = _softmax(flat @ matrix)
    gradient = (p - np.eye(CLASSES)[y.numpy()]) @ matrix.T
    z = h * np.sign(gradient) / np.sqrt(PIXELS)
    core = np.stack([np.diag(row) - np.outer(row, row) for row in p])
    expected = np.linalg.norm(
        np.einsum("pc,bcd,qd,bq->bp", matrix, core, matrix, z), axis=1
    )
    r = penalty.curvature_penalty(
        lambda x: tf.reshape(x, (-1, PIXELS)) @ matrix, x, y, h
    )
    assert r.shape == (BATCH,)
    np.testing.assert_allclose(r, expected, rtol=2 * h)


def _quadratic_logits(curvatures):
    """Two logits whose cross-entropy for label 0 is exactly half of sum(c x^2).

    With logits (0, s) the loss is log(1 + e^s); s = log(e^q - 1) makes it q.
    """

    def model(x):
        flat = tf.reshape(x, (tf.shape(x)[0], -1))
        q = tf.reduce_sum(curvatures * flat**2, 1) / 2
        s = tf.math.log(tf.math.expm1(q))
        return tf.stack([tf.zeros_like(s), s], 1)

    return model


@pytest.mark.parametrize("squared", [False, True])
def test_quadratic_loss_worked_by_hand(squared):
    # Loss (3 a^2 + 4 b^2) / 2 has gradient (3a, 4b) and Hessian diag(3, 4). At any
    # point of no zero coordinate z = h (+-1, +-1) / sqrt 2, so that
    # r = h |(3, 4)| / sqrt 2 = 5 h / sqrt 2, wherever the point lies.
    model = _quadratic_logits(tf.constant([3.0, 4.0], tf.float64))
    points = [[0.7, 0.4], [-1.1, 0.5], [0.9, -2.0]]
    x = tf.reshape(tf.constant(points, tf.float64), (3, 1, 2, 1))
    y = tf.zeros(3, tf.int32)
    r = penalty.curvature_penalty(model, x, y, h=0.2, squared=squared)
    expected = 0.2 * 5 / np.sqrt(2)
    np.testing.assert_allclose(r, [expected**2 if squared else expected] * 3, rtol=1e-6)


def test_quadratic_gradient_in_a_curvature_worked_by_hand():
    # d/dc of h sqrt(c^2 + 16) / sqrt 2 at c = 3 is h (3/5) / sqrt 2, an example.
    curvatures = tf.Variable([3.0, 4.0], dtype=tf.float64)
    x = tf.reshape(tf.constant([[0.7, 0.4], [-1.1, 0.5]], tf.float64), (2, 1, 2, 1))
    with tf.GradientTape() as tape:
        model = _quadratic_logits(curvatures)
        r = penalty.curvature_penalty(model, x, tf.zeros(2, tf.int32), h=0.2)
    gradient = tape.gradient(r, curvatures)
    expected = 2 * 0.2 / np.sqrt(2) * np.array([3 / 5, 4 / 5])
    np.testing.assert_allclose(gradient, expected, rtol=1e-6)


@pytest.mark.parametrize("traced", [False, True])
@pytest.mark.parametrize("squared", [False, True])
def test_alpha_gradient_against_finite_differences(network, x, y, squared, traced):
    # z counts as constant, so the differences keep it where it was.
    def value_and_gradient():
        with tf.GradientTape() as tape:
            value = tf.reduce_sum(
                penalty.curvature_penalty(network, x, y, 1.5, squared)
            )
        return value, tape.gradient(value, network.alphas)

    run = tf.function(value_and_gradient) if traced else value_and_gradient
    value, gradient = run()
    probe = penalty.probe_direction(penalty.input_gradient(network, x, y), 1.5)

    def plain(alphas):
        network.alphas.assign(alphas)
        near, far = (penalty.input_gradient(network, p, y) for p in (x, x + probe))
        difference = (far - near).numpy().reshape(BATCH, -1)
        norms = np.linalg.norm(difference, axis=1)
        return np.sum(norms**2 if squared else norms)

    start, step = network.alphas.numpy(), 1e-5
    assert float(value) == pytest.approx(plain(start), rel=1e-12)
    for index in np.ndindex(*start.shape):
        move = np.zeros_like(start)
        move[index] = step
        difference = (plain(start + move) - plain(start - move)) / (2 * step)
        assert gradient[index].numpy() == pytest.approx(difference, rel=1e-6, abs=1e-8)


def test_squared_is_the_square(network, x, y):
    norms = penalty.curvature_penalty(network, x, y, 1.5)
    squares = penalty.curvature_penalty(network, x, y, 1.5, squared=True)
    np.testing.assert_allclose(squares, norms.numpy() ** 2, rtol=1e-13)


@pytest.mark.parametrize("squared", [False, True])
def test_model_without_curvature(x, y, squared):
    slope = tf.Variable(0.0, dtype=tf.float64)

    def model(x):
        flat = tf.reshape(x, (-1, PIXELS))
        return slope * flat[:, :CLASSES]

    with tf.GradientTape() as tape:
        r = penalty.curvature_penalty(model, x, y, 1.5, squared=squared)
    np.testing.assert_array_equal(r, np.zeros(BATCH))
    assert np.isfinite(tape.gradient(r, slope))


def test_values_do_not_depend_on_the_batch(network, x, y):
    whole = penalty.curvature_penalty(network, x, y, 1.5)
    parts = [
        penalty.curvature_penalty(network, x[a:b], y[a:b], 1.5)
        for a, b in [(0, 1), (1, 5)]
    ]
    np.testing.assert_allclose(whole, np.concatenate(parts), rtol=1e-12)


@pytest.mark.parametrize("dtype", [tf.int32, tf.int64])
def test_integer_labels(network, x, y, dtype):
    expected = penalty.curvature_penalty(network, x, y, 1.5)
    actual = penalty.curvature_penalty(network, x, tf.cast(y, dtype), 1.5)
    np.testing.assert_array_equal(actual, expected)


def _keras_classifier(dtype=None):
    model = keras.Sequential(
        [
            keras.layers.Input(SHAPE),
            keras.layers.Conv2D(4, 3, padding="same", activation="tanh", dtype=dtype),
            keras.layers.BatchNormalization(dtype=dtype),
            keras.layers.Flatten(dtype=dtype),
            keras.layers.Dense(CLASSES, dtype=dtype),
        ]
    )
    rng = np.random.default_rng(1)
    for variable in model.variables:
        variable.assign(rng.uniform(0.5, 1.5, variable.shape))
    return model


def _unit_images(x, dtype=tf.float32):
    return tf.cast(tf.sigmoid(x), dtype)


def test_keras_model_runs_in_inference_mode(x, y):
    model, x = _keras_classifier(), _unit_images(x)
    expected = penalty.curvature_penalty(lambda x: model(x, training=False), x, y, 1.5)
    before = model.get_weights()
    np.testing.assert_array_equal(penalty.curvature_penalty(model, x, y, 1.5), expected)
    for old, new in zip(before, model.get_weights(), strict=True):
        np.testing.assert_array_equal(old, new)


class _TrainsByDefault(keras.Model):
    """A model whose call means training unless told otherwise."""

    def __init__(self, inner):
        super().__init__()
        self.inner = inner

    def call(self, x, training=True):
        return self.inner(x, training=training)


def test_keras_model_is_told_that_it_does_not_train(x, y):
    inner, x = _keras_classifier(), _unit_images(x)
    expected = penalty.curvature_penalty(lambda x: inner(x, training=False), x, y, 1.5)
    before = inner.get_weights()
    actual = penalty.curvature_penalty(_TrainsByDefault(inner), x, y, 1.5)
    np.testing.assert_array_equal(actual, expected)
    for old, new in zip(before, inner.get_weights(), strict=True):
        np.testing.assert_array_equal(old, new)


# Half precision


def _mixed_classifier():
    model = _keras_classifier(dtype="mixed_bfloat16")
    for variable in model.trainable_variables:
        variable.assign(0.1 * variable)
    return model


def _own_gradient(model, x, y):
    with tf.GradientTape() as tape:
        tape.watch(x)
        logits = tf.cast(model(x, training=False), tf.float32)
        losses = exact_cross_entropy(y, logits)
    return tape.gradient(losses, x)


@pytest.mark.parametrize("images", [tf.float32, tf.bfloat16])
def test_a_mixed_model_s_differences_and_norms_are_float32(x, y, images):
    model, x = _mixed_classifier(), _unit_images(x, images)
    r = penalty.curvature_penalty(model, x, y, 0.5)
    assert r.dtype == tf.float32
    x = tf.cast(x, tf.float32)
    near = _own_gradient(model, x, y)
    far = _own_gradient(model, x + penalty.probe_direction(near, 0.5), y)
    difference = (np.float64(far) - np.float64(near)).reshape(BATCH, -1)
    np.testing.assert_allclose(r, np.linalg.norm(difference, axis=1), rtol=1e-6)
    half = tf.cast(difference, model.layers[0].compute_dtype)
    rounded = tf.sqrt(tf.reduce_sum(half * half, 1))
    # One norm or another may happen to be the same in half precision.
    assert np.any(np.abs(tf.cast(rounded, tf.float32) / r - 1) > 1e-5)
