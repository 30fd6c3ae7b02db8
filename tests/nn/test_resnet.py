import keras
import numpy as np
import pytest
import tensorflow as tf

from advrush_tf.nn.resnet import ResidualBlock, ResNet18
from support.processes import assert_loads_in_a_new_process

SHAPE = (16, 16, 3)
WIDTH = 4
# Stage by stage: output channels over the first stage's, stride of the first block.
STAGES = ((1, 1), (2, 2), (4, 2), (8, 2))


class Plain:
    """ResNet-18 of Keras' layers, made from the paper's table 1."""

    def __init__(self, dtype):
        self.common = {"dtype": dtype}
        self.pairs = []
        inputs = keras.Input(SHAPE, **self.common)
        x = keras.ops.relu(self._convolution(inputs, WIDTH, 3, 1))
        for factor, stride in STAGES:
            x = self._block(x, factor * WIDTH, stride)
            x = self._block(x, factor * WIDTH, 1)
        x = keras.layers.GlobalAveragePooling2D(**self.common)(x)
        self.dense = keras.layers.Dense(5, **self.common)
        self.model = keras.Model(inputs, self.dense(x))

    def _block(self, x, filters, stride):
        y = keras.ops.relu(self._convolution(x, filters, 3, stride))
        y = self._convolution(y, filters, 3, 1)
        if stride != 1 or x.shape[-1] != filters:
            x = self._convolution(x, filters, 1, stride)
        return keras.ops.relu(x + y)

    def _convolution(self, x, filters, size, stride):
        if size > 1:
            x = keras.layers.ZeroPadding2D(size // 2, **self.common)(x)
        convolution = keras.layers.Conv2D(
            filters, size, stride, use_bias=False, **self.common
        )
        normalisation = keras.layers.BatchNormalization(
            momentum=0.9, epsilon=1e-5, **self.common
        )
        self.pairs.append((convolution, normalisation))
        return normalisation(convolution(x))


def _convolutions(net):
    """The network's convolutions in the order in which `Plain` makes its own."""
    yield net.stem
    for block in net.blocks:
        yield from (block.first, block.second)
        if block.shortcut is not None:
            yield block.shortcut


def _assignments(net, plain):
    """Each weight of the network with its counterpart."""
    for ours, (convolution, norm) in zip(_convolutions(net), plain.pairs, strict=True):
        yield ours.kernel, convolution.kernel
        yield ours.gamma, norm.gamma
        yield ours.beta, norm.beta
        yield ours.moving_mean, norm.moving_mean
        yield ours.moving_variance, norm.moving_variance
    yield net.classifier.kernel, plain.dense.kernel
    yield net.classifier.bias, plain.dense.bias


@pytest.fixture
def twins():
    """A network in float64, the same in Keras' layers, and images."""
    net, plain = ResNet18(5, SHAPE, WIDTH, dtype="float64"), Plain("float64")
    generator, pairs = np.random.default_rng(0), list(_assignments(net, plain))
    assert {id(w) for w, _ in pairs} == {id(w) for w in net.weights}
    for ours, theirs in pairs:
        if ours.ndim == 1:
            ours.assign(generator.uniform(0.5, 1.5, ours.shape))
        theirs.assign(ours.value)
    return net, plain, tf.constant(generator.random((6, *SHAPE)))


@pytest.mark.parametrize("training", [False, True])
def test_logits_are_those_of_keras_layers(twins, training):
    net, plain, x = twins
    expected = plain.model(x, training=training)
    np.testing.assert_allclose(net(x, training=training), expected, rtol=1e-9)


def test_gradients_are_those_of_keras_layers(twins):
    net, plain, x = twins
    pairs = [(a, b) for a, b in _assignments(net, plain) if a.trainable]
    assert len(pairs) == len(net.trainable_variables)
    gradients = []
    for model, column in ((net, 0), (plain.model, 1)):
        with tf.GradientTape() as tape:
            loss = tf.reduce_sum(tf.nn.log_softmax(model(x, training=True))[:, 1])
        gradients.append(tape.gradient(loss, [pair[column] for pair in pairs]))
    for ours, theirs in zip(*gradients, strict=True):
        largest = np.abs(theirs).max()
        assert largest > 0
        np.testing.assert_allclose(ours, theirs, rtol=0, atol=1e-8 * largest)


def test_running_statistics_are_keras_own_but_for_the_unbiased_variance(twins):
    net, plain, x = twins
    before = [np.asarray(block.moving_variance) for block in _convolutions(net)]
    net(x, training=True)
    plain.model(x, training=True)
    for ours, (convolution, norm), old in zip(
        _convolutions(net), plain.pairs, before, strict=True
    ):
        np.testing.assert_allclose(ours.moving_mean, norm.moving_mean, rtol=1e-9)
        count = 6 * np.prod(convolution.output.shape[1:3])
        biased = norm.moving_variance.numpy() - 0.9 * old
        unbiased = ours.moving_variance.numpy() - 0.9 * old
        np.testing.assert_allclose(unbiased, biased * count / (count - 1), rtol=1e-8)


@pytest.mark.parametrize(("classes", "count"), [(10, 11_173_962), (100, 11_220_132)])
def test_parameters_of_the_cifar_form(classes, count):
    net = ResNet18(classes, (32, 32, 3))
    assert sum(int(np.prod(v.shape)) for v in net.trainable_variables) == count


def test_images_are_normalised_inside():
    plain = ResNet18(3, (8, 8, 1), 2)
    net = ResNet18(3, (8, 8, 1), 2, mean=(0.25,), std=(0.5,))
    net.set_weights(plain.get_weights())
    x = np.random.default_rng(0).random((2, 8, 8, 1), np.float32)
    expected = plain((x - 0.25) / 0.5, training=False)
    np.testing.assert_allclose(net(x, training=False), expected, rtol=1e-5)


def test_a_saved_network_gives_the_same_in_a_new_process(tmp_path):
    net = ResNet18(
        3, (8, 8, 1), 2, mean=(0.25,), std=(0.5,), provenance={"epoch": [1, None]}
    )
    x = np.random.default_rng(0).random((2, 8, 8, 1), np.float32)
    net(x, training=True)
    assert_loads_in_a_new_process(
        net,
        x,
        tmp_path,
        "isinstance(network, advrush_tf.ResNet18)",
        "network.provenance == {'epoch': [1, None]}",
    )


def test_half_precision_keeps_the_weights_and_logits_in_float32():
    exact = ResNet18(3, (8, 8, 1), 4)
    net = ResNet18(3, (8, 8, 1), 4, dtype="mixed_bfloat16")
    net.set_weights(exact.get_weights())
    x = np.random.default_rng(0).random((4, 8, 8, 1), np.float32)
    y = net(x, training=False)
    assert y.dtype == tf.float32
    assert {weight.dtype for weight in net.weights} == {"float32"}
    np.testing.assert_allclose(y, exact(x, training=False), atol=0.01)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"num_classes": 1}, "num_classes must be 2 or more"),
        ({"init_channels": 0}, "init_channels must be 1 or more"),
        ({"image_shape": (8, 7, 1)}, r"at least 8x8 pixels .* \(8, 7, 1\)"),
        ({"image_shape": (8, 8)}, "a channel"),
        ({"image_shape": (8, 8, 0)}, "a channel"),
        ({"mean": (0.5,)}, "mean and std"),
        ({"mean": (0.5,), "std": (0.0,)}, "mean and std"),
        ({"provenance": {"x": float("nan")}}, "JSON cannot hold"),
    ],
)
def test_wrong_arguments(settings, message):
    with pytest.raises(ValueError, match=message):
        ResNet18(**{"num_classes": 3, "image_shape": (8, 8, 1)} | settings)


@pytest.mark.parametrize(
    ("channels", "stride", "shortcut"), [(4, 1, False), (4, 2, True), (6, 1, True)]
)
def test_a_block_needs_a_shortcut_only_where_shapes_differ(channels, stride, shortcut):
    block = ResidualBlock(channels, stride, name="block")
    block.build((None, 8, 8, 4))
    assert (block.shortcut is not None) == shortcut
    side = 8 // stride
    assert block(tf.zeros((2, 8, 8, 4))).shape == (2, side, side, channels)
