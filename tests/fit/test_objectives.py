"""The objectives against the official code, Keras and their papers' procedures."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from advrush_tf.attacks.pgd import SignAscent
from advrush_tf.fit.objectives import FGSMRS, PGD, TRADES
from advrush_tf.losses import cross_entropy, kl_divergence
from advrush_tf.official import weights as official
from support import golden
from support.small_networks import golden_network

DATA = golden.load("adv_advrush_c4_l5_s1")
CONFIG = DATA["meta"]["config"]
DEVIATION = DATA["meta"]["float32_deviation"]
ATTACK = {"epsilon": CONFIG["epsilon"], "step_size": CONFIG["step"]}


def nhwc(images):
    return np.transpose(images, (0, 2, 3, 1))


class RecordedStart(SignAscent):
    """The recorded attack: its start is not drawn."""

    def noise(self, x, seed):
        return tf.constant(nhwc(DATA["noise"]), x.dtype)


class RecordedPGD(PGD):
    @property
    def attack(self):
        return RecordedStart(self.epsilon, self.step_size, self.steps)


class RecordedTRADES(TRADES, RecordedPGD):
    pass


def official_network(dtype):
    net = golden_network(DATA, dtype)
    official.assign_network(net, golden.group(DATA, "state"))
    x = tf.constant(DATA["x_nhwc"], dtype)
    return net, x, tf.constant(DATA["y"])


def gradients(net, objective, x, y):
    with tf.GradientTape() as tape:
        losses = objective(lambda z, training: net(z, training=training), x, y)
        loss = tf.reduce_mean(losses)
    variables = net.trainable_variables
    found = tape.gradient(loss, variables)
    by_id = {id(v): g for v, g in zip(variables, found, strict=True)}
    return loss, tf.linalg.global_norm(found), by_id[id(net.classifier.kernel)]


@pytest.mark.parametrize(
    ("objective", "names"),
    [
        (
            RecordedPGD(**ATTACK),
            ("madry/loss", "madry/grad_norm", "madry/grad_classifier_weight"),
        ),
        (
            RecordedTRADES(**ATTACK, beta=CONFIG["beta"]),
            (
                "trades/loss_correct",
                "trades/grad_norm_correct",
                "trades/grad_classifier_weight_correct",
            ),
        ),
    ],
)
def test_loss_and_gradients_of_the_official_code(objective, names):
    net, x, y = official_network("float64")
    loss, norm, kernel = gradients(net, objective, x, y)
    values = loss, norm, np.transpose(kernel)
    for name, value in zip(names, values, strict=True):
        bound = 1e-6 if name.endswith("weight") else 1e-8
        error = np.abs(value - DATA[name]).max()
        assert error < bound * np.abs(DATA[name]).max(), name


@pytest.mark.parametrize(
    ("objective", "name"),
    [
        (RecordedPGD(**ATTACK), "madry/x_adv"),
        (RecordedTRADES(**ATTACK), "trades/x_adv"),
    ],
)
def test_crafted_images_of_the_official_code(objective, name):
    def model_fn(z, training):
        return net(z, training=training)

    # Traced: the steps of these networks take longer eagerly.
    net, x, y = official_network("float64")
    crafted = tf.function(objective.craft)(model_fn, x, y, (0, 0))
    np.testing.assert_allclose(crafted, nhwc(DATA[name]), rtol=0, atol=1e-8)
    net, x, y = official_network("float32")
    crafted = tf.function(objective.craft)(model_fn, x, y, (0, 0)).numpy()
    # A sign may turn where a gradient is nearly 0: with TRADES all are, at the start.
    equal = np.abs(crafted - nhwc(DATA[name])) < 1e-6
    assert equal.mean() > (0.9 if name.startswith("trades") else 0.99)


def test_the_correct_trades_has_a_divergence():
    assert DATA["trades/loss_robust"] > 0
    assert DATA["trades/loss_official_literal"] < DATA["trades/loss_correct"]
    net, x, y = official_network("float64")
    clean = net(x, training=True)
    crafted = net(nhwc(DATA["trades/x_adv"]), training=True)
    robust = tf.reduce_mean(kl_divergence(clean, crafted))
    np.testing.assert_allclose(robust, DATA["trades/loss_robust"], rtol=1e-8)
    natural = tf.reduce_mean(cross_entropy(y, clean))
    np.testing.assert_allclose(natural, DATA["trades/loss_natural"], rtol=1e-8)


def test_label_smoothing_is_keras():
    logits = np.random.default_rng(0).normal(size=(4, 5)).astype(np.float32)
    y = np.array([0, 2, 4, 1])
    keras_loss = keras.losses.CategoricalCrossentropy(
        from_logits=True, label_smoothing=0.2, reduction=None
    )
    expected = keras_loss(np.eye(5, dtype=np.float32)[y], logits)
    got = PGD(label_smoothing=0.2).losses(y, None, logits)
    np.testing.assert_allclose(got, expected, rtol=1e-5)


def test_fgsm_rs_takes_one_step_from_an_image():
    x = tf.zeros((1, 1, 1, 400))
    seen = []

    def model_fn(z, training):
        assert not training
        seen.append(z.numpy())
        return tf.stack([tf.zeros(1), tf.reduce_sum(z, [1, 2, 3])], -1)

    objective = FGSMRS(epsilon=0.1, step_size=0.02)
    crafted = objective.craft(model_fn, x, tf.constant([0]), (0, 0))
    assert len(seen) == 1
    assert seen[0].min() == 0
    assert 0.09 < seen[0].max() <= 0.1
    np.testing.assert_allclose(crafted, np.minimum(seen[0] + 0.02, 0.1), atol=1e-6)


def test_slopes_of_the_divergence_of_confident_logits():
    random = np.random.default_rng(0)
    reference = 10 * random.normal(size=(200, 10))
    # Of the largest logits, some are ahead by ten and more.
    logits = reference + 0.01 * random.normal(size=reference.shape)
    weights = random.normal(size=(10, 50))

    def slopes(dtype):
        with tf.GradientTape() as tape:
            x = tf.constant(logits, dtype)
            tape.watch(x)
            divergence = kl_divergence(tf.constant(reference, dtype), x)
        return divergence.numpy(), tape.gradient(divergence, x).numpy() @ weights

    (found, steps), (exact, expected) = slopes("float32"), slopes("float64")
    np.testing.assert_allclose(found, exact, atol=1e-6)
    along = np.sum(steps * expected, 1)
    lengths = np.linalg.norm(steps, axis=1) * np.linalg.norm(expected, axis=1)
    assert (along > 0.99 * lengths).all()


def test_the_divergence_of_equal_logits_is_zero_and_has_a_slope():
    logits = tf.constant([[0.0, 0.0, 0.0], [50.0, -50.0, 3.0], [1e4, 0.0, -1e4]])
    with tf.GradientTape() as tape:
        tape.watch(logits)
        divergence = kl_divergence(tf.stop_gradient(logits), logits)
    np.testing.assert_allclose(divergence, 0, atol=1e-6)
    np.testing.assert_allclose(tape.gradient(divergence, logits), 0, atol=1e-6)


def test_radii_may_be_texts():
    texts = PGD(epsilon="8/255", step_size="2 / 255")
    assert texts == PGD(epsilon=8 / 255, step_size=2 / 255)
    with pytest.raises(ValueError, match="start must be one of 'gaussian', 'uniform'"):
        PGD(start="zero")
