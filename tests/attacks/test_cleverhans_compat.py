"""CleverHans' mended code against NumPy, written per image."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from advrush_tf.attacks.cleverhans_compat import (
    CarliniWagnerL2,
    _Adam,
    pgd_from,
    spsa_drawing_from,
)
from support.attacked import grey, linear

MODEL, WEIGHTS = linear()
X, Y = grey(MODEL, 3)


def gradient(image, label):
    """Of the cross-entropy of the linear model."""
    logits = (image - 0.5).ravel() @ WEIGHTS
    share = np.exp(logits - logits.max())
    share = share / share.sum() - np.eye(len(logits))[label]
    return (WEIGHTS @ share).reshape(image.shape)


@pytest.mark.parametrize("order", [np.inf, 2])
def test_pgd_from_a_start(order):
    start = np.random.default_rng(1).uniform(-0.05, 0.05, X.shape).astype(np.float32)
    found = pgd_from(tf.constant(start))(
        MODEL, X, 0.1, 0.03, 4, order, None, 0.0, 1.0, tf.constant(Y), rand_init=True
    )
    for x, y, delta, image in zip(X, Y, start, found, strict=True):
        delta = shortened(delta, 0.1, order)
        for _ in range(4):
            slope = gradient(x + delta, y)
            size = np.linalg.norm(slope)
            move = np.sign(slope) if order == np.inf else slope / size
            delta = shortened(delta + 0.03 * move, 0.1, order)
        np.testing.assert_allclose(image, x + delta, atol=2e-6)


def shortened(delta, epsilon, order):
    if order == np.inf:
        return np.clip(delta, -epsilon, epsilon)
    return delta * min(1, epsilon / np.linalg.norm(delta))


def test_adam_is_keras_adam_and_begins_anew():
    generator = np.random.default_rng(0)
    adam = _Adam(0.1)
    for _ in range(2):
        variable = tf.Variable(tf.zeros([2, 3]))
        expected = keras.Variable(np.zeros((2, 3), np.float32))
        keras_adam = keras.optimizers.Adam(0.1, epsilon=1e-30)
        assert adam.variables() == []
        for _ in range(5):
            step = tf.constant(generator.normal(size=(2, 3)), tf.float32)
            adam.apply_gradients([(step, variable)])
            keras_adam.apply([step], [expected])
        np.testing.assert_allclose(variable, expected, rtol=1e-4)


def test_carlini_wagner_weighs_each_image_by_itself():
    # The second image needs a weight a hundred times that of the first.
    slope = np.array([[1.0], [0.1]], np.float32)

    def model(images):
        height = tf.reduce_sum(images * slope, [1, 2, 3])
        return tf.stack([tf.zeros_like(height), height], -1)

    x = np.zeros((2, 1, 2, 1), np.float32) + 0.5
    x[0, 0, 1], x[1, 0, 0] = 0, 0
    settings = {"binary_search_steps": 3, "max_iterations": 15, "learning_rate": 0.1}
    attack = CarliniWagnerL2(model, abort_early=False, initial_const=0.1, **settings)
    attack.y = np.array([1, 1])
    together = attack.attack(x)
    for row in range(2):
        attack.y = np.array([1])
        alone = attack.attack(x[row : row + 1])[0]
        np.testing.assert_allclose(together[row], alone, atol=1e-5)


def test_spsa_step_by_step():
    generator = tf.random.Generator.from_seed(5)
    found = spsa_drawing_from(generator)(
        MODEL,
        tf.constant(X[:1]),
        tf.constant(Y[:1]),
        eps=0.05,
        nb_iter=3,
        clip_min=0.0,
        clip_max=1.0,
        learning_rate=0.02,
        delta=0.01,
        spsa_samples=8,
    )
    expected = spsa(tf.random.Generator.from_seed(5), X[0], Y[0], 0.05, 3)
    np.testing.assert_allclose(found[0], expected, atol=2e-6)


def spsa(generator, x, y, epsilon, steps):
    """With learning rate 0.02, delta 0.01 and 8 samples."""
    delta = generator.uniform((1, *x.shape), -epsilon, epsilon).numpy()[0]
    mean, square = np.zeros_like(x), np.zeros_like(x)
    for step in range(1, steps + 1):
        signs = np.sign(generator.uniform((4, *x.shape), -1.0, 1.0).numpy())
        slopes = [
            (loss(x + delta + side * 0.01 * sign, y) * side * sign)
            for side in (1, -1)
            for sign in signs
        ]
        slope = np.mean(slopes, 0)
        mean = 0.9 * mean + 0.1 * slope
        square = 0.999 * square + 0.001 * slope**2
        size = np.sqrt(square / (1 - 0.999**step)) + 1e-7
        delta = delta - 0.02 * mean / (1 - 0.9**step) / size
        delta = np.clip(delta, -epsilon, epsilon)
    return x + delta


def loss(image, label):
    logits = (image - 0.5).ravel() @ WEIGHTS
    return logits[label] - np.delete(logits, label).max()
