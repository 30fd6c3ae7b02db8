"""Batch normalisation as PyTorch does it: its kernels and its running statistics.

A tensor is NHWC and its statistics are (channels,). Differentiable twice.
"""

import math

import keras
import tensorflow as tf

from advrush_tf import replication
from advrush_tf.custom_gradient import custom_gradient
from advrush_tf.nn.constants import constant

EPSILON = 1e-5
MOMENTUM = 0.9  # Weight of the old running average (PyTorch's 1 - 0.1).


def update_running(variable: keras.Variable, batch_value: tf.Tensor) -> None:
    """Moves a running statistic towards the batch's by 1 - MOMENTUM.

    Args:
        variable: (channels,), the mean or the variance, changed in place.
        batch_value: (channels,), of the batch; a variance is the unbiased one.
    """
    value = tf.convert_to_tensor(variable.value)  # Or each use below would read it.
    step = constant(1 - MOMENTUM, value.dtype)
    # Through Keras, whose stateless scope a recomputation uses.
    variable.assign(value - (value - batch_value) * step)


def inverse_deviation(variance: keras.Variable) -> tf.Tensor:
    """The factor of batch normalisation in inference mode, (channels,).

    Args:
        variance: (channels,), the running variance.
    """
    value = variance.value
    return tf.math.rsqrt(value + constant(EPSILON, value.dtype))


def batch_normalize(
    x: tf.Tensor,
    scale: tf.Tensor | None = None,
    offset: tf.Tensor | None = None,
    synchronized: bool = False,
) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
    """Normalises by the statistics of the batch, then scales and shifts.

    Args:
        x: (batch, height, width, channels).
        scale: (channels,); None means ones.
        offset: (channels,); None means zeros.
        synchronized: whether the statistics are those of the batches of all replicas.

    Returns:
        The normalised tensor, the batch mean and the *unbiased* batch variance, which
        PyTorch's running average takes.
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
    y = (x - mean) * tf.math.rsqrt(variance + EPSILON)
    y = y if scale is None else y * scale
    return y if offset is None else y + offset, mean, variance * _bessel(x)


def _synchronized_batch_norm(x, scale, offset):
    """`_plain_batch_norm` over the batches of all replicas together.

    The moments and the count of a replica form one tensor: one exchange is enough.
    """
    dtype = x.dtype if x.dtype.size > 2 else tf.float32
    z = tf.cast(x, dtype)
    own_mean = tf.reduce_mean(z, [0, 1, 2])
    own_variance = tf.reduce_mean(tf.square(z - own_mean), [0, 1, 2])
    pixels = tf.fill([x.shape[-1]], tf.cast(tf.size(x) // x.shape[-1], dtype))
    moments = replication.all_gather(tf.stack([own_mean, own_variance, pixels]))
    means, variances, counts = tf.unstack(moments, axis=1)
    count = tf.reduce_sum(counts, 0)
    mean = tf.reduce_sum(counts * means, 0) / count
    spread = variances + tf.square(means - mean)
    variance = tf.reduce_sum(counts * spread, 0) / count
    factor = tf.math.rsqrt(variance + EPSILON)
    y = (z - mean) * (factor if scale is None else factor * scale)
    y = y if offset is None else y + offset
    return tf.cast(y, x.dtype), mean, variance * count / tf.maximum(count - 1, 1)


def _bessel(x: tf.Tensor) -> tf.Tensor:
    """n / (n - 1) for the n values of a channel."""
    dtype = x.dtype if x.dtype.size > 2 else tf.float32
    if (known := x.shape[:-1].num_elements()) is not None:
        return constant(known / max(known - 1, 1), dtype)
    count = tf.cast(tf.size(x) // x.shape[-1], dtype)
    return count / tf.maximum(count - 1, 1)


def _fused_batch_norm(x, scale, offset):
    empty = constant(0.0, tf.float32, (0,))
    fused = tf.raw_ops.FusedBatchNormV3(
        x=x,
        **_affine(x, scale, offset),
        mean=empty,
        variance=empty,
        epsilon=EPSILON,
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

    The normalisation's own kernels add all values of a channel one after the other in
    float32; the error flips ReLUs that PyTorch, which adds in float64, leaves alone.
    Products with ones add up to 16 parts of the values apart, in half the time.
    """
    channels = x.shape[-1]
    values = tf.cast(tf.reshape(x, constant((-1, channels))), tf.float32)
    parts = math.gcd(x.shape[1] * x.shape[2], 16)
    mean = _mean_of_rows(values, parts)
    return mean, _mean_of_rows(tf.math.squared_difference(values, mean), parts)


def _mean_of_rows(values: tf.Tensor, parts: int) -> tf.Tensor:
    """Mean over the first axis, of which the size is a multiple of `parts`."""
    channels = values.shape[-1]
    rows = tf.reshape(values, constant((-1, parts * channels)))
    if (count := rows.shape[0]) is None:
        share = tf.fill(
            (1, tf.shape(rows)[0]), 1 / tf.cast(tf.shape(rows)[0], tf.float32)
        )
    else:
        share = constant(1 / count, tf.float32, (1, count))
    means = tf.reshape(tf.matmul(share, rows), constant((parts, channels)))
    return tf.reduce_mean(means, constant(0))


def _normalize_by_moments(x, scale, offset, mean, variance):
    """Batch normalisation by given batch statistics, differentiated through them."""
    given = {"scale": scale, "offset": offset}
    given = {name: value for name, value in given.items() if value is not None}
    affine = _affine(x, scale, offset)

    @custom_gradient
    def normalize(x, *values):
        replaced = affine | dict(zip(given, values, strict=True))
        y = tf.raw_ops.FusedBatchNormV3(
            x=x,
            **replaced,
            mean=mean,
            variance=variance,
            epsilon=EPSILON,
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
                epsilon=EPSILON,
                is_training=True,
            )
            backprops = {"scale": grads.scale_backprop, "offset": grads.offset_backprop}
            return grads.x_backprop, *(backprops[name] for name in given)

        return y, gradient

    return normalize(x, *given.values())
