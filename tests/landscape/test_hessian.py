import keras
import numpy as np
import pytest
import tensorflow as tf

from advrush_tf.landscape.hessian import hessian_vector_product
from advrush_tf.landscape.meter import CurvatureMeter
from advrush_tf.nn.kernels import max_pool_3x3
from advrush_tf.search.penalty import curvature_penalty

layers = keras.layers


X = np.random.default_rng(0).random((2, 6, 6, 2), np.float32)
Y = np.array([0, 1])


def _model(layer):
    keras.utils.set_random_seed(0)
    inputs = keras.Input((6, 6, 2))
    outputs = layers.Dense(3)(layers.Flatten()(layer(inputs)))
    return keras.Model(inputs, outputs)


def _measure(layer):
    return CurvatureMeter(_model(layer), 2, top=1, lanczos_steps=3).measure(X, Y)


@pytest.mark.parametrize(
    ("layer", "words"),
    [
        (layers.MaxPooling2D(2, strides=1, padding="same"), "max pooling"),
        (layers.LayerNormalization(), "stopped at the mean"),
        (layers.GroupNormalization(1), "stopped at the mean"),
        (layers.UpSampling2D(interpolation="bilinear"), "resizes images"),
        (layers.UpSampling2D(interpolation="bicubic"), "cannot differentiate"),
    ],
)
def test_wrong_second_derivatives_are_refused(layer, words):
    with pytest.raises(ValueError, match=words):
        _measure(layer)
    model = _model(layer)
    with pytest.raises(ValueError, match=words):
        hessian_vector_product(model, X, Y, X)
    with tf.GradientTape() as tape:
        # The value takes first derivatives alone.
        penalty = curvature_penalty(model, X, Y, 1.5)
    with pytest.raises(ValueError, match=words):
        tape.gradient(penalty, model.trainable_variables)


@pytest.mark.parametrize(
    "layer",
    [
        layers.MaxPooling2D(2),
        layers.BatchNormalization(),
        layers.UpSampling2D(interpolation="nearest"),
        layers.Conv2D(3, 3, padding="same", activation="gelu"),
    ],
)
def test_right_ones_are_not(layer):
    assert (_measure(layer).eigenvalues != 0).all()


@pytest.mark.parametrize("compiled", [False, True])
def test_the_pooling_of_the_search_is_right(compiled):
    class Pooling(layers.Layer):
        def call(self, x):
            return max_pool_3x3(x, 1)

    model = _model(Pooling())
    function = tf.function(lambda x: model(x, training=False))
    meter = CurvatureMeter(function if compiled else model, 2, top=1, lanczos_steps=3)
    assert (meter.measure(X, Y).eigenvalues > 0).all()


def test_pooling_along_a_side_of_one_pixel_is_refused():
    x = np.zeros((2, 6, 1, 2), np.float32)

    def model_fn(images):
        pooled = tf.nn.max_pool2d(images, 3, (1, 2), "SAME")
        return tf.reshape(pooled, (-1, 12))[:, :3]

    with pytest.raises(ValueError, match="max pooling"):
        hessian_vector_product(model_fn, x, Y, x)


def test_a_function_of_which_the_model_changes_is_looked_at_again():
    models = [_model(layers.Flatten())]

    def model_fn(images):
        return models[-1](images, training=False)

    hessian_vector_product(model_fn, X, Y, X)
    models.append(_model(layers.LayerNormalization()))
    with pytest.raises(ValueError, match="stopped at the mean"):
        hessian_vector_product(model_fn, X, Y, X)


def test_batches_may_be_of_any_size_and_functions_run_eagerly():
    model = _model(layers.Conv2D(2, 3, activation="tanh"))
    signature = [tf.TensorSpec((None, *X.shape[1:])), tf.TensorSpec((None,), tf.int32)]

    @tf.function(input_signature=signature)
    def compiled(x, y):
        with tf.GradientTape() as tape:
            penalty = curvature_penalty(model, x, y, 1.5)
        products = hessian_vector_product(model, x, y, x)
        return products, tape.gradient(penalty, model.trainable_variables[0].value)

    products, slope = compiled(X, Y)
    np.testing.assert_allclose(products, hessian_vector_product(model, X, Y, X), 1e-4)
    assert np.any(slope)
    tf.config.run_functions_eagerly(True)
    try:
        with pytest.raises(ValueError, match="stopped at the mean"):
            _measure(layers.LayerNormalization())
    finally:
        tf.config.run_functions_eagerly(False)


def test_float16_is_refused_wherever_gradients_are_taken():
    model = _model(layers.Conv2D(2, 3, activation="tanh"))
    model.dtype_policy = keras.DTypePolicy("mixed_float16")
    for take in (
        lambda: curvature_penalty(model, X, Y),
        lambda: hessian_vector_product(model, X, Y, X),
        lambda: CurvatureMeter(model, 2),
    ):
        with pytest.raises(ValueError, match="float16 loses small gradients"):
            take()
