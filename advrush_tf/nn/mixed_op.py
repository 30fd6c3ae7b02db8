"""The mixed operation, batched over the edges that leave one state.

All edges that leave a state read the same tensor. The ReLU and the poolings are
computed once for all of them, and each convolutional candidate runs once with one
channel group an edge. The result equals the mixture computed edge by edge.
"""

from typing import Any

import tensorflow as tf

from advrush_tf.nn import kernels
from advrush_tf.nn.batch_norm import batch_normalize, inverse_deviation, update_running
from advrush_tf.nn.blocks import (
    DILATED,
    POOLINGS,
    SEPARABLE,
    Block,
    ConvBatchNorm,
    RectangularBlock,
    SeparableBlock,
    SeparableConv,
)
from advrush_tf.nn.constants import block_identity, constant

# Name of the products that weigh candidates, in graphs.
MIXING = "mix_candidates"
_SKIP = "skip_connect"


class MixedEdges(Block):
    """Mixes all candidate operations on each of the edges that leave one state.

    Args:
        channels: channels of a state.
        num_edges: number of edges that leave the state.
        stride: 1, or 2 for the inputs of a reduction cell.
        primitives: names of the candidate operations, in the order of the weights.

    Call arguments:
        x: (batch, height, width, channels), the state.
        weights: (num_edges, len(primitives)), the softmax of the edges' alphas.
        training: whether batch normalisation uses (and records) batch statistics.

    Output shape:
        (batch, ceil(height / stride), ceil(width / stride), num_edges * channels),
        edge after edge.

    Source: Liu et al., DARTS, arXiv 1806.09055, equation 2.
    """

    def __init__(
        self,
        channels: int,
        num_edges: int,
        stride: int,
        primitives: tuple[str, ...],
        **kwargs: Any,
    ):
        super().__init__(**kwargs)
        self.channels = channels
        self.num_edges = num_edges
        self.stride = stride
        self.primitives = tuple(primitives)

    def build(self, input_shape):
        self.convolutions, self.dilated, self.pools = {}, {}, {}
        for name in self.primitives:
            if name in POOLINGS:
                width = self.num_edges * self.channels
                self.pools[name] = self.add_statistics(f"{name}_", width)
            elif name in DILATED:
                # The stride is taken by sub-sampling the input: see `_mix_dilated`.
                self.dilated[name] = SeparableBlock(
                    self.channels, DILATED[name], **self._common(name)
                )
            elif name in SEPARABLE:
                self.convolutions[name] = SeparableConv(
                    self.channels, SEPARABLE[name], self.stride, **self._common(name)
                )
            elif name == "conv_7x1_1x7":
                self.convolutions[name] = RectangularBlock(
                    self.channels, self.stride, **self._common(name)
                )
        edge_shape = (*input_shape[:-1], self.num_edges * self.channels)
        for block in (*self.convolutions.values(), *self.dilated.values()):
            block.build(edge_shape)
        self.reduction = None
        if _SKIP in self.primitives and self.stride == 2:
            self.reduction = self._build_reduction(input_shape)
        self.built = True

    def _common(self, name: str) -> dict[str, Any]:
        return {"groups": self.num_edges, "name": name, **self.inherited}

    def _build_reduction(self, input_shape) -> ConvBatchNorm:
        """Factorized reductions: two half-width convolutions an edge."""
        common = {**self._common(_SKIP), "groups": 2 * self.num_edges}
        block = ConvBatchNorm(self.num_edges * self.channels, **common)
        block.build((*input_shape[:-1], 2 * self.num_edges * self.channels))
        return block

    def call(self, x, weights, training=False):
        scales = self._per_channel(weights)
        rectified = tf.nn.relu(x)
        tiled = kernels.repeat_channels(rectified, self.num_edges)
        outputs = [
            block(tiled, scale=scales[name], training=training)
            for name, block in self.convolutions.items()
        ]
        if self.dilated:
            outputs.append(self._mix_dilated(rectified, scales, training))
        if self.reduction:
            halves = kernels.shifted_halves(rectified)
            halves = kernels.repeat_channels(halves, self.num_edges)
            outputs.append(
                self.reduction(halves, scale=scales[_SKIP], training=training)
            )
        outputs.extend(self._mix_poolings(x, scales, training))
        return tf.add_n(outputs)

    def _per_channel(self, weights) -> dict[str, tf.Tensor]:
        """The weight of each operation, repeated over each edge's channels."""
        repeat = block_identity(self.num_edges, self.channels, weights.dtype)
        rows = tf.unstack(tf.matmul(weights, repeat, transpose_a=True, name=MIXING))
        return dict(zip(self.primitives, rows, strict=True))

    def _mix_dilated(self, x, scales, training):
        """Sum of the dilated candidates, without a dilated kernel where possible.

        With dilation 2 the pixels of each parity never meet, so the four parities
        become four images under a plain convolution; pointwise convolutions and batch
        statistics do not depend on where a pixel lies. With stride 2 only one parity
        is ever read. Odd sizes have parities of unequal shape and take the kernel.
        """
        in_parities = self.stride == 1 and x.shape[1] % 2 == 0 == x.shape[2] % 2
        if self.stride == 2:
            x = kernels.every_second(x, 0)
        elif in_parities:
            parities = _parities()
            x = tf.space_to_batch(x, *parities)
        dilation = 1 if in_parities or self.stride == 2 else 2
        tiled = kernels.repeat_channels(x, self.num_edges)
        mixed = tf.add_n(
            [
                block(tiled, scale=scales[name], dilation=dilation, training=training)
                for name, block in self.dilated.items()
            ]
        )
        return tf.batch_to_space(mixed, *parities) if in_parities else mixed

    def _mix_poolings(self, x, scales, training):
        """The poolings and the identity, mixed onto the edges by one convolution."""
        maps, coefficients, bias = [], [], None
        for name, (mean, variance) in self.pools.items():
            pooled = POOLINGS[name](x, self.stride)
            if training:
                pooled = self._normalize_pool(pooled, mean, variance)
                coefficients.append(scales[name])
            else:
                inverse = inverse_deviation(variance)
                coefficients.append(scales[name] * inverse)
                shift = mean.value * coefficients[-1]
                bias = -shift if bias is None else bias - shift
            maps.append(pooled)
        if _SKIP in self.primitives and self.stride == 1:
            maps.append(x)
            coefficients.append(scales[_SKIP])
        if maps:
            kernel = self._diagonal_kernel(coefficients)
            maps = kernels.concat_channels(*maps)
            mixed = tf.nn.conv2d(maps, tf.cast(kernel, x.dtype), 1, "SAME", name=MIXING)
            if bias is not None:
                mixed = kernels.add_bias(mixed, tf.cast(bias, mixed.dtype))
            yield mixed

    def _normalize_pool(self, pooled, mean, variance):
        """Normalises a pooling; every edge records the same batch statistics."""
        y, batch_mean, batch_variance = batch_normalize(
            pooled, synchronized=self.synchronized
        )
        edges = constant((self.num_edges,))
        update_running(mean, tf.tile(batch_mean, edges))
        update_running(variance, tf.tile(batch_variance, edges))
        return y

    def _diagonal_kernel(self, coefficients: list[tf.Tensor]) -> tf.Tensor:
        """1x1 kernel that adds `coefficient * map` in each channel of each edge."""
        stacked = tf.stack(coefficients)
        shape = (-1, 1, self.num_edges, self.channels)
        diagonal = tf.reshape(stacked, constant(shape)) * tf.expand_dims(
            block_identity(self.channels, 1, stacked.dtype), 1
        )
        width = self.num_edges * self.channels
        return tf.reshape(diagonal, constant((1, 1, -1, width)))


def _parities() -> tuple[tf.Tensor, tf.Tensor]:
    """Block shape and crops of the four pixel parities.

    Not shared constants, whose values a graph does not see: TensorFlow's inference of
    shapes then takes height for equal to width and forgets all shapes where they
    differ, and a later pass kills the process.
    """
    return tf.constant((2, 2)), tf.constant(((0, 0), (0, 0)))
