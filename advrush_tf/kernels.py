"""Stateless tensor kernels with PyTorch's geometry, chosen for speed in TensorFlow.

All tensors are NHWC. A stride-2 window starts at ``-padding`` as in PyTorch, which
TensorFlow's ``SAME`` does not do on even sizes, so strided kernels pad by hand.
Every kernel here is differentiable twice.
"""

import functools

import numpy as np
import tensorflow as tf

from advrush_tf import replication
from advrush_tf.constants import constant

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
    """3x3 max pooling; the border counts as minus infinity."""
    if stride == 1:
        return _max_pool(x, 1, "SAME")
    return _max_pool(pad_symmetric(x, 3, 3, x.dtype.min), stride, "VALID")


def _max_pool(x: tf.Tensor, stride: int, padding: str) -> tf.Tensor:
    """Max pooling without TensorFlow's second derivative, which is wrong.

    The CPU kernel MaxPoolGradGrad may write its result over the input it still reads:
    in a graph, at stride 1, single values come out wrong. A gather replaces it.
    """

    @tf.custom_gradient
    def pool(x):
        y = tf.nn.max_pool2d(x, 3, stride, padding)
        return y, lambda dy: pool_gradient(dy, x, y)

    @tf.custom_gradient
    def pool_gradient(dy, x, y):
        dx = tf.raw_ops.MaxPoolGrad(
            orig_input=x,
            orig_output=y,
            grad=dy,
            ksize=[1, 3, 3, 1],
            strides=[1, stride, stride, 1],
            padding=padding,
        )

        def second(ddx):
            _, largest = tf.nn.max_pool_with_argmax(
                x, 3, stride, padding, include_batch_in_index=True
            )
            return tf.gather(tf.reshape(ddx, [-1]), largest), None, None

        return dx, second

    return pool(x)


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

    @tf.custom_gradient
    def cut(x):
        return tf.slice(x, begin, size), restore

    @tf.custom_gradient
    def restore(y):
        return tf.pad(y, constant(rest)), cut

    return tf.reshape(cut(x), constant((-1, rows, columns, channels)))


@tf.custom_gradient
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

    @tf.custom_gradient
    def repeat(x):
        y = tf.concat([x] * times, constant(-1))
        return y, lambda dy: tf.add_n(tf.split(dy, times, constant(-1)))

    return repeat(x) if times > 1 else x


@tf.custom_gradient
def add_bias(x: tf.Tensor, bias: tf.Tensor):
    """Adds (channels,) to every pixel.

    The registered gradient sums in an order that changes from run to run, and a resumed
    search would not repeat to the bit.
    """

    def gradient(dy):
        return dy, tf.reduce_sum(dy, constant((0, 1, 2)))

    return tf.raw_ops.BiasAdd(value=x, bias=bias), gradient


def batch_normalize(
    x: tf.Tensor,
    scale: tf.Tensor | None = None,
    offset: tf.Tensor | None = None,
    synchronized: bool = False,
) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
    """Normalises by the batch's own statistics, then scales and shifts.

    Args:
        x: (batch, height, width, channels).
        scale: (channels,); None means ones.
        offset: (channels,); None means zeros.
        synchronized: whether the statistics are those of the batches of all replicas.

    Returns:
        The normalised tensor, the batch mean and the *unbiased* batch variance (what
        PyTorch feeds to its running average).
    """
    if synchronized and replication.num_replicas() > 1:
        return _synchronized_batch_norm(x, scale, offset)
    if x.dtype == tf.float64:
        return _plain_batch_norm(x, scale, offset)
    if tf.config.list_physical_devices("GPU"):
        return _fused_batch_norm(x, scale, offset)
    mean, variance = _accurate_moments(tf.stop_gradient(x))
    y = _normalize_by_moments(x, scale, offset, mean, variance)
    return y, mean, variance * _bessel(x)


def _plain_batch_norm(x, scale, offset):
    # Not tf.nn.moments: it stops the second derivative at the mean.
    mean = tf.reduce_mean(x, [0, 1, 2])
    variance = tf.reduce_mean(tf.square(x - mean), [0, 1, 2])
    y = (x - mean) * tf.math.rsqrt(variance + BN_EPSILON)
    y = y if scale is None else y * scale
    return y if offset is None else y + offset, mean, variance * _bessel(x)


