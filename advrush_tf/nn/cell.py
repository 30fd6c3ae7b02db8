"""The cell of a genotype, with one operation on each of its edges."""

from collections.abc import Sequence
from typing import Any

import tensorflow as tf

from advrush_tf.genotypes.search_space import Edge
from advrush_tf.nn import kernels
from advrush_tf.nn.blocks import (
    DILATED,
    POOLINGS,
    SEPARABLE,
    Block,
    Preprocess,
    RectangularBlock,
    SeparableBlock,
    SeparableConv,
)


class Operation(Block):
    """The one operation on an edge of a fixed cell.

    Args:
        operation: its name.
        channels: channels of a state.
        stride: 1 or 2.

    Call arguments:
        x: (batch, height, width, channels), the state that the edge leaves.
        rectified: the state's ReLU, shared by all edges that leave it.
        training: batch normalisation mode.
    """

    def __init__(self, operation: str, channels: int, stride: int, **kwargs: Any):
        super().__init__(**kwargs)
        self.operation = operation
        self.channels = channels
        self.stride = stride

    @property
    def identity(self) -> bool:
        """True if the operation returns its input."""
        return self.operation == "skip_connect" and self.stride == 1

    def build(self, input_shape):
        self.block = self._make_block()
        if self.block is not None:
            self.block.build(input_shape)
        self.built = True

    def _make_block(self):
        name, channels = self.operation, self.channels
        common = {"affine": True, "name": name, **self.inherited}
        if name == "none" or name in POOLINGS or self.identity:
            return None
        if name == "skip_connect":
            return Preprocess(channels, halve=True, **common)
        if name in SEPARABLE:
            return SeparableConv(channels, SEPARABLE[name], self.stride, **common)
        if name in DILATED:
            return SeparableBlock(channels, DILATED[name], **common)
        return RectangularBlock(channels, self.stride, **common)

    def call(self, x, rectified, training=False):
        if self.operation == "none":
            return tf.zeros_like(x[:, :: self.stride, :: self.stride])
        if self.operation in POOLINGS:
            return POOLINGS[self.operation](x, self.stride)
        if self.identity:
            return x
        if self.operation not in DILATED:
            return self.block(rectified, training=training)
        if self.stride == 1:
            return self.block(rectified, dilation=2, training=training)
        # With dilation 2 and stride 2 only every second pixel is ever read.
        rectified = kernels.every_second(rectified, 0)
        return self.block(rectified, training=training)


class FixedCell(Block):
    """A cell of a genotype: each node adds two operations.

    Args:
        edges: two (operation, state) pairs per node, node by node.
        concat: states that make up the output.
        channels: channels of each state.
        reduction: whether the edges from the two inputs have stride 2.
        halve_first: whether the first input has twice the resolution of the second.

    Call arguments:
        first, second: outputs of the last cell but one and of the last cell.
        drop: function applied to the output of every operation but the identity.
        training: batch normalisation mode.

    Output shape:
        (batch, height, width, len(concat) * channels).
    """

    def __init__(
        self,
        edges: Sequence[Edge],
        concat: Sequence[int],
        channels: int,
        reduction: bool,
        halve_first: bool,
        **kwargs: Any,
    ):
        super().__init__(**kwargs)
        self.edges = tuple((name, state) for name, state in edges)
        self.concat = tuple(concat)
        self.channels = channels
        self.reduction = reduction
        self.halve_first = halve_first

    def build(self, first_shape, second_shape):
        self.preprocess = [
            Preprocess(self.channels, halve, affine=True, **self.inherited)
            for halve in (self.halve_first, False)
        ]
        for layer, shape in zip(
            self.preprocess, (first_shape, second_shape), strict=True
        ):
            layer.build(shape)
        self.operations = [
            Operation(
                name,
                self.channels,
                2 if self.reduction and state < 2 else 1,
                name=f"edge_{index}",
                **self.inherited,
            )
            for index, (name, state) in enumerate(self.edges)
        ]
        for operation in self.operations:
            operation.build((None, None, None, self.channels))
        self.built = True

    def call(self, first, second, drop=None, training=False):
        states = [
            layer(x, training=training)
            for layer, x in zip(self.preprocess, (first, second), strict=True)
        ]
        rectified: dict[int, tf.Tensor] = {}
        arriving = []
        for operation, (_, state) in zip(self.operations, self.edges, strict=True):
            if state not in rectified:
                rectified[state] = tf.nn.relu(states[state])
            y = operation(states[state], rectified[state], training=training)
            arriving.append(y if drop is None or operation.identity else drop(y))
            if len(arriving) == 2:
                states.append(arriving[0] + arriving[1])
                arriving = []
        return kernels.concat_channels(*(states[state] for state in self.concat))
