import functools

import numpy as np
import pytest
import tensorflow as tf

from advrush_tf.nn import kernels
from support.derivatives import (
    check_against_differences,
    check_half_precision,
    check_single_precision,
    first,
    second,
)

SIZES = [(6, 6), (7, 7), (6, 7), (5, 8)]


@pytest.fixture
def rng():
    return np.random.default_rng(0)


def _windows(x, kh, kw, strides, fill):
    """Yields (row, column, window) with PyTorch's symmetric padding."""
    border = [(0, 0), (kh // 2,) * 2, (kw // 2,) * 2, (0, 0)]
    padded = np.pad(x, border, constant_values=fill)
    for i, top in enumerate(range(0, x.shape[1], strides[0])):
        for j, left in enumerate(range(0, x.shape[2], strides[1])):
            yield i, j, padded[:, top : top + kh, left : left + kw]


def _empty(x, strides, channels):
    height, width = -(-x.shape[1] // strides[0]), -(-x.shape[2] // strides[1])
    return np.full((x.shape[0], height, width, channels), np.nan)


def _numpy_conv(x, kernel, groups, strides):
    kh, kw, c_in, filters = kernel.shape
    c_out = filters // groups
    result = _empty(x, strides, filters)
    for i, j, window in _windows(x, kh, kw, strides, 0.0):
        for g in range(groups):
            block = window[..., g * c_in : (g + 1) * c_in]
            part = slice(g * c_out, (g + 1) * c_out)
            result[:, i, j, part] = np.tensordot(block, kernel[..., part], 3)
    return result


def _numpy_depthwise(x, kernel, stride):
    result = _empty(x, (stride, stride), x.shape[-1])
    size = kernel.shape[0]
    for i, j, window in _windows(x, size, size, (stride, stride), 0.0):
        result[:, i, j] = (window * kernel[..., 0]).sum((1, 2))
    return result


def _numpy_pool(x, stride, reduce):
    result = _empty(x, (stride, stride), x.shape[-1])
    for i, j, window in _windows(x, 3, 3, (stride, stride), np.nan):
        result[:, i, j] = reduce(window, axis=(1, 2))
    return result


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("strides", [(1, 1), (2, 2), (1, 2), (2, 1)])
@pytest.mark.parametrize("kernel_size", [(1, 1), (3, 3), (5, 5), (1, 7), (7, 1)])
def test_convolution_equals_loops(rng, size, strides, kernel_size):
    x = rng.normal(size=(2, *size, 6))
    kernel = rng.normal(size=(*kernel_size, 2, 9))
    y = kernels.grouped_conv2d(tf.constant(x), tf.constant(kernel), 3, strides)
    np.testing.assert_allclose(y, _numpy_conv(x, kernel, 3, strides), atol=1e-12)


@pytest.mark.parametrize("strides", [(1, 1), (2, 2)])
def test_convolution_in_one_group_equals_loops(rng, strides):
    x, kernel = rng.normal(size=(2, 6, 7, 4)), rng.normal(size=(3, 3, 4, 5))
    y = kernels.grouped_conv2d(tf.constant(x), tf.constant(kernel), strides=strides)
    np.testing.assert_allclose(y, _numpy_conv(x, kernel, 1, strides), atol=1e-12)


@pytest.mark.parametrize("available", [True, False])
@pytest.mark.parametrize("strides", [(1, 1), (2, 2)])
def test_grouped_and_portable_convolutions_agree(rng, monkeypatch, available, strides):
    if available and not kernels.has_grouped_convolution("float32"):
        pytest.skip("this machine has no gradient of a grouped convolution")
    monkeypatch.setattr(kernels, "has_grouped_convolution", lambda dtype: available)
    x, kernel = rng.normal(size=(2, 6, 6, 6)), rng.normal(size=(3, 3, 2, 9))
    inputs = tuple(tf.constant(a, tf.float32) for a in (x, kernel))
    with tf.GradientTape() as tape:
        tape.watch(inputs)
        y = kernels.grouped_conv2d(inputs[0], inputs[1], 3, strides)
        total = tf.reduce_sum(y**2)
    gradients = tape.gradient(total, inputs)
    expected = _numpy_conv(x, kernel, 3, strides)
    np.testing.assert_allclose(y, expected, atol=1e-5)
    # d/dk of sum(y^2) along k is 2 sum(y^2), and so along x: y is bilinear.
    for value, gradient in zip(inputs, gradients, strict=True):
        along = np.sum(np.float64(value) * np.float64(gradient))
        assert along == pytest.approx(2 * np.sum(expected**2), rel=1e-5)


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("kernel_size", [3, 5, 7])
def test_depthwise_convolution_equals_loops(rng, size, stride, kernel_size):
    x = rng.normal(size=(2, *size, 3))
    kernel = rng.normal(size=(kernel_size, kernel_size, 3, 1))
    y = kernels.depthwise_conv2d(tf.constant(x), tf.constant(kernel), stride)
    np.testing.assert_allclose(y, _numpy_depthwise(x, kernel, stride), atol=1e-12)


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("stride", [1, 2])
def test_poolings_equal_loops(rng, size, stride):
    # All values are negative: a border of zeros would win every maximum.
    x = rng.normal(size=(2, *size, 3)) - 10
    largest = kernels.max_pool_3x3(tf.constant(x), stride)
    mean = kernels.avg_pool_3x3(tf.constant(x), stride)
    np.testing.assert_array_equal(largest, _numpy_pool(x, stride, np.nanmax))
    np.testing.assert_allclose(mean, _numpy_pool(x, stride, np.nanmean), rtol=1e-12)


def test_average_pooling_counts_real_pixels():
    x = np.zeros((1, 4, 4, 1))
    x[0, 0, 0, 0] = 36
    y = kernels.avg_pool_3x3(tf.constant(x), 2)[0, :, :, 0]
    # The corner window has 4 real pixels; the other ones miss the first pixel.
    np.testing.assert_allclose(y, [[9, 0], [0, 0]])
    y = kernels.avg_pool_3x3(tf.constant(x), 1)[0, :2, :2, 0]
    np.testing.assert_allclose(y, [[9, 6], [6, 4]])


@pytest.mark.parametrize("size", SIZES)
def test_shifted_halves(rng, size):
    x = rng.normal(size=(2, *size, 3))
    y = kernels.shifted_halves(tf.constant(x)).numpy()
    height, width = -(-size[0] // 2), -(-size[1] // 2)
    assert y.shape == (2, height, width, 6)
    for i in range(height):
        for j in range(width):
            np.testing.assert_array_equal(y[:, i, j, :3], x[:, 2 * i, 2 * j])
            inside = 2 * i + 1 < size[0] and 2 * j + 1 < size[1]
            expected = x[:, 2 * i + 1, 2 * j + 1] if inside else np.zeros((2, 3))
            np.testing.assert_array_equal(y[:, i, j, 3:], expected)


def test_concatenation_and_its_gradient(rng):
    parts = [tf.constant(rng.normal(size=(2, 3, 3, c))) for c in (1, 2, 4)]
    factor = rng.normal(size=(2, 3, 3, 7))
    with tf.GradientTape() as tape:
        tape.watch(parts)
        y = kernels.concat_channels(*parts)
        total = tf.reduce_sum(y * factor)
    np.testing.assert_array_equal(y, np.concatenate(parts, -1))
    gradients = tape.gradient(total, parts)
    np.testing.assert_array_equal(np.concatenate(gradients, -1), factor)


# Each kernel by name: the function and the shapes of what it is differentiated in.
KERNELS: dict[str, tuple] = {
    "conv": (kernels.grouped_conv2d, [(2, 4, 4, 4), (3, 3, 4, 3)]),
    "conv_groups": (
        lambda x, k: kernels.grouped_conv2d(x, k, 2),
        [(2, 4, 4, 4), (3, 3, 2, 6)],
    ),
    "conv_groups_strided": (
        lambda x, k: kernels.grouped_conv2d(x, k, 2, (2, 2)),
        [(2, 4, 5, 4), (3, 3, 2, 6)],
    ),
    "conv_1x7": (
        lambda x, k: kernels.grouped_conv2d(x, k, 2, (1, 2)),
        [(2, 5, 8, 4), (1, 7, 2, 4)],
    ),
    "conv_7x1": (
        lambda x, k: kernels.grouped_conv2d(x, k, 2, (2, 1)),
        [(2, 8, 5, 4), (7, 1, 2, 4)],
    ),
    **{
        f"depthwise_{size}_{stride}": (
            functools.partial(kernels.depthwise_conv2d, stride=stride),
            [(2, 6, 7, 3), (size, size, 3, 1)],
        )
        for size in (3, 5, 7)
        for stride in (1, 2)
    },
    **{
        f"{name}_{stride}": (functools.partial(pool, stride=stride), [(2, 6, 5, 3)])
        for name, pool in (
            ("max", kernels.max_pool_3x3),
            ("avg", kernels.avg_pool_3x3),
        )
        for stride in (1, 2)
    },
    "halves_even": (kernels.shifted_halves, [(2, 4, 6, 3)]),
    "halves_odd": (kernels.shifted_halves, [(2, 5, 4, 3)]),
    "bias": (kernels.add_bias, [(2, 4, 4, 3), (3,)]),
    "already_scaled": (
        lambda x, s: kernels.already_scaled(x * tf.stop_gradient(s), s),
        [(2, 4, 4, 3), (3,)],
    ),
    "repeat": (lambda x: kernels.repeat_channels(x, 3), [(2, 3, 3, 2)]),
    "concat": (kernels.concat_channels, [(2, 3, 3, 2), (2, 3, 3, 3)]),
}


@pytest.mark.parametrize("channels", [1, 2, 4, 8])
def test_strided_pointwise_convolution_and_its_gradients(channels):
    rng = np.random.default_rng(channels)
    x = rng.normal(size=(3, 8, 8, channels)).astype(np.float32)
    kernel = rng.normal(size=(1, 1, channels, 2)).astype(np.float32)
    dy = rng.normal(size=(3, 4, 4, 2)).astype(np.float32)
    with tf.GradientTape() as tape:
        tensors = tf.constant(x), tf.constant(kernel)
        tape.watch(tensors)
        y = kernels.grouped_conv2d(*tensors, strides=(2, 2))
    dx, dkernel = tape.gradient(y, tensors, output_gradients=tf.constant(dy))
    read = x[:, ::2, ::2]
    np.testing.assert_allclose(y, read @ kernel[0, 0], rtol=1e-4, atol=1e-5)
    expected = np.einsum("bhwi,bhwo->io", read, dy)
    np.testing.assert_allclose(dkernel[0, 0], expected, rtol=1e-4, atol=1e-4)
    expected = np.zeros_like(x)
    expected[:, ::2, ::2] = dy @ kernel[0, 0].T
    np.testing.assert_allclose(dx, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", KERNELS)
@pytest.mark.parametrize("order", [first, second])
@pytest.mark.parametrize("traced", [False, True])
def test_gradients_against_finite_differences(name, order, traced):
    check_against_differences(*KERNELS[name], order, traced)


@pytest.mark.parametrize("name", KERNELS)
@pytest.mark.parametrize("traced", [False, True])
def test_second_gradients_in_float32_equal_those_in_float64(name, traced):
    check_single_precision(*KERNELS[name], traced)


@pytest.mark.parametrize("name", KERNELS)
@pytest.mark.parametrize(
    ("dtype", "tolerance"), [("float16", 4e-3), ("bfloat16", 0.04)]
)
def test_both_derivatives_in_half_precision(name, dtype, tolerance):
    check_half_precision(*KERNELS[name], dtype, tolerance)


@pytest.mark.parametrize(
    ("function", "shapes"),
    [KERNELS["max_1"], KERNELS["max_2"], KERNELS["depthwise_3_2"]],
)
def test_images_of_unknown_size(function, shapes):
    inputs = [tf.random.stateless_normal(shape, (0, 0)) for shape in shapes]
    unknown = tf.TensorSpec((None, None, None, shapes[0][-1]))
    others = [tf.TensorSpec(shape) for shape in shapes[1:]]
    traced = tf.function(
        lambda *inputs: second(function, list(inputs))[1],
        input_signature=[unknown, *others],
    )
    for value, expected in zip(
        traced(*inputs), second(function, inputs)[1], strict=True
    ):
        np.testing.assert_allclose(value, expected, rtol=1e-4, atol=1e-4)