def _synchronized_batch_norm(x, scale, offset):
    """As `_plain_batch_norm`, of the batches of all replicas together.

    Each replica's moments and count make one tensor, so that there is one exchange.
    """
    dtype = x.dtype if x.dtype.size > 2 else tf.float32
    z = tf.cast(x, dtype)
    own_mean = tf.reduce_mean(z, [0, 1, 2])
    own_variance = tf.reduce_mean(tf.square(z - own_mean), [0, 1, 2])
    pixels = tf.fill([x.shape[-1]], tf.cast(tf.size(x) // x.shape[-1], dtype))
    moments = replication.of_all(tf.stack([own_mean, own_variance, pixels]))
    means, variances, counts = tf.unstack(moments, axis=1)
    count = tf.reduce_sum(counts, 0)
    mean = tf.reduce_sum(counts * means, 0) / count
    spread = variances + tf.square(means - mean)
    variance = tf.reduce_sum(counts * spread, 0) / count
    factor = tf.math.rsqrt(variance + BN_EPSILON)
    y = (z - mean) * (factor if scale is None else factor * scale)
    y = y if offset is None else y + offset
    return tf.cast(y, x.dtype), mean, variance * count / tf.maximum(count - 1, 1)


def _bessel(x: tf.Tensor) -> tf.Tensor:
    """n / (n - 1) for the n values of a channel."""
    pixels = x.shape[1] * x.shape[2]
    dtype = x.dtype if x.dtype.size > 2 else tf.float32
    if x.shape[0] is not None:
        count = x.shape[0] * pixels
        return constant(count / max(count - 1, 1), dtype)
    count = tf.cast(tf.shape(x)[0] * pixels, dtype)
    return count / tf.maximum(count - 1, 1)


def _fused_batch_norm(x, scale, offset):
    empty = constant(0.0, tf.float32, (0,))
    fused = tf.raw_ops.FusedBatchNormV3(
        x=x,
        **_affine(x, scale, offset),
        mean=empty,
        variance=empty,
        epsilon=BN_EPSILON,
        is_training=True,
    )
    return fused.y, fused.batch_mean, fused.batch_variance


def _affine(x, scale, offset) -> dict[str, tf.Tensor]:
    shape = (x.shape[-1],)
    return {
        "scale": constant(1.0, tf.float32, shape) if scale is None else scale,
        "offset": constant(0.0, tf.float32, shape) if offset is None else offset,
    }


def _accurate_moments(x: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    """Mean and biased variance over all but the channels, by two-level summation.

    The CPU kernels add all values of a channel one after the other in float32; the
    error flips ReLUs that PyTorch, which adds in float64, leaves alone. Here they add
    a quarter of the values each, and the parts are joined.
    """
    channels = x.shape[-1]
    parts = 4 if x.shape[1] * x.shape[2] % 4 == 0 else 1
    rows = tf.reshape(x, constant((1, -1, 1, parts * channels)))
    _, means, variances = _fused_batch_norm(rows, None, None)
    shape = constant((parts, channels))
    means = tf.reshape(means, shape)
    within = tf.reshape(variances / _bessel(rows), shape)
    mean = tf.reduce_mean(means, constant(0))
    between = tf.math.squared_difference(means, mean)
    return mean, tf.reduce_mean(within + between, constant(0))


def _normalize_by_moments(x, scale, offset, mean, variance):
    """Batch normalisation by given batch statistics, differentiated through them."""
    given = {"scale": scale, "offset": offset}
    given = {name: value for name, value in given.items() if value is not None}
    affine = _affine(x, scale, offset)

    @tf.custom_gradient
    def normalize(x, *values):
        replaced = affine | dict(zip(given, values, strict=True))
        y = tf.raw_ops.FusedBatchNormV3(
            x=x,
            **replaced,
            mean=mean,
            variance=variance,
            epsilon=BN_EPSILON,
            is_training=False,
        ).y

        def gradient(dy):
            grads = tf.raw_ops.FusedBatchNormGradV3(
                y_backprop=dy,
                x=x,
                scale=replaced["scale"],
                reserve_space_1=mean,
                reserve_space_2=variance,
                reserve_space_3=constant(0.0, tf.float32, (0,)),
                epsilon=BN_EPSILON,
                is_training=True,
            )
            backprops = {"scale": grads.scale_backprop, "offset": grads.offset_backprop}
            return grads.x_backprop, *(backprops[name] for name in given)

        return y, gradient

    return normalize(x, *given.values())
