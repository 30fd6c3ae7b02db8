"""Operations and cells against NumPy, written edge by edge from their definitions."""

import numpy as np
import pytest
import tensorflow as tf

from advrush_tf.genotypes.search_space import ALL_PRIMITIVES
from advrush_tf.nn.cell import FixedCell, Operation

CHANNELS = 4
OPERATIONS = [name for name in ALL_PRIMITIVES if name != "none"]
POOLINGS = ("max_pool_3x3", "avg_pool_3x3")
# Skips and pairs from the same state, poolings of negative values, a state that is read
# by one node only and one that no node reads.
NORMAL = [
    ("sep_conv_3x3", 0),
    ("skip_connect", 1),
    ("dil_conv_5x5", 0),
    ("max_pool_3x3", 2),
    ("avg_pool_3x3", 0),
    ("conv_7x1_1x7", 2),
]
REDUCE = [
    ("skip_connect", 0),
    ("dil_conv_3x3", 1),
    ("max_pool_3x3", 0),
    ("skip_connect", 2),
    ("sep_conv_5x5", 1),
    ("sep_conv_7x7", 3),
]


def _windows(x, size, strides=(1, 1), dilation=1, border=0.0):
    """Windows of odd sizes, centred on every stride-th pixel: (b, h, w, c, *size)."""
    reach = [dilation * (side - 1) for side in size]
    padding = [(0, 0), *((r // 2, r // 2) for r in reach), (0, 0)]
    x = np.pad(x, padding, constant_values=border)
    views = np.lib.stride_tricks.sliding_window_view(x, [r + 1 for r in reach], (1, 2))
    return views[:, :: strides[0], :: strides[1], :, ::dilation, ::dilation]


def _convolve(x, kernel, strides=(1, 1)):
    windows = _windows(x, kernel.shape[:2], strides)
    return np.einsum("bhwcij,ijco->bhwo", windows, kernel)


def _normalize(x, block, training):
    mean, variance = np.asarray(block.moving_mean), np.asarray(block.moving_variance)
    if training:
        mean, variance = x.mean((0, 1, 2)), x.var((0, 1, 2))
    scale = np.asarray(block.gamma) / np.sqrt(variance + 1e-5)
    return (x - mean) * scale + np.asarray(block.beta)


def _relu(x):
    return np.maximum(x, 0)


def _separable(x, block, training, stride=1, dilation=1):
    kernel = np.asarray(block.depthwise)
    windows = _windows(_relu(x), kernel.shape[:2], (stride, stride), dilation)
    x = np.einsum("bhwcij,ijcz->bhwc", windows, kernel)
    x = _convolve(x, np.asarray(block.pointwise.kernel))
    return _normalize(x, block.pointwise, training)


def _preprocess(x, layer, training):
    """ReLU, 1x1 convolution and normalisation; or the same of two halves."""
    block, x = layer.convolution, _relu(x)
    kernel = np.asarray(block.kernel)
    if not layer.halve:
        return _normalize(_convolve(x, kernel), block, training)
    even = x[:, ::2, ::2]
    odd = np.zeros_like(even)
    there = x[:, 1::2, 1::2]
    odd[:, : there.shape[1], : there.shape[2]] = there
    half = kernel.shape[-1] // 2
    parts = _convolve(even, kernel[..., :half]), _convolve(odd, kernel[..., half:])
    return _normalize(np.concatenate(parts, -1), block, training)


def _pool(x, name, stride):
    if name == "max_pool_3x3":
        return _windows(x, (3, 3), (stride, stride), border=-np.inf).max((-2, -1))
    values = _windows(x, (3, 3), (stride, stride), border=np.nan)
    return np.nanmean(values, (-2, -1))


def _operate(x, operation, training):
    name, stride, block = operation.operation, operation.stride, operation.block
    if name in POOLINGS:
        return _pool(x, name, stride)
    if name == "skip_connect":
        return x if stride == 1 else _preprocess(x, block, training)
    if name.startswith("dil_conv"):
        return _separable(x, block, training, stride, dilation=2)
    if name.startswith("sep_conv"):
        x = _separable(x, block.first, training, stride)
        return _separable(x, block.second, training)
    x = _convolve(_relu(x), np.asarray(block.horizontal), (1, stride))
    x = _convolve(x, np.asarray(block.vertical.kernel), (stride, 1))
    return _normalize(x, block.vertical, training)


def _cell(cell, first, second, training, drop=1.0):
    """A cell whose operations but the identity are multiplied by `drop`."""
    states = [
        _preprocess(x, layer, training)
        for x, layer in zip((first, second), cell.preprocess, strict=True)
    ]
    for node in range(len(cell.edges) // 2):
        total = 0
        for index in (2 * node, 2 * node + 1):
            name, state = cell.edges[index]
            operation = cell.operations[index]
            y = _operate(states[state], operation, training)
            identity = name == "skip_connect" and y.shape == states[state].shape
            total = total + (y if identity else drop * y)
        states.append(total)
    return np.concatenate([states[state] for state in cell.concat], -1)


def _randomize(layer):
    generator = np.random.default_rng(1)
    for variable in layer.weights:
        variable.assign(generator.uniform(0.3, 1.7, variable.shape))


def _operation(name, stride, dtype="float64"):
    operation = Operation(name, CHANNELS, stride, dtype=dtype)
    operation.build((None, None, None, CHANNELS))
    _randomize(operation)
    return operation


def _states(*shapes):
    generator = np.random.default_rng(0)
    return [generator.normal(size=shape) for shape in shapes]


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("name", OPERATIONS)
def test_each_operation_is_numpys(name, stride, training):
    operation = _operation(name, stride)
    (x,) = _states((3, 7, 10, CHANNELS))
    expected = _operate(x, operation, training)
    got = operation(tf.constant(x), tf.nn.relu(tf.constant(x)), training=training)
    np.testing.assert_allclose(got, expected, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("stride", [1, 2])
def test_none_gives_zeros_of_the_edges_size(stride):
    (x,) = _states((3, 7, 10, CHANNELS))
    x[0] = np.nan  # Zeros by multiplication would be NaN.
    got = _operation("none", stride)(tf.constant(x), tf.nn.relu(x))
    np.testing.assert_array_equal(got, np.zeros((3, 7, 10, 4))[:, ::stride, ::stride])


def _pytorch_side(side, kernel, stride, padding, dilation=1):
    return (side + 2 * padding - dilation * (kernel - 1) - 1) // stride + 1


# Kernel, padding and dilation of each operation in the official code.
GEOMETRY = {
    "max_pool_3x3": (3, 1, 1),
    "avg_pool_3x3": (3, 1, 1),
    "skip_connect": (1, 0, 1),
    "sep_conv_3x3": (3, 1, 1),
    "sep_conv_5x5": (5, 2, 1),
    "dil_conv_3x3": (3, 2, 2),
    "dil_conv_5x5": (5, 4, 2),
    "sep_conv_7x7": (7, 3, 1),
    "conv_7x1_1x7": (7, 3, 1),
}


@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("name", OPERATIONS)
def test_sizes_are_pytorchs_and_every_gradient_is_finite(name, stride):
    kernel, padding, dilation = GEOMETRY[name]
    operation = _operation(name, stride, "float32")
    for height, width in ((8, 8), (7, 4), (1, 3)):
        x = tf.constant(*_states((2, height, width, CHANNELS)), tf.float32)
        with tf.GradientTape() as tape:
            tape.watch(x)
            y = operation(x, tf.nn.relu(x), training=True)
            total = tf.reduce_sum(y**2)
        sides = [
            _pytorch_side(s, kernel, stride, padding, dilation) for s in x.shape[1:3]
        ]
        assert y.shape == (2, *sides, CHANNELS)
        gradients = tape.gradient(total, [x, *operation.trainable_variables])
        assert all(np.isfinite(gradient).all() for gradient in gradients)


@pytest.mark.parametrize("name", OPERATIONS)
def test_only_a_skip_of_stride_1_is_the_identity(name):
    identities = [Operation(name, CHANNELS, stride).identity for stride in (1, 2)]
    assert identities == [name == "skip_connect", False]


def _make_cell(edges, concat, reduction, halve_first):
    cell = FixedCell(edges, concat, CHANNELS, reduction, halve_first, dtype="float64")
    cell.build((None, None, None, 3), (None, None, None, 5))
    _randomize(cell)
    side = 12 if halve_first else 6
    return cell, _states((2, side, side, 3), (2, 6, 6, 5))


CELLS = {
    "normal": (NORMAL, [2, 3, 4], False, False),
    "normal after a reduction": (NORMAL, [4, 2], False, True),
    "reduction": (REDUCE, [2, 3, 4], True, False),
    "reduction after a reduction": (REDUCE, [3], True, True),
}


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("case", CELLS)
def test_a_cell_is_numpys_edge_by_edge(case, training):
    cell, inputs = _make_cell(*CELLS[case])
    expected = _cell(cell, *inputs, training)
    got = cell(*map(tf.constant, inputs), training=training)
    side = 3 if cell.reduction else 6
    assert got.shape == (2, side, side, CHANNELS * len(cell.concat))
    np.testing.assert_allclose(got, expected, rtol=1e-8, atol=1e-8)


@pytest.mark.parametrize("case", CELLS)
def test_all_operations_but_the_identity_drop(case):
    cell, inputs = _make_cell(*CELLS[case])
    expected = _cell(cell, *inputs, False, drop=0.25)
    got = cell(*map(tf.constant, inputs), drop=lambda y: 0.25 * y, training=False)
    np.testing.assert_allclose(got, expected, rtol=1e-8, atol=1e-8)


def test_what_does_not_drop_is_the_input_itself():
    edges = [("skip_connect", 0), ("max_pool_3x3", 1)]
    cell, (first, second) = _make_cell(edges, [2], False, False)
    y = cell(*map(tf.constant, (first, second)), drop=tf.zeros_like)
    np.testing.assert_array_equal(y, cell.preprocess[0](tf.constant(first)))


def test_edges_that_leave_a_state_share_its_relu():
    edges = [("dil_conv_3x3", 0), ("dil_conv_5x5", 0), ("dil_conv_3x3", 0)]
    cell, inputs = _make_cell([*edges, ("dil_conv_5x5", 2)], [2, 3], False, False)
    graph = tf.function(lambda a, b: cell(a, b)).get_concrete_function(
        *map(tf.constant, inputs)
    )
    relus = [op for op in graph.graph.get_operations() if op.type == "Relu"]
    # Two inputs that are preprocessed, and the two states that are read.
    assert len(relus) == 4
