"""Stateless tensor kernels with PyTorch's geometry, chosen for speed in TensorFlow.

All tensors are NHWC. A stride-2 window starts at ``-padding`` as in PyTorch, which
TensorFlow's ``SAME`` does not do on even sizes, so strided kernels pad by hand.
Every kernel here is differentiable twice.
"""

import functools

import numpy as np
import tensorflow as tf

BN_EPSILON = 1e-5
BN_MOMENTUM = 0.9  # Weight of the old running average (PyTorch's 1 - 0.1).
_ONE = [1, 1, 1, 1]


@functools.cache
def has_grouped_convolution(dtype: str) -> bool:
    """Whether this machine differentiates grouped convolutions of `dtype`.

    CPUs do so only through oneDNN, and never in float64; asking the machine is more
    reliable than knowing every build.
    """
    with tf.init_scope():
        try:
            tf.raw_ops.Conv2DBackpropInput(
                input_sizes=(1, 2, 2, 2),
                filter=tf.ones((1, 1, 1, 2), dtype),
                out_backprop=tf.ones((1, 2, 2, 2), dtype),
                strides=_ONE,
                padding="SAME",
            )
        except tf.errors.OpError:
            return False
    return True


def grouped_conv2d(
    x: tf.Tensor,
    kernel: tf.Tensor,
    groups: int = 1,
    strides: tuple[int, int] = (1, 1),
) -> tf.Tensor:
    """Convolution in `groups` equal channel groups, padded as in PyTorch.

    Args:
        x: (batch, height, width, groups * c_in).
        kernel: (kh, kw, c_in, groups * c_out), with odd kh and kw.
        groups: number of channel groups; group g reads input block g.
        strides: vertical and horizontal stride.

    Returns:
        (batch, ceil(height / stride), ceil(width / stride), groups * c_out).
    """
    padding = "SAME"
    if strides != (1, 1):
        x, padding = pad_symmetric(x, kernel.shape[0], kernel.shape[1]), "VALID"
    if groups == 1 or has_grouped_convolution(x.dtype.name):
        return tf.nn.conv2d(x, kernel, strides, padding)
    parts = zip(tf.split(x, groups, -1), tf.split(kernel, groups, -1), strict=True)
    return tf.concat([tf.nn.conv2d(a, k, strides, padding) for a, k in parts], -1)


def pad_symmetric(x: tf.Tensor, kh: int, kw: int, value: float = 0.0) -> tf.Tensor:
    """Pads height and width by (k - 1) / 2 on each side with `value`."""
    ph, pw = kh // 2, kw // 2
    return tf.pad(x, [[0, 0], [ph, ph], [pw, pw], [0, 0]], constant_values=value)


def depthwise_conv2d(x: tf.Tensor, kernel: tf.Tensor, stride: int = 1) -> tf.Tensor:
    """Depthwise convolution, padded as in PyTorch.

    Args:
        x: (batch, height, width, channels).
        kernel: (k, k, channels, 1), k odd.
        stride: 1 or 2.

    Returns:
        (batch, ceil(height / stride), ceil(width / stride), channels).
    """
    if stride == 1:
        return _depthwise_same(x, kernel)
    x = pad_symmetric(x, kernel.shape[0], kernel.shape[1])
    return tf.nn.depthwise_conv2d(x, kernel, [1, stride, stride, 1], "VALID")


@tf.custom_gradient
def _depthwise_same(x, kernel):
    """Stride 1, with cheaper gradients than the registered ones.

    The transpose of a symmetrically padded correlation is the correlation with the
    reversed kernel, which is a third faster than the input-gradient kernel. oneDNN's
    kernel gradient is slow from 5x5 on; explicit padding selects TensorFlow's own.
    """
    x, kernel = tf.convert_to_tensor(x), tf.convert_to_tensor(kernel)
    size = kernel.shape[0]

    def gradient(dy):
        half = size // 2
        padding = (
            {"padding": "SAME"}
            if size <= 3
            else {
                "padding": "EXPLICIT",
                "explicit_paddings": [0, 0, half, half, half, half, 0, 0],
            }
        )
        dkernel = tf.raw_ops.DepthwiseConv2dNativeBackpropFilter(
            input=x,
            filter_sizes=kernel.shape,
            out_backprop=dy,
            strides=_ONE,
            **padding,
        )
        return _depthwise_same(dy, tf.reverse(kernel, [0, 1])), dkernel

    return tf.nn.depthwise_conv2d(x, kernel, _ONE, "SAME"), gradient


def max_pool_3x3(x: tf.Tensor, stride: int = 1) -> tf.Tensor:
    """3x3 max pooling; the border counts as minus infinity."""
    if stride == 1:
        return tf.nn.max_pool2d(x, 3, 1, "SAME")
    x = pad_symmetric(x, 3, 3, x.dtype.min)
    return tf.nn.max_pool2d(x, 3, stride, "VALID")


def avg_pool_3x3(x: tf.Tensor, stride: int = 1) -> tf.Tensor:
    """3x3 average pooling over the real pixels of each window (padding not counted)."""
    if stride == 1:
        return tf.nn.avg_pool2d(x, 3, 1, "SAME")
    pooled = tf.nn.avg_pool2d(pad_symmetric(x, 3, 3), 3, stride, "VALID")
    rows, columns = (_window_counts(x.shape[axis], stride) for axis in (1, 2))
    share = 9.0 / np.outer(rows, columns)
    return pooled * tf.constant(share[None, :, :, None], x.dtype)


def _window_counts(size: int, stride: int) -> np.ndarray:
    """Number of real pixels in each 3-wide window along one axis."""
    starts = np.arange(0, size, stride) - 1
    return np.minimum(starts + 3, size) - np.maximum(starts, 0)


def shifted_halves(x: tf.Tensor) -> tf.Tensor:
    """The two inputs of a factorized reduction, one after the other in the channels.

    Args:
        x: (batch, height, width, channels).

    Returns:
        (batch, ceil(height / 2), ceil(width / 2), 2 * channels): every second pixel
        from the first one, then from the second one (zeros beyond an odd border).
    """
    bottom, right = x.shape[1] % 2, x.shape[2] % 2
    shifted = x[:, 1:, 1:] if not bottom and not right else tf.pad(
        x, [[0, 0], [0, bottom], [0, right], [0, 0]]
    )[:, 1:, 1:]
    return tf.concat([x[:, ::2, ::2], shifted[:, ::2, ::2]], -1)


def batch_normalize(
    x: tf.Tensor, scale: tf.Tensor, offset: tf.Tensor
) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
    """Normalises by the batch's own statistics, then scales and shifts.

    Args:
        x: (batch, height, width, channels).
        scale: (channels,).
        offset: (channels,).

    Returns:
        The normalised tensor, the batch mean and the *unbiased* batch variance (what
        PyTorch feeds to its running average).
    """
    if x.dtype != tf.float64:
        none = tf.zeros((0,), scale.dtype)
        fused = tf.raw_ops.FusedBatchNormV3(
            x=x, scale=scale, offset=offset, mean=none, variance=none,
            epsilon=BN_EPSILON, is_training=True,
        )  # fmt: skip
        return fused.y, fused.batch_mean, fused.batch_variance
    mean, variance = tf.nn.moments(x, [0, 1, 2])
    normalised = (x - mean) * (scale * tf.math.rsqrt(variance + BN_EPSILON)) + offset
    count = tf.cast(tf.size(x) / tf.size(mean), x.dtype)
    return normalised, mean, variance * (count / tf.maximum(count - 1, 1))
