"""Architectures that share the weights of one supernet."""

import contextlib
from collections.abc import Iterator, Sequence

import numpy as np
import tensorflow as tf

from advrush_tf.genotypes.genotype import Genotype
from advrush_tf.genotypes.search_space import num_edges
from advrush_tf.nn.batch_norm import MOMENTUM
from advrush_tf.search.model import AdvRushSearchModel


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
            a cell that leaves a node out of its output, which search cells never do.
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
    """The network of one genotype after another, with the weights of a supernet.

    One graph serves all: the supernet's own, with a 1 as the weight of each operation
    that a genotype keeps. It costs as much as the supernet, but whatever is compiled
    of it (predictions, attacks, curvature) is compiled once.

    Args:
        model: the supernet, which is not changed outside of `adopted`.

    Call arguments:
        x: (batch, height, width, channels), in [0, 1].
        training: batch normalisation mode.

    Output shape:
        (batch, num_classes), logits. Outside of `adopted` they mean nothing.

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
        """Makes this a genotype's network; afterwards the supernet is as before.

        The supernet's running statistics are those of the mixture and wrong for any
        single architecture. They become the averages, weighted as always, of those of
        the given batches alone.

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
        """Gives the weights of a genotype, without statistics for inference.

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
