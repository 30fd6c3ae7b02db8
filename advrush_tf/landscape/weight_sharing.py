"""Networks of single architectures with a supernet's weights, and their training."""

import contextlib
from collections.abc import Callable, Iterator, Sequence

import numpy as np
import tensorflow as tf

from advrush_tf.data.dataset import ImageDataset
from advrush_tf.genotypes.genotype import Genotype, random_genotype
from advrush_tf.genotypes.search_space import num_edges
from advrush_tf.losses import cross_entropy
from advrush_tf.nn.batch_norm import MOMENTUM
from advrush_tf.search.model import AdvRushSearchModel
from advrush_tf.training.optimizers import MomentumSGD

# Of `train_paths`: those of the search's weights.
_LEARNING_RATE, _MOMENTUM, _L2, _CLIP = 0.025, 0.9, 3e-4, 5.0


def one_hot_weights(
    genotype: Genotype, primitives: Sequence[str]
) -> tuple[np.ndarray, np.ndarray]:
    """The mixing weights under which a supernet computes one architecture.

    Args:
        genotype: the architecture.
        primitives: the operation of each column.

    Returns:
        Those of the normal and of the reduction cells, float64 (edges, operations),
        rows as in `strongest_edges`: 1 for the operation of each edge that is kept,
        else 0.

    Raises:
        ValueError: the genotype has an operation that is not among the primitives, or
            a cell whose output lacks a node, which search cells never do.
    """
    normal = _one_hot(genotype, "normal", primitives)
    return normal, _one_hot(genotype, "reduce", primitives)


def _one_hot(genotype: Genotype, kind: str, primitives: Sequence[str]) -> np.ndarray:
    nodes = tuple(range(2, 2 + genotype.num_nodes))
    concat = getattr(genotype, f"{kind}_concat")
    if set(concat) != set(nodes):
        raise ValueError(
            f"the {kind} cell puts out the states {concat}; a supernet's cells put out "
            f"all their nodes, {nodes}"
        )
    columns = {name: column for column, name in enumerate(primitives)}
    table = np.zeros((num_edges(genotype.num_nodes), len(primitives)))
    for place, (operation, state) in enumerate(getattr(genotype, kind)):
        if operation not in columns:
            raise ValueError(
                f"the {kind} cell has the operation {operation}, which the supernet "
                f"lacks; it has {', '.join(primitives)}"
            )
        # A sum, because a node may read a state twice.
        table[num_edges(place // 2) + state, columns[operation]] += 1
    return table


class SharedNetwork:
    """The network of any genotype, with the weights of a supernet.

    All genotypes share the supernet's graph, with weight 1 for each operation that the
    genotype keeps. A call costs as much as the supernet's, but predictions, attacks and
    curvature are compiled once for all genotypes.

    Args:
        model: the supernet; only `adopted` changes it.

    Call arguments:
        x: (batch, height, width, channels), in [0, 1].
        training: batch normalisation mode.

    Output shape:
        (batch, num_classes), logits; meaningless outside of `adopted`.

    Source: Bender et al., Understanding and Simplifying One-Shot Architecture Search,
    ICML 2018.
    """

    def __init__(self, model: AdvRushSearchModel):
        self._model = model
        self._mixing = [
            tf.Variable(tf.zeros_like(alphas.value), trainable=False)
            for alphas in model.alphas
        ]
        self._statistics = model.supernet.non_trainable_variables

        @tf.function(autograph=False)
        def observe(images: tf.Tensor) -> tf.Tensor:
            return self(images, training=True)

        self._observe = observe

    def __call__(self, x: tf.Tensor, training: bool = False) -> tf.Tensor:
        normal, reduce = self._mixing
        return self._model.mixed_logits(x, normal, reduce, training=training)

    @contextlib.contextmanager
    def adopted(
        self, genotype: Genotype, batches: Sequence[np.ndarray]
    ) -> Iterator[None]:
        """Makes this the network of a genotype; restores the supernet afterwards.

        The supernet's running statistics are those of the mixture and wrong for any
        single architecture. They are replaced by the running averages over the given
        batches alone.

        Args:
            genotype: with the supernet's number of nodes and operations.
            batches: training images in [0, 1], each (batch, height, width, channels),
                one or more.

        Raises:
            ValueError: the genotype does not fit the supernet, or there is no batch.
        """
        if not batches:
            raise ValueError("batch normalisation needs at least one training batch")
        self.mix(genotype)
        before = [variable.numpy() for variable in self._statistics]
        try:
            self._recalibrate(batches)
            yield
        finally:
            for variable, value in zip(self._statistics, before, strict=True):
                variable.assign(value)

    def mix(self, genotype: Genotype) -> None:
        """Sets the mixing weights to a genotype, without statistics for inference.

        Raises:
            ValueError: the genotype does not fit the supernet.
        """
        supernet = self._model.supernet
        if genotype.num_nodes != supernet.num_nodes:
            raise ValueError(
                f"the genotype has {genotype.num_nodes} nodes in a cell and the "
                f"supernet {supernet.num_nodes}"
            )
        tables = one_hot_weights(genotype, supernet.primitives)
        for variable, table in zip(self._mixing, tables, strict=True):
            variable.assign(table)

    def _recalibrate(self, batches: Sequence[np.ndarray]) -> None:
        for variable in self._statistics:
            variable.assign(tf.zeros_like(variable.value))
        for images in batches:
            self._observe(tf.constant(images))
        # From zero, the weights of the batches add up to this (as in Adam).
        total = 1 - MOMENTUM ** len(batches)
        for variable in self._statistics:
            variable.assign(variable.value / total)


def train_paths(
    model: AdvRushSearchModel,
    dataset: ImageDataset,
    epochs: int,
    batch_size: int = 64,
    seed: int = 0,
    progress: Callable[[int], object] = lambda epochs: None,
) -> None:
    """Trains a supernet's weights, one random architecture per step.

    A search trains its weights for the mixture of all operations. With those weights
    most single architectures classify hardly better than chance, and a comparison of
    them is meaningless. A few epochs of this training make the weights shareable.

    Args:
        model: the supernet; its weights change, its alphas do not.
        dataset: gives the training images, which are not augmented.
        epochs: passes over the training images; 0 changes no weights.
        batch_size: images per step.
        seed: of the order of the images and of the architectures.
        progress: receives 1 after each epoch.

    Raises:
        ValueError: there are fewer images than `batch_size`.

    Source: Guo et al., Single Path One-Shot Neural Architecture Search with Uniform
    Sampling, ECCV 2020.
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


def _compiled(
    model: AdvRushSearchModel,
) -> Callable[[int, tf.Tensor, tf.Tensor], None]:
    """Returns a step that trains the architecture of a seed on a batch of images."""
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
