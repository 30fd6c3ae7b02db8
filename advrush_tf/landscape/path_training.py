"""Teaches a supernet's weights to serve single architectures.

A search trains its weights for the mixture of all operations. With those weights most
single architectures classify hardly better than chance, and nothing can be learnt from
comparing them. A few epochs in which every step trains another random architecture
make the weights ones that architectures can share.

Source: Guo et al., Single Path One-Shot Neural Architecture Search with Uniform
Sampling, ECCV 2020.
"""

from collections.abc import Callable

import numpy as np
import tensorflow as tf

from advrush_tf.data.dataset import ImageDataset
from advrush_tf.genotypes.genotype import random_genotype
from advrush_tf.landscape.weight_sharing import SharedNetwork
from advrush_tf.losses import cross_entropy
from advrush_tf.search.model import AdvRushSearchModel
from advrush_tf.training.optimizers import MomentumSGD

# Those of the search's weights.
_LEARNING_RATE, _MOMENTUM, _L2, _CLIP = 0.025, 0.9, 3e-4, 5.0


def train_paths(
    model: AdvRushSearchModel,
    dataset: ImageDataset,
    epochs: int,
    batch_size: int = 64,
    seed: int = 0,
    progress: Callable[[int], object] = lambda epochs: None,
) -> None:
    """Trains a supernet's weights, a random architecture a step.

    Args:
        model: the supernet; its weights change and its alphas do not.
        dataset: whose training images are taken, without augmentation.
        epochs: runs through them; 0 leaves the weights as they are.
        batch_size: images of a step.
        seed: of the order of the images and of the architectures.
        progress: receives 1 after each epoch.

    Raises:
        ValueError: there are fewer images than `batch_size`.
    """
    step = _compiled(model)
    augmentation = dataset.augmentation(augment=False)
    batches, steps = dataset.train.training_batches(batch_size, seed, augmentation)
    seeds = np.random.default_rng(seed).integers(2**32, size=(epochs, steps))
    iterator = iter(batches)
    for epoch in range(epochs):
        for genotype_seed in seeds[epoch]:
            step(int(genotype_seed), *next(iterator))
        progress(1)


def _compiled(model: AdvRushSearchModel) -> Callable[[int, tf.Tensor, tf.Tensor], None]:
    """A step that trains the architecture of a seed on a batch of images."""
    network, weights = SharedNetwork(model), model.network_weights
    optimizer = MomentumSGD(_LEARNING_RATE, _MOMENTUM, _L2, _CLIP)
    optimizer.build(weights)

    @tf.function(autograph=False)
    def step(x: tf.Tensor, y: tf.Tensor) -> None:
        values = [weight.value for weight in weights]
        with tf.GradientTape(watch_accessed_variables=False) as tape:
            tape.watch(values)
            losses = cross_entropy(y, network(x, training=True))
            loss = tf.reduce_mean(losses)
        optimizer.apply(tape.gradient(loss, values), weights)

    def train(seed: int, x: tf.Tensor, y: tf.Tensor) -> None:
        supernet = model.supernet
        network.mix(random_genotype(seed, supernet.num_nodes, supernet.primitives))
        step(x, y)

    return train
