"""Trainable building blocks: convolutions followed by batch normalisation.

Each block handles one edge (`groups=1`) or many at once (one channel group an edge).
A block never applies the ReLU that precedes it, so that edges which read the same
state share one. In inference mode batch normalisation is folded into the convolution.
"""

from typing import Any

import keras
import numpy as np
import tensorflow as tf

from advrush_tf.nn import kernels
from advrush_tf.nn.batch_norm import batch_normalize, inverse_deviation, update_running
from advrush_tf.variables import of_one_name

# Operations by name: the function, or the side of the kernel.
POOLINGS = {
    "max_pool_3x3": kernels.max_pool_3x3,
    "avg_pool_3x3": kernels.avg_pool_3x3,
}
SEPARABLE = {"sep_conv_3x3": 3, "sep_conv_5x5": 5, "sep_conv_7x7": 7}
DILATED = {"dil_conv_3x3": 3, "dil_conv_5x5": 5}


def uniform_initializer(fan_in: int) -> keras.initializers.Initializer:
    """PyTorch's default for weights and biases: uniform within 1 / sqrt(fan_in)."""
    limit = 1.0 / np.sqrt(fan_in)
    return keras.initializers.RandomUniform(-limit, limit)


def build_dense(
    units: int, features: int, dtype: Any, name: str | None = None
) -> keras.layers.Dense:
    """A dense layer of (batch, features), built, with PyTorch's initial weights."""
    dense = keras.layers.Dense(
        units,
        kernel_initializer=uniform_initializer(features),
        bias_initializer=uniform_initializer(features),
        dtype=dtype,
        name=name,
    )
    dense.build((None, features))
    return dense


class Block(keras.layers.Layer):
    """Base of the blocks: variables stay in their own dtype, casts are explicit.

    Blocks have no `get_config`: only the networks here build them, and a loaded network
    builds them again.

    Args:
        synchronized: whether, under a `tf.distribute` strategy, batch normalisation
            uses the statistics of all replicas' batches together.
    """

    def __init__(self, synchronized: bool = True, **kwargs: Any):
        kwargs.setdefault("autocast", False)
        super().__init__(**kwargs)
        self.synchronized = synchronized

    def __call__(self, *args, **kwargs):
        outputs = super().__call__(*args, **kwargs)
        self.output_shape = None, *outputs.shape[1:]  # Which `summary` shows.
        return outputs

    @property
    def inherited(self) -> dict[str, Any]:
        """Arguments that a block passes on to its inner blocks."""
        return {"dtype": self.dtype_policy, "synchronized": self.synchronized}

    @of_one_name()
    def add_weight(self, *args, **kwargs):
        return super().add_weight(*args, **kwargs)

    def add_kernel(self, name: str, shape: tuple[int, ...], fan_in: int):
        """A convolution kernel with PyTorch's default initialisation."""
        return self.add_weight(
            name=name,
            shape=shape,
            initializer=uniform_initializer(fan_in),
            autocast=False,
        )

    def add_statistics(self, prefix: str, channels: int):
        """A running mean (zeros) and a running variance (ones) of (channels,)."""
        return tuple(
            self.add_weight(
                name=f"{prefix}{name}",
                shape=(channels,),
                initializer=initializer,
                trainable=False,
                autocast=False,
            )
            for name, initializer in (
                ("moving_mean", "zeros"),
                ("moving_variance", "ones"),
            )
        )


