"""Stateless tensor kernels with PyTorch's geometry, chosen for speed in TensorFlow.

All tensors are NHWC. A stride-2 window starts at ``-padding`` as in PyTorch, which
TensorFlow's ``SAME`` does not do on even sizes, so strided kernels pad by hand.
Every kernel here is differentiable twice.
"""

import functools

import numpy as np
import tensorflow as tf

from advrush_tf.custom_gradient import custom_gradient
from advrush_tf.nn.constants import constant

_ONE = [1, 1, 1, 1]


@functools.cache
def has_grouped_convolution(dtype: str) -> bool:
    """Returns whether this machine differentiates grouped convolutions of `dtype`.

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
    if kernel.shape[:2] == (1, 1) and strides == (2, 2):
        # oneDNN's kernel gradient is wrong for few channels where a stride leaves the
        # last pixels out.
        x, strides = every_second(x, 0), (1, 1)
    if strides != (1, 1):
        x, padding = pad_symmetric(x, kernel.shape[0], kernel.shape[1]), "VALID"
    if groups == 1 or has_grouped_convolution(x.dtype.name):
        return tf.nn.conv2d(x, kernel, strides, padding)
    parts = zip(tf.split(x, groups, -1), tf.split(kernel, groups, -1), strict=True)
    return tf.concat([tf.nn.conv2d(a, k, strides, padding) for a, k in parts], -1)


def pad_symmetric(x: tf.Tensor, kh: int, kw: int, value: float = 0.0) -> tf.Tensor:
    """Pads height and width by (k - 1) / 2 on each side with `value`.

    Of images of known size, with gradients that compute no shapes at run time.
    """
    height, width, channels = x.shape[1:]
    ph, pw = kh // 2, kw // 2
    if None in (height, width, channels):
        borders = [[0, 0], [ph, ph], [pw, pw], [0, 0]]
        return tf.pad(x, borders, constant_values=value)
    paddings = constant(((0, 0), (ph, ph), (pw, pw), (0, 0)))
    begin, size = constant((0, ph, pw, 0)), constant((-1, height, width, channels))

    @custom_gradient
    def pad(x):
        y = tf.raw_ops.PadV2(
            input=x, paddings=paddings, constant_values=constant(value, x.dtype)
        )
        return y, crop

    @custom_gradient
    def crop(y):
        return tf.slice(y, begin, size), lambda dx: tf.pad(dx, paddings)

    return pad(x)


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


@custom_gradient
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
            filter_sizes=constant(tuple(kernel.shape)),
            out_backprop=dy,
            strides=_ONE,
            **padding,
        )
        reversed_kernel = tf.raw_ops.ReverseV2(tensor=kernel, axis=constant((0, 1)))
        return _depthwise_same(dy, reversed_kernel), dkernel

    y = tf.raw_ops.DepthwiseConv2dNative(
        input=x, filter=kernel, strides=_ONE, padding="SAME"
    )
    return y, gradient


def max_pool_3x3(x: tf.Tensor, stride: int = 1) -> tf.Tensor:
    """3x3 max pooling; the border counts as minus infinity.

    Padded by hand at stride 1 too: TensorFlow's CPU kernel of the second derivative may
    write its result over an input of the same size that it still reads.
    """
    x = tf.convert_to_tensor(x)
    return tf.nn.max_pool2d(pad_symmetric(x, 3, 3, x.dtype.min), 3, stride, "VALID")


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
    return concat_channels(every_second(x, 0), every_second(x, 1))


def every_second(x: tf.Tensor, first: int) -> tf.Tensor:
    """Every second pixel of every second row, from `first` (0 or 1) on.

    Beyond an odd border there are zeros. A plain slice of the reshaped tensor, whose
    gradient is a padding, is much faster than a strided slice, and XLA differentiates
    it twice.

    Args:
        x: (batch, height, width, channels).
        first: 0 or 1.

    Returns:
        (batch, ceil(height / 2), ceil(width / 2), channels).
    """
    height, width, channels = x.shape[1:]
    if height % 2 or width % 2:
        x = tf.pad(x, [[0, 0], [0, height % 2], [0, width % 2], [0, 0]])
    rows, columns = -(-height // 2), -(-width // 2)
    x = tf.reshape(x, constant((-1, rows, 2, columns, 2 * channels)))
    begin = constant((0, 0, first, 0, first * channels))
    size = constant((-1, -1, 1, -1, channels))
    before, after = first, 1 - first
    rest = (
        (0, 0),
        (0, 0),
        (before, after),
        (0, 0),
        (before * channels, after * channels),
    )

    @custom_gradient
    def cut(x):
        return tf.slice(x, begin, size), restore

    @custom_gradient
    def restore(y):
        return tf.pad(y, constant(rest)), cut

    return tf.reshape(cut(x), constant((-1, rows, columns, channels)))


@custom_gradient
def concat_channels(*tensors: tf.Tensor):
    """Concatenates along the channels; the gradient is one split.

    The registered gradient computes shapes and offsets at run time, which costs more
    graph nodes than the network itself.
    """
    sizes = constant(tuple(x.shape[-1] for x in tensors))
    y = tf.concat(tensors, constant(-1))
    return y, lambda dy: tf.split(dy, sizes, constant(-1))


def repeat_channels(x: tf.Tensor, times: int) -> tf.Tensor:
    """Concatenates `times` copies along the channels."""

    @custom_gradient
    def repeat(x):
        y = tf.concat([x] * times, constant(-1))
        return y, lambda dy: tf.add_n(tf.split(dy, times, constant(-1)))

    return repeat(x) if times > 1 else x


@custom_gradient
def already_scaled(x: tf.Tensor, scale: tf.Tensor):
    """Returns `x`, which already holds a factor, with its derivatives in that factor.

    To scale a convolution's kernel costs nothing, but its derivative in the scale is
    that of the kernel, which takes longer than a sum over the result. With the scale
    constant in the kernel, this gives all derivatives of the product in its place.

    Args:
        x: (batch, height, width, channels), `scale` times what does not depend on it.
        scale: (channels,); where it is 0 its derivative is 0, as behind a softmax.
    """

    def gradient(dy):
        products = tf.reduce_sum(tf.cast(dy * x, scale.dtype), constant((0, 1, 2)))
        # The other factor of `x` stays, whatever the scale.
        factor = tf.stop_gradient(scale)
        return already_scaled(dy, scale), tf.math.divide_no_nan(products, factor)

    return x, gradient


@custom_gradient
def add_bias(x: tf.Tensor, bias: tf.Tensor):
    """Adds (channels,) to every pixel.

    The registered gradient sums in an order that changes from run to run, and a resumed
    search would not repeat to the bit.
    """

    def gradient(dy):
        return dy, tf.reduce_sum(dy, constant((0, 1, 2)))

    return tf.raw_ops.BiasAdd(value=x, bias=bias), gradient
