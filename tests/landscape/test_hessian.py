import keras
import numpy as np
import pytest

from advrush_tf.landscape.meter import CurvatureMeter
from advrush_tf.nn.kernels import max_pool_3x3

layers = keras.layers


def _measure(layer):
    keras.utils.set_random_seed(0)
    inputs = keras.Input((6, 6, 2))
    outputs = layers.Dense(3)(layers.Flatten()(layer(inputs)))
    model = keras.Model(inputs, outputs)
    x = np.random.default_rng(0).random((2, 6, 6, 2), np.float32)
    return CurvatureMeter(model, 2, top=1, steps=3).measure(x, np.array([0, 1]))


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


def test_the_pooling_of_the_search_is_right():
    class Pooling(layers.Layer):
        def call(self, x):
            return max_pool_3x3(x, 1)

    assert (_measure(Pooling()).eigenvalues > 0).all()