class ConvBatchNorm(Block):
    """Convolution without bias, then batch normalisation.

    Args:
        filters: number of output channels over all groups.
        kernel_size: height and width, odd.
        strides: vertical and horizontal stride, 1 or 2.
        groups: number of channel groups.
        affine: whether the normalisation has a trainable scale and offset.
        padded: whether the borders are padded, symmetrically as in PyTorch.

    Call arguments:
        x: (batch, height, width, groups * c_in).
        scale: (filters,), multiplies the normalised output of a block that is not
            affine; None means ones. For derivatives in it, see
            `kernels.already_scaled`.
        training: True normalises by the batch's statistics and updates the running
            ones, False uses the running ones.
    """

    def __init__(
        self,
        filters: int,
        kernel_size: tuple[int, int] = (1, 1),
        strides: tuple[int, int] = (1, 1),
        groups: int = 1,
        affine: bool = False,
        padded: bool = True,
        **kwargs: Any,
    ):
        super().__init__(**kwargs)
        self.filters = filters
        self.kernel_size = tuple(kernel_size)
        self.strides = (strides[0], strides[1])
        self.groups = groups
        self.affine = affine
        self.padded = padded

    def build(self, input_shape):
        group_channels = input_shape[-1] // self.groups
        self.kernel = self.add_kernel(
            "kernel",
            (*self.kernel_size, group_channels, self.filters),
            int(np.prod(self.kernel_size)) * group_channels,
        )
        if self.affine:
            self.gamma = self._add_affine("gamma", "ones")
            self.beta = self._add_affine("beta", "zeros")
        self.moving_mean, self.moving_variance = self.add_statistics("", self.filters)
        self.built = True

    def _add_affine(self, name: str, initializer: str):
        return self.add_weight(
            name=name, shape=(self.filters,), initializer=initializer, autocast=False
        )

    def call(self, x, scale=None, training=False):
        offset = None
        if self.affine:
            scale, offset = self.gamma.value, self.beta.value
        if training:
            y = self._convolve(x, self.kernel.value)
            y, mean, variance = batch_normalize(y, scale, offset, self.synchronized)
            update_running(self.moving_mean, mean)
            update_running(self.moving_variance, variance)
            return y
        if self.affine or scale is None:
            return self._convolve_normalised(x, scale, offset)
        y = self._convolve_normalised(x, tf.stop_gradient(scale), offset)
        return kernels.already_scaled(y, scale)

    def _convolve_normalised(self, x, scale, offset):
        """Both as one convolution, by the running statistics."""
        factor = inverse_deviation(self.moving_variance)
        factor = factor if scale is None else factor * scale
        shift = self.moving_mean.value * factor
        bias = -shift if offset is None else offset - shift
        y = self._convolve(x, self.kernel.value * factor)
        return kernels.add_bias(y, tf.cast(bias, y.dtype))

    def _convolve(self, x, kernel):
        kernel = tf.cast(kernel, x.dtype)
        if not self.padded:
            return tf.nn.conv2d(x, kernel, self.strides, "VALID")
        return kernels.grouped_conv2d(x, kernel, self.groups, self.strides)


class _Separable(Block):
    """The arguments of `SeparableBlock` and `SeparableConv`."""

    def __init__(
        self,
        channels: int,
        kernel_size: int,
        stride: int = 1,
        groups: int = 1,
        affine: bool = False,
        **kwargs: Any,
    ):
        super().__init__(**kwargs)
        self.channels = channels
        self.kernel_size = kernel_size
        self.stride = stride
        self.groups = groups
        self.affine = affine


class SeparableBlock(_Separable):
    """Depthwise convolution, pointwise convolution, batch normalisation.

    Args:
        channels: channels of one group, in and out.
        kernel_size: side of the depthwise kernel, odd.
        stride: 1 or 2, of the depthwise convolution.
        groups: number of channel groups.
        affine: whether the normalisation has a trainable scale and offset.

    Call arguments:
        x: (batch, height, width, groups * channels).
        scale, training: as in `ConvBatchNorm`.
        dilation: of the depthwise convolution (stride 1 only).
    """

    def build(self, input_shape):
        width = self.groups * self.channels
        self.depthwise = self.add_kernel(
            "depthwise",
            (self.kernel_size, self.kernel_size, width, 1),
            self.kernel_size**2,
        )
        self.pointwise = ConvBatchNorm(
            width,
            groups=self.groups,
            affine=self.affine,
            **self.inherited,
            name="pointwise",
        )
        self.pointwise.build((*input_shape[:-1], width))
        self.built = True

    def call(self, x, scale=None, dilation=1, training=False):
        kernel = tf.cast(self.depthwise.value, x.dtype)
        if dilation == 1:
            x = kernels.depthwise_conv2d(x, kernel, self.stride)
        else:
            x = tf.nn.depthwise_conv2d(
                x, kernel, [1, 1, 1, 1], "SAME", dilations=[dilation, dilation]
            )
        return self.pointwise(x, scale=scale, training=training)


