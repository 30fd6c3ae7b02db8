"""Models that attacks are tested on, whose robustness is known."""

import dataclasses
import functools

import keras
import numpy as np
import tensorflow as tf

from advrush_tf.attacks.geometry import Norm
from advrush_tf.attacks.iterative import IterativeAttack, StepResult
from advrush_tf.data.dataset import load_dataset

SHAPE = (4, 4, 3)


def linear(classes=3, seed=0, shape=SHAPE):
    """A linear classifier (images to logits) and its weights (features, classes)."""
    generator = np.random.default_rng(seed)
    weights = generator.normal(size=(np.prod(shape), classes)).astype(np.float32)
    kernel = tf.constant(weights)

    def model(images):
        # Grey is on all boundaries, so that no class is rare.
        return tf.reshape(images - 0.5, [-1, len(weights)]) @ tf.cast(
            kernel, images.dtype
        )

    return model, weights


def save_linear_model(path, images=None):
    """Saves a linear model, solved for the digits' first images; gives its path."""
    train, layers = load_dataset("digits").train, keras.layers
    model = keras.Sequential(
        [keras.Input((8, 8, 1)), layers.Flatten(), layers.Dense(10, use_bias=False)]
    )
    x, y = train.images[:images].reshape(-1, 64) / 255, train.labels[:images]
    model.set_weights([np.linalg.lstsq(x, 10 * np.eye(10)[y], 1e-6)[0]])
    model.save(path)
    return path


def distances(weights, x, y, norm):
    """How far each image is from the nearest boundary of a linear classifier.

    That is without the box [0, 1]: images in its middle, as those of `grey`.
    """
    logits = (x - 0.5).reshape(len(x), -1) @ weights
    dual = 1 if norm is Norm.LINF else 2
    found = []
    for row, label in zip(logits, y, strict=True):
        others = [k for k in range(len(row)) if k != label]
        gaps = [row[label] - row[k] for k in others]
        sizes = [
            np.linalg.norm(weights[:, label] - weights[:, k], dual) for k in others
        ]
        found.append(min(np.divide(gaps, sizes)))
    return np.array(found)


def grey(model, count=30, seed=0, shape=SHAPE):
    """Images near grey, which the box leaves room, and what the model says of them."""
    generator = np.random.default_rng(seed)
    x = generator.uniform(0.4, 0.6, (count, *shape)).astype(np.float32)
    return x, np.argmax(model(tf.constant(x)), -1)


@dataclasses.dataclass(frozen=True)
class Endless(IterativeAttack):
    """Looks at the same images for hours."""

    steps = 10**9

    def runs(self, num_classes):
        return 1

    def start(self, batch):
        return {"images": batch.x}

    def step(self, logits_fn, batch, index, draws, state):
        logits = logits_fn(state["images"])
        return StepResult(state, state["images"], tf.reduce_any(logits > 1e9, -1))


@functools.cache
def fitted(classes=4, seed=0):
    """A small network fitted to noisy patterns, some of its images and labels."""
    keras.utils.set_random_seed(seed)
    generator = np.random.default_rng(seed)
    patterns = generator.uniform(0.25, 0.75, (classes, 6, 6, 1))
    y = generator.integers(0, classes, 256)
    x = np.clip(patterns[y] + generator.normal(0, 0.12, (256, 6, 6, 1)), 0, 1)
    layers = keras.layers
    model = keras.Sequential(
        [
            keras.Input((6, 6, 1)),
            layers.Conv2D(6, 3, activation="relu"),
            layers.Flatten(),
            layers.Dense(classes),
        ]
    )
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.Adam(0.02), loss)
    model.fit(x, y, epochs=8, verbose=0)
    return model, x.astype(np.float32)[:40], y[:40]
