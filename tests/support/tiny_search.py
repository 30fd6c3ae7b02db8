"""Tiny search models and random batches for the tests of the search."""

import keras
import numpy as np
import tensorflow as tf

from advrush_tf import AdvRushSearchModel

# One operation of each kind.
KINDS = ("none", "max_pool_3x3", "skip_connect", "sep_conv_3x3", "dil_conv_3x3")
MEAN, STD = (0.25, 0.5, 0.75), (0.5, 0.25, 0.125)


def tiny_model(seed=0, num_cells=1, **settings):
    keras.utils.set_random_seed(seed)
    settings = {"num_nodes": 2, "primitives": KINDS} | settings
    return AdvRushSearchModel(
        3, (8, 8, 3), init_channels=2, num_cells=num_cells, **settings
    )


def tiny_compiled(seed=0, num_cells=1, model_settings=None, **settings):
    model = tiny_model(seed, num_cells, **(model_settings or {}))
    settings.setdefault("run_eagerly", True)
    model.compile(**settings)
    return model


def random_batch(seed, size=6):
    generator = np.random.default_rng(seed)
    x = generator.random((size, 8, 8, 3), np.float32)
    return x, generator.integers(0, 3, size).astype(np.int32)


def random_pair(seed=0):
    return random_batch(2 * seed), random_batch(2 * seed + 1)


def numbers_of(variables):
    return [variable.numpy() for variable in variables]


def cross_entropy(logits, y):
    logits = np.asarray(logits, np.float64)
    top = logits.max(-1, keepdims=True)
    log_sum = top[:, 0] + np.log(np.exp(logits - top).sum(-1))
    return np.mean(log_sum - logits[np.arange(len(y)), y])


def assert_equal(got, expected):
    for a, b in zip(got, expected, strict=True):
        np.testing.assert_array_equal(a, b)


class Recorded(keras.optimizers.schedules.LearningRateSchedule):
    """The recorded rates, without Keras' rounding to float32."""

    def __init__(self, rates):
        self.rates = rates

    def __call__(self, step):
        return tf.gather(tf.constant(self.rates, tf.float64), step)


def recording(model):
    """Makes the model's steps keep what they return, in full precision."""
    calls = {name: [] for name in model.steps}

    def keep(name, step):
        def kept(*args):
            calls[name].append(step(*args))
            return calls[name][-1]

        return kept

    model.steps = {name: keep(name, step) for name, step in model.steps.items()}
    return calls