class SeparableConv(_Separable):
    """Two separable blocks with a ReLU between; the first takes the stride.

    Args and call arguments are those of `SeparableBlock`; `scale` is the second
    normalisation's.
    """

    def build(self, input_shape):
        self.first, self.second = (
            SeparableBlock(
                self.channels,
                self.kernel_size,
                stride,
                self.groups,
                self.affine,
                **self.inherited,
                name=name,
            )
            for name, stride in (("first", self.stride), ("second", 1))
        )
        self.first.build(input_shape)
        self.second.build(input_shape)
        self.built = True

    def call(self, x, scale=None, training=False):
        x = tf.nn.relu(self.first(x, training=training))
        return self.second(x, scale=scale, training=training)


class RectangularBlock(Block):
    """A 1x7 convolution, a 7x1 convolution, batch normalisation.

    Args:
        channels: channels of one group, in and out.
        stride: 1 or 2; horizontal in the first convolution, vertical in the second.
        groups: number of channel groups.
        affine: whether the normalisation has a trainable scale and offset.

    Call arguments:
        x: (batch, height, width, groups * channels).
        scale, training: as in `ConvBatchNorm`.
    """

    def __init__(
        self,
        channels: int,
        stride: int = 1,
        groups: int = 1,
        affine: bool = False,
        **kwargs: Any,
    ):
        super().__init__(**kwargs)
        self.channels = channels
        self.stride = stride
        self.groups = groups
        self.affine = affine

    def build(self, input_shape):
        width = self.groups * self.channels
        self.horizontal = self.add_kernel(
            "horizontal", (1, 7, self.channels, width), 7 * self.channels
        )
        self.vertical = ConvBatchNorm(
            width,
            kernel_size=(7, 1),
            strides=(self.stride, 1),
            groups=self.groups,
            affine=self.affine,
            **self.inherited,
            name="vertical",
        )
        self.vertical.build((*input_shape[:-1], width))
        self.built = True

    def call(self, x, scale=None, training=False):
        kernel = tf.cast(self.horizontal.value, x.dtype)
        x = kernels.grouped_conv2d(x, kernel, self.groups, (1, self.stride))
        return self.vertical(x, scale=scale, training=training)


class Preprocess(Block):
    """Adapts a cell's input to the channels and the resolution of the cell.

    ReLU, 1x1 convolution and batch normalisation; or, where the resolution must be
    halved, a factorized reduction, whose two halves are one grouped convolution.

    Args:
        channels: output channels.
        halve: whether height and width are halved.
        affine: whether the normalisation has a trainable scale and offset.
    """

    def __init__(self, channels: int, halve: bool, affine: bool = False, **kwargs: Any):
        super().__init__(**kwargs)
        self.channels = channels
        self.halve = halve
        self.affine = affine

    def build(self, input_shape):
        groups = 2 if self.halve else 1
        self.convolution = ConvBatchNorm(
            self.channels,
            groups=groups,
            affine=self.affine,
            **self.inherited,
            name="convolution",
        )
        self.convolution.build((*input_shape[:-1], groups * input_shape[-1]))
        self.built = True

    def call(self, x, training=False):
        x = tf.nn.relu(x)
        if self.halve:
            x = kernels.shifted_halves(x)
        return self.convolution(x, training=training)
