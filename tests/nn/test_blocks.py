import numpy as np
import pytest
import tensorflow as tf

from advrush_tf.nn import blocks

CHANNELS, GROUPS = 2, 3
WIDTH = CHANNELS * GROUPS


def _conv(**options):
    return blocks.ConvBatchNorm(9, (3, 3), (2, 2), GROUPS, **options)


def _separable(**options):
    return blocks.SeparableBlock(CHANNELS, 5, 2, GROUPS, **options)


def _twice_separable(**options):
    return blocks.SeparableConv(CHANNELS, 3, 2, GROUPS, **options)


def _rectangular(**options):
    return blocks.RectangularBlock(CHANNELS, 2, GROUPS, **options)


# Each block with its output channels and its numbers of trainable and other values.
BLOCKS = {
    "conv": (_conv, 9, 3 * 3 * CHANNELS * 9, 2 * 9),
    "separable": (_separable, WIDTH, 25 * WIDTH + CHANNELS * WIDTH, 2 * WIDTH),
    "twice_separable": (
        _twice_separable,
        WIDTH,
        2 * (9 * WIDTH + CHANNELS * WIDTH),
        4 * WIDTH,
    ),
    "rectangular": (_rectangular, WIDTH, 2 * 7 * CHANNELS * WIDTH, 2 * WIDTH),
}
NORMALISATIONS = {"twice_separable": 2}


@pytest.fixture(params=BLOCKS)
def case(request):
    return request.param


@pytest.fixture
def x():
    return tf.constant(np.random.default_rng(0).normal(size=(4, 6, 8, WIDTH)))


def _built(case, **options):
    layer = BLOCKS[case][0](dtype="float64", **options)
    layer.build((None, 6, 8, WIDTH))
    return layer


def _randomize(layer):
    rng = np.random.default_rng(1)
    for variable in layer.weights:
        variable.assign(rng.uniform(0.3, 1.7, variable.shape))


def _count(variables):
    return sum(int(np.prod(v.shape)) for v in variables)


@pytest.mark.parametrize("training", [False, True])
def test_output_shapes(case, x, training):
    y = _built(case)(x, training=training)
    assert y.shape == (4, 3, 4, BLOCKS[case][1])
    assert y.dtype == tf.float64


def test_numbers_of_parameters(case):
    _, filters, trainable, other = BLOCKS[case]
    plain, affine = _built(case), _built(case, affine=True)
    assert _count(plain.trainable_variables) == trainable
    assert _count(plain.non_trainable_variables) == other
    added = 2 * filters * NORMALISATIONS.get(case, 1)
    assert _count(affine.trainable_variables) == trainable + added


def _by_hand(x, kernel, strides, groups):
    """Convolution, group by group, on a symmetrically padded input."""
    kh, kw = kernel.shape[0] // 2, kernel.shape[1] // 2
    x = np.pad(x, [(0, 0), (kh, kh), (kw, kw), (0, 0)])
    pairs = zip(np.split(x, groups, -1), np.split(kernel, groups, -1), strict=True)
    return np.concatenate(
        [tf.nn.conv2d(part, k, strides, "VALID") for part, k in pairs], -1
    )


@pytest.mark.parametrize("affine", [False, True])
def test_inference_folds_the_running_statistics(x, affine):
    layer = _built("conv", affine=affine)
    _randomize(layer)
    y = _by_hand(x.numpy(), layer.kernel.numpy(), (2, 2), GROUPS)
    mean, variance = layer.moving_mean.numpy(), layer.moving_variance.numpy()
    expected = (y - mean) / np.sqrt(variance + 1e-5)
    if affine:
        expected = expected * layer.gamma.numpy() + layer.beta.numpy()
    np.testing.assert_allclose(layer(x, training=False), expected, atol=1e-12)


@pytest.mark.parametrize("training", [False, True])
def test_scale_multiplies_the_normalised_output(case, x, training):
    layer = _built(case)
    _randomize(layer)
    scale = np.random.default_rng(2).normal(size=BLOCKS[case][1])
    weights = layer.get_weights()
    plain = layer(x, training=training)
    layer.set_weights(weights)
    scaled = layer(x, scale=tf.constant(scale), training=training)
    np.testing.assert_allclose(scaled, plain * scale, atol=1e-12)


@pytest.mark.parametrize("affine", [False, True])
def test_training_normalises_and_records_by_hand(x, affine):
    layer = _built("conv", affine=affine)
    _randomize(layer)
    old_mean, old_variance = layer.moving_mean.numpy(), layer.moving_variance.numpy()
    y = _by_hand(x.numpy(), layer.kernel.numpy(), (2, 2), GROUPS)
    axes = (0, 1, 2)
    mean = y.mean(axes)
    expected = (y - mean) / np.sqrt(y.var(axes) + 1e-5)
    if affine:
        expected = expected * layer.gamma.numpy() + layer.beta.numpy()
    np.testing.assert_allclose(layer(x, training=True), expected, atol=1e-12)
    for variable, old, batch in (
        (layer.moving_mean, old_mean, mean),
        (layer.moving_variance, old_variance, y.var(axes, ddof=1)),
    ):
        expected = 0.9 * old + 0.1 * batch
        np.testing.assert_allclose(variable.numpy(), expected, rtol=1e-12)


def test_inference_leaves_the_running_statistics_alone(case, x):
    layer = _built(case)
    _randomize(layer)
    before = layer.get_weights()
    layer(x, training=False)
    for old, new in zip(before, layer.get_weights(), strict=True):
        np.testing.assert_array_equal(old, new)


def test_kernels_start_within_pytorch_bounds():
    layer = blocks.ConvBatchNorm(400, (3, 3))
    layer.build((None, 8, 8, 4))
    values, limit = layer.kernel.numpy(), 1 / np.sqrt(3 * 3 * 4)
    assert 0.99 * limit < np.abs(values).max() <= limit
    assert values.std() == pytest.approx(limit / np.sqrt(3), rel=0.02)


@pytest.mark.parametrize("training", [False, True])
def test_half_precision_keeps_the_variables_in_float32(case, x, training):
    layer = BLOCKS[case][0](dtype="mixed_bfloat16")
    layer.build(x.shape)
    y = layer(tf.cast(x, tf.bfloat16), training=training)
    assert y.dtype == tf.bfloat16
    assert {v.dtype for v in layer.weights} == {"float32"}
    exact = BLOCKS[case][0](dtype="float32")
    exact.build(x.shape)
    exact.set_weights(layer.get_weights())
    reference = exact(tf.cast(x, tf.float32), training=training)
    np.testing.assert_allclose(y, reference, rtol=0.02, atol=0.03)


def test_dense_layers_start_as_pytorchs():
    dense, limit = blocks.build_dense(300, 64, "float32", "classifier"), 1 / 8
    for values in (dense.kernel.numpy(), dense.bias.numpy()):
        assert 0.98 * limit < np.abs(values).max() <= limit
        assert values.std() == pytest.approx(limit / np.sqrt(3), rel=0.1)
    assert abs(np.corrcoef(dense.kernel[0], dense.bias)[0, 1]) < 0.3
