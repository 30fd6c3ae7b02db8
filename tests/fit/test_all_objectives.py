"""The promises that every objective keeps; losses by hand, gradients by differences."""

import dataclasses

import keras
import numpy as np
import pytest
import tensorflow as tf

from advrush_tf.fit.objectives import MART, PGD, TRADES, ObjectiveName, Standard
from support.small_networks import tiny_batch, tiny_network

ALL = pytest.mark.parametrize("name", ObjectiveName)
SEED = (1, 2)


def recorded(network, modes):
    """model_fn of a network that notes in which modes it is called."""

    def model_fn(x, training):
        modes.append(training)
        return network(x, training=training)

    return model_fn


def edges():
    """Images with black and white pixels, at which the ball leaves [0, 1]."""
    x, y = tiny_batch(size=16)
    x[:, 0], x[:, 1] = 0, 1
    return x, y


@ALL
def test_crafted_images_are_in_bounds_and_raise_the_loss(name):
    objective, net, (x, y) = name.objective(), tiny_network(), edges()
    crafted = objective.craft(recorded(net, []), x, y, SEED)
    epsilon = getattr(objective, "epsilon", 0.0)
    assert np.abs(crafted - x).max() <= epsilon + 1e-6
    assert np.min(crafted) >= 0
    assert np.max(crafted) <= 1
    clean, moved = (net(images, training=False) for images in (x, crafted))
    before, after = (
        np.mean(objective.losses(y, clean, logits)) for logits in (clean, moved)
    )
    assert bool(after > before) is objective.adversarial
    assert after >= before


@ALL
def test_crafting_is_in_inference_mode_and_the_losses_are_not(name):
    objective, net, (x, y) = name.objective(), tiny_network(), edges()
    statistics, modes = [v.numpy() for v in net.non_trainable_variables], []
    model_fn = recorded(net, modes)
    objective.craft(model_fn, x, y, SEED)
    assert set(modes) == ({False} if objective.adversarial else set())
    for before, after in zip(statistics, net.non_trainable_variables, strict=True):
        np.testing.assert_array_equal(before, after.numpy())
    del modes[:]
    losses = objective(model_fn, x, y, SEED)
    assert losses.shape == (16,)
    assert np.isfinite(losses).all()
    assert modes.count(True) == objective.needs_clean + objective.adversarial


@ALL
def test_objectives_are_serialised(name):
    objective = name.objective(label_smoothing=0.25)
    config = keras.saving.serialize_keras_object(objective)
    assert keras.saving.deserialize_keras_object(config) == objective


# Logits of two images with three classes.
CLEAN = np.log([[0.5, 0.3, 0.2], [0.1, 0.8, 0.1]])
CRAFTED = np.log([[0.2, 0.7, 0.1], [0.25, 0.5, 0.25]])
LABELS = tf.constant([0, 1])


def kl(p, q):
    p, q = np.exp(p), np.exp(q)
    return (p * np.log(p / q)).sum(-1)


@pytest.mark.parametrize(
    ("objective", "expected"),
    [
        (Standard(), -np.log([0.5, 0.8])),
        (PGD(), -np.log([0.2, 0.5])),
        (TRADES(beta=2.0), -np.log([0.5, 0.8]) + 2 * kl(CLEAN, CRAFTED)),
        (
            MART(beta=3.0),
            -np.log([0.2, 0.5])
            - np.log([1.0001 - 0.7, 1.0001 - 0.25])
            + 3 * (1 - np.array([0.5, 0.8])) * kl(CLEAN, CRAFTED),
        ),
    ],
    ids=lambda value: type(value).__name__,
)
def test_losses_by_hand(objective, expected):
    losses = objective.losses(LABELS, tf.constant(CLEAN), tf.constant(CRAFTED))
    np.testing.assert_allclose(losses, expected, rtol=1e-12)


@ALL
def test_gradients_are_those_of_finite_differences(name):
    # In the clean logits too, through every weight that depends on them.
    objective, logits = name.objective(), np.stack([CLEAN, CRAFTED])

    def total(clean, crafted):
        return tf.reduce_sum(objective.losses(LABELS, clean, crafted))

    tensors = [tf.constant(values) for values in logits]
    with tf.GradientTape() as tape:
        tape.watch(tensors)
        loss = total(*tensors)
    found = tape.gradient(loss, tensors, unconnected_gradients="zero")
    expected, step = np.zeros_like(logits), 1e-6
    for place in np.ndindex(logits.shape):
        shift = np.zeros_like(logits)
        shift[place] = step
        rise = total(*(logits + shift)) - total(*(logits - shift))
        expected[place] = rise / (2 * step)
    np.testing.assert_allclose(found, expected, atol=1e-7)


def test_marts_margin_pulls_a_certain_mistake_back():
    # With two classes, p of the other one, and no divergence, the loss in the other
    # logit falls by p + p (1 - p) / (1.0001 - p).
    logits = tf.constant([[0.0, 12.0]], tf.float64)
    with tf.GradientTape() as tape:
        tape.watch(logits)
        loss = MART(beta=0.0).losses(tf.constant([0]), logits, logits)
    p = 1 / (1 + np.exp(-12.0))
    assert p > 0.9999
    slope = p + p * (1 - p) / (1.0001 - p)
    np.testing.assert_allclose(tape.gradient(loss, logits), [[-slope, slope]])


NAN = float("nan")
WRONG = {
    "label_smoothing": (-0.1, 1.0, NAN),
    "epsilon": (0.0, -0.1, float("inf")),
    "step_size": (-1.0,),
    "steps": (0,),
    "start": ("middle",),
    "beta": (-1.0, NAN),
}


@pytest.mark.parametrize(
    ("name", "field", "value"),
    [
        (name, field.name, value)
        for name in ObjectiveName
        for field in dataclasses.fields(name.objective)
        for value in WRONG[field.name]
    ],
)
def test_wrong_numbers(name, field, value):
    with pytest.raises(ValueError, match=field):
        name.objective(**{field: value})
