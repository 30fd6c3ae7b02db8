"""The DARTS supernet: search cells that share two tables of alphas."""

from typing import Any

import keras
import tensorflow as tf

from advrush_tf.genotypes.search_space import PRIMITIVES, num_edges, reduction_cells
from advrush_tf.nn import kernels
from advrush_tf.nn.blocks import Block, ConvBatchNorm, Preprocess, build_dense
from advrush_tf.nn.mixed_op import MixedEdges
from advrush_tf.nn.recompute import recomputed


def leaving_edges(state: int, num_nodes: int) -> list[int]:
    """Returns the rows of the alphas of the edges that leave a state, by target."""
    first_target = max(0, state - 1)
    return [num_edges(node) + state for node in range(first_target, num_nodes)]


class SearchCell(Block):
    """A cell in which every edge carries a mixture of all candidate operations.

    Args:
        channels: channels of each state.
        num_nodes: number of intermediate nodes.
        reduction: whether the edges from the two inputs have stride 2.
        halve_first: whether the first input has twice the resolution of the second.
        primitives: candidate operations.

    Call arguments:
        first, second: outputs of the last cell but one and of the last cell.
        weights: (edges, len(primitives)), softmax of the alphas.
        training: batch normalisation mode.

    Output shape:
        (batch, height, width, num_nodes * channels): the nodes, concatenated.
    """

    def __init__(
        self,
        channels: int,
        num_nodes: int,
        reduction: bool,
        halve_first: bool,
        primitives: tuple[str, ...] = PRIMITIVES,
        **kwargs: Any,
    ):
        super().__init__(**kwargs)
        self.channels = channels
        self.num_nodes = num_nodes
        self.reduction = reduction
        self.halve_first = halve_first
        self.primitives = tuple(primitives)

    def build(self, first_shape, second_shape):
        self.preprocess = [
            Preprocess(self.channels, halve, **self.inherited)
            for halve in (self.halve_first, False)
        ]
        for layer, shape in zip(
            self.preprocess, (first_shape, second_shape), strict=True
        ):
            layer.build(shape)
        self.edges = []
        for state in range(self.num_nodes + 1):
            leaving = len(leaving_edges(state, self.num_nodes))
            stride = 2 if self.reduction and state < 2 else 1
            mixed = MixedEdges(
                self.channels, leaving, stride, self.primitives, **self.inherited
            )
            mixed.build((None, None, None, self.channels))
            self.edges.append(mixed)
        self.built = True

    def call(self, first, second, weights, training=False):
        inputs = zip(self.preprocess, (first, second), strict=True)
        states = [layer(x, training=training) for layer, x in inputs]
        arriving: list[list[tf.Tensor]] = [[] for _ in range(self.num_nodes)]
        for state, mixed in enumerate(self.edges):
            if state >= 2:
                states.append(tf.add_n(arriving[state - 2]))
            rows = tf.gather(weights, leaving_edges(state, self.num_nodes))
            y = mixed(states[state], rows, training=training)
            targets = arriving[-mixed.num_edges :]
            for node, part in zip(
                targets, tf.split(y, mixed.num_edges, -1), strict=True
            ):
                node.append(part)
        states.append(tf.add_n(arriving[-1]))
        return kernels.concat_channels(*states[2:])


class Supernet(Block):
    """Stem, search cells and classifier; the alphas are weights too.

    Args:
        num_classes: number of classes.
        init_channels: channels of the first cell's states; each reduction doubles them.
        num_cells: number of cells.
        num_nodes: intermediate nodes of a cell.
        stem_multiplier: the stem has `stem_multiplier * init_channels` channels.
        primitives: candidate operations.
        recompute_cells: whether the backward pass computes each cell again instead of
            keeping its activations.

    Call arguments:
        x: (batch, height, width, image channels), normalised images.
        training: batch normalisation mode.

    Output shape:
        (batch, num_classes), logits.

    Source: Liu et al., DARTS, arXiv 1806.09055.
    """

    def __init__(
        self,
        num_classes: int,
        init_channels: int = 16,
        num_cells: int = 8,
        num_nodes: int = 4,
        stem_multiplier: int = 3,
        primitives: tuple[str, ...] = PRIMITIVES,
        recompute_cells: bool = False,
        **kwargs: Any,
    ):
        super().__init__(**kwargs)
        self.num_classes = num_classes
        self.init_channels = init_channels
        self.num_cells = num_cells
        self.num_nodes = num_nodes
        self.stem_multiplier = stem_multiplier
        self.primitives = tuple(primitives)
        self.recompute_cells = recompute_cells

    def build(self, input_shape):
        shape = (num_edges(self.num_nodes), len(self.primitives))
        self.alphas_normal, self.alphas_reduce = (
            self.add_weight(
                name=name,
                shape=shape,
                initializer=keras.initializers.RandomNormal(stddev=1e-3),
                autocast=False,
            )
            for name in ("alphas_normal", "alphas_reduce")
        )
        width = self.stem_multiplier * self.init_channels
        self.stem = ConvBatchNorm(
            width, (3, 3), affine=True, name="stem", **self.inherited
        )
        self.stem.build(input_shape)
        self.cells = self._build_cells(width)
        self.classifier = build_dense(
            self.num_classes,
            self.cells[-1].channels * self.num_nodes,
            self.dtype_policy,
            "classifier",
        )
        self.built = True

    def _build_cells(self, stem_width: int) -> list[SearchCell]:
        cells: list[SearchCell] = []
        channels, halve_first = self.init_channels, False
        widths = [stem_width, stem_width]
        for position in range(self.num_cells):
            reduction = position in reduction_cells(self.num_cells)
            channels *= 2 if reduction else 1
            cell = SearchCell(
                channels,
                self.num_nodes,
                reduction,
                halve_first,
                self.primitives,
                **self.inherited,
                name=f"cell_{position}",
            )
            cell.build(*((None, None, None, width) for width in widths[-2:]))
            cells.append(cell)
            widths.append(self.num_nodes * channels)
            halve_first = reduction
        return cells

    def call(self, x, training=False):
        normal = tf.nn.softmax(self.alphas_normal.value)
        reduce = tf.nn.softmax(self.alphas_reduce.value)
        return self.mix(x, normal, reduce, training=training)

    def mix(self, x, normal, reduce, training=False):
        """Logits under given mixing weights in place of the softmax of the alphas.

        Args:
            x, training: as for a call.
            normal, reduce: (edges, len(primitives)), in the dtype of the alphas, for
                the normal and for the reduction cells. In inference mode derivatives in
                weights that are 0 come out as 0, as a softmax makes them.

        Returns:
            (batch, num_classes).
        """
        first = second = self.stem(x, training=training)
        for cell in self.cells:
            weights = reduce if cell.reduction else normal
            if self.recompute_cells:
                run = recomputed(cell)
                output = run((first, second), weights, training=training)
            else:
                output = cell(first, second, weights, training=training)
            first, second = second, output
        return self.classifier(tf.reduce_mean(second, [1, 2]))
