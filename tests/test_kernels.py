import functools

import numpy as np
import pytest
import tensorflow as tf

from advrush_tf import kernels

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


def _numpy_batch_norm(x, scale, offset):
    x = np.float64(x)
    mean, variance = x.mean((0, 1, 2)), x.var((0, 1, 2))
    y = (x - mean) / np.sqrt(variance + 1e-5) * scale + offset
    return y, mean, x.var((0, 1, 2), ddof=1)


# Sizes that cut into four parts and one that does not.
@pytest.mark.parametrize("size", [(4, 4), (6, 2), (5, 3)])
@pytest.mark.parametrize(
    ("dtype", "tolerance"), [("float64", 1e-13), ("float32", 1e-6)]
)
def test_batch_normalisation_equals_numpy(rng, size, dtype, tolerance):
    x = rng.normal(size=(3, *size, 5)).astype(dtype)
    scale, offset = rng.normal(size=(2, 5)).astype(dtype)
    results = kernels.batch_normalize(*map(tf.constant, (x, scale, offset)))
    for actual, expected in zip(
        results, _numpy_batch_norm(x, scale, offset), strict=True
    ):
        assert actual.dtype == dtype
        np.testing.assert_allclose(actual, expected, rtol=0, atol=4 * tolerance)


def test_batch_normalisation_of_an_unknown_batch_size(rng):
    x = rng.normal(size=(3, 4, 4, 5))
    signature = [tf.TensorSpec((None, 4, 4, 5), tf.float64)]
    traced = tf.function(kernels.batch_normalize, input_signature=signature)
    results, expected = traced(tf.constant(x)), _numpy_batch_norm(x, 1, 0)
    for actual, value in zip(results, expected, strict=True):
        np.testing.assert_allclose(actual, value, atol=1e-13)


def test_statistics_are_accurate_in_float32(rng):
    # 32768 values a channel, far from zero: one running float32 sum is off by 3e-6.
    x = (rng.normal(size=(32, 32, 32, 16)) + 4).astype(np.float32)
    _, mean, variance = kernels.batch_normalize(tf.constant(x))
    _, expected_mean, expected_variance = _numpy_batch_norm(x, 1, 0)
    np.testing.assert_allclose(mean, expected_mean, rtol=1e-6)
    np.testing.assert_allclose(variance, expected_variance, rtol=1e-6)


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
    "repeat": (lambda x: kernels.repeat_channels(x, 3), [(2, 3, 3, 2)]),
    "concat": (kernels.concat_channels, [(2, 3, 3, 2), (2, 3, 3, 3)]),
    "batch_norm": (
        lambda *args: kernels.batch_normalize(*args)[0],
        [(3, 4, 4, 3), (3,), (3,)],
    ),
    "batch_norm_scaled": (
        lambda x, scale: kernels.batch_normalize(x, scale)[0],
        [(3, 4, 4, 3), (3,)],
    ),
    "batch_norm_plain": (lambda x: kernels.batch_normalize(x)[0], [(3, 4, 4, 3)]),
}


def _first(function, inputs):
    """A scalar of the outputs with curvature in every one, and its gradients."""
    with tf.GradientTape() as tape:
        tape.watch(inputs)
        y = function(*inputs)
        phase = tf.cast(tf.reshape(tf.range(tf.size(y)), tf.shape(y)), y.dtype)
        value = tf.reduce_sum(tf.sin(y + phase))
    return value, tape.gradient(value, inputs)


def _second(function, inputs):
    """A scalar of the first gradients, and its gradients."""
    with tf.GradientTape() as tape:
        tape.watch(inputs)
        gradients = _first(function, inputs)[1]
        value = tf.add_n([tf.reduce_sum(tf.sin(3 * g)) for g in gradients])
    return value, tape.gradient(value, inputs)


def _check_against_differences(scalar, compiled, inputs, rng, step=1e-6):
    directions = [rng.normal(size=x.shape) for x in inputs]
    ends = [
        scalar([x + side * step * d for x, d in zip(inputs, directions, strict=True)])
        for side in (1, -1)
    ]
    difference = float(ends[0][0] - ends[1][0]) / (2 * step)
    gradients = compiled(inputs)[1]
    along = sum(np.sum(g * d) for g, d in zip(gradients, directions, strict=True))
    assert abs(difference) > 1e-3
    assert along == pytest.approx(difference, rel=1e-6)


def _inputs(name, rng, dtype=tf.float64):
    return [tf.constant(rng.normal(size=s), dtype) for s in KERNELS[name][1]]


@pytest.mark.parametrize("name", KERNELS)
@pytest.mark.parametrize("order", [_first, _second])
@pytest.mark.parametrize("traced", [False, True])
def test_gradients_against_finite_differences(rng, name, order, traced):
    scalar = functools.partial(order, KERNELS[name][0])
    compiled = tf.function(scalar) if traced else scalar
    _check_against_differences(scalar, compiled, _inputs(name, rng), rng)


@pytest.mark.parametrize("name", KERNELS)
@pytest.mark.parametrize("traced", [False, True])
def test_second_gradients_in_float32_equal_those_in_float64(rng, name, traced):
    inputs = _inputs(name, rng)
    scalar = functools.partial(_second, KERNELS[name][0])
    expected = scalar(inputs)[1]
    compiled = tf.function(scalar) if traced else scalar
    actual = compiled([tf.cast(x, tf.float32) for x in inputs])[1]
    for value, reference in zip(actual, expected, strict=True):
        scale = np.abs(reference).max()
        np.testing.assert_allclose(value, reference, rtol=0, atol=1e-4 * scale)


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


def _bent(function, inputs, rng):
    """First and second derivatives of a function, the latter along fixed numbers."""
    with tf.GradientTape() as outer:
        outer.watch(inputs)
        with tf.GradientTape() as inner:
            inner.watch(inputs)
            y = function(*inputs)
            weights = tf.cast(rng.normal(size=y.shape), y.dtype)
            value = tf.reduce_sum(weights * y * y)
        first = inner.gradient(value, inputs)
        along = [tf.cast(rng.normal(size=g.shape), g.dtype) for g in first]
        products = [
            tf.cast(tf.reduce_sum(a * g), tf.float64)
            for a, g in zip(along, first, strict=True)
        ]
        value = tf.add_n(products)
    return [*first, *outer.gradient(value, inputs)]


@pytest.mark.parametrize("name", KERNELS)
@pytest.mark.parametrize(
    ("dtype", "tolerance"), [("float16", 4e-3), ("bfloat16", 0.04)]
)
def test_both_derivatives_in_half_precision(name, dtype, tolerance):
    function, shapes = KERNELS[name]
    rng = np.random.default_rng(0)
    # Batch normalisation keeps its scale and offset in float32.
    kept = len(shapes) - 1 if name.startswith("batch_norm") else 0
    dtypes = [dtype] * (len(shapes) - kept) + ["float32"] * kept
    inputs = [
        tf.cast(rng.normal(size=s), d) for s, d in zip(shapes, dtypes, strict=True)
    ]
    got = _bent(function, inputs, np.random.default_rng(1))
    exact = [tf.cast(x, tf.float64) for x in inputs]
    for value, reference in zip(
        got, _bent(function, exact, np.random.default_rng(1)), strict=True
    ):
        assert value.dtype in (dtype, "float32")
        error = np.abs(tf.cast(value, tf.float64) - reference)
        assert np.max(error) <= tolerance * np.max(np.abs(reference))
