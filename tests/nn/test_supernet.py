import numpy as np
import pytest
import tensorflow as tf

from advrush_tf.genotypes.search_space import (
    ALL_PRIMITIVES,
    PRIMITIVES,
    reduction_cells,
)
from advrush_tf.nn import supernet
from advrush_tf.nn.blocks import Preprocess
from advrush_tf.nn.supernet import SearchCell, Supernet
from advrush_tf.search import penalty
from support import per_edge

FEW = ("none", "max_pool_3x3", "skip_connect", "dil_conv_3x3")


def _randomize(layer):
    rng = np.random.default_rng(1)
    for variable in layer.weights:
        variance = "variance" in variable.name
        bounds = (0.5, 1.5) if variance else (-0.5, 0.5)
        variable.assign(rng.uniform(*bounds, variable.shape))


def _images(size, channels=3, batch=2):
    x = np.random.default_rng(2).normal(size=(batch, size, size, channels))
    return tf.constant(x)


def _supernet(cells, channels=2, primitives=FEW, nodes=2, image_channels=3):
    net = Supernet(
        5,
        init_channels=channels,
        num_cells=cells,
        num_nodes=nodes,
        primitives=primitives,
        dtype="float64",
    )
    net.build((None, None, None, image_channels))
    _randomize(net)
    return net


def test_rows_of_the_alphas_worked_by_hand():
    # Four nodes: rows 0-1 arrive at node 0 from states 0-1, rows 2-4 at node 1 from
    # states 0-2, rows 5-8 at node 2 from states 0-3, rows 9-13 at node 3.
    rows = [supernet.leaving_edges(state, 4) for state in range(5)]
    assert rows == [[0, 2, 5, 9], [1, 3, 6, 10], [4, 7, 11], [8, 12], [13]]
    assert [supernet.leaving_edges(state, 1) for state in range(2)] == [[0], [1]]


@pytest.mark.parametrize("nodes", [1, 2, 3, 4, 6])
def test_every_row_leaves_one_state(nodes):
    states = range(nodes + 1)
    rows = [row for s in states for row in supernet.leaving_edges(s, nodes)]
    assert sorted(rows) == list(range(sum(range(2, nodes + 2))))


@pytest.mark.parametrize(
    ("cells", "positions"),
    [(8, {2, 5}), (20, {6, 13}), (5, {1, 3}), (3, {1, 2}), (2, {0, 1}), (1, {0})],
)
def test_positions_of_the_reduction_cells(cells, positions):
    assert reduction_cells(cells) == positions


@pytest.mark.parametrize("halve", [False, True])
@pytest.mark.parametrize("training", [False, True])
def test_preprocessing_equals_the_reference(halve, training):
    layer = Preprocess(4, halve, dtype="float64")
    layer.build((None, None, None, 3))
    _randomize(layer)
    statistics = per_edge.Statistics(training)
    expected = per_edge.preprocess(_images(7), layer, statistics)
    actual = layer(_images(7), training=training)
    np.testing.assert_allclose(actual, expected, atol=1e-12)
    _check_statistics(statistics)


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize(
    ("reduction", "halve_first"), [(False, False), (False, True), (True, False)]
)
def test_cell_equals_the_reference(training, reduction, halve_first):
    layer = SearchCell(2, 4, reduction, halve_first, ALL_PRIMITIVES, dtype="float64")
    layer.build((None, None, None, 5), (None, None, None, 3))
    _randomize(layer)
    first, second = _images(8, 5), _images(4 if halve_first else 8, 3)
    alphas = np.random.default_rng(3).dirichlet(np.ones(len(ALL_PRIMITIVES)), 14)
    weights = tf.constant(alphas)
    statistics = per_edge.Statistics(training)
    expected = per_edge.cell(layer, first, second, weights, statistics)
    actual = layer(first, second, weights, training=training)
    side = 4 if reduction or halve_first else 8
    assert actual.shape == (2, side, side, 8)
    np.testing.assert_allclose(actual, expected, atol=1e-10)
    _check_statistics(statistics)


def _check_statistics(statistics):
    assert bool(statistics.expected) == statistics.training
    for variable, part, value in statistics.expected:
        np.testing.assert_allclose(variable.numpy()[part], value, atol=1e-11)


@pytest.mark.parametrize("size", [8, 28])
@pytest.mark.parametrize("training", [False, True])
def test_supernet_equals_the_reference(size, training):
    net = _supernet(4)
    statistics = per_edge.Statistics(training)
    expected = per_edge.supernet(net, _images(size), statistics)
    actual = net(_images(size), training=training)
    np.testing.assert_allclose(actual, expected, atol=1e-10)
    _check_statistics(statistics)
    owned = sum(v.shape[0] for v in net.non_trainable_variables)
    recorded = sum(value.shape[0] for _, _, value in statistics.expected)
    assert recorded == (owned if training else 0)


@pytest.mark.parametrize(("cells", "image_channels"), [(1, 3), (2, 1), (3, 3), (6, 1)])
def test_any_number_of_cells_and_image_channels(cells, image_channels):
    net = _supernet(cells, image_channels=image_channels)
    x = _images(8, image_channels)
    expected = per_edge.supernet(net, x, per_edge.Statistics(False))
    assert expected.shape == (2, 5)
    np.testing.assert_allclose(net(x, training=False), expected, atol=1e-10)
    kinds = [cell.reduction for cell in net.cells]
    reductions = reduction_cells(cells)
    assert kinds == [position in reductions for position in range(cells)]
    widths = [2 * 2 ** sum(kinds[: i + 1]) for i in range(cells)]
    assert [cell.channels for cell in net.cells] == widths


def test_alphas_are_weights_of_their_own():
    net = Supernet(10, 2, 3)
    net.build((None, 8, 8, 3))
    tables = (net.alphas_normal, net.alphas_reduce)
    ours = {id(table) for table in tables}
    assert len(ours) == 2
    assert ours <= {id(v) for v in net.trainable_variables}
    inside = [net.stem, *net.cells, net.classifier]
    assert not ours & {id(v) for layer in inside for v in layer.weights}
    values = np.stack([table.numpy() for table in tables])
    assert values.shape == (2, 14, len(PRIMITIVES))
    assert values.std() == pytest.approx(1e-3, rel=0.2)
    assert abs(values.mean()) < 3e-4


def test_each_table_acts_through_its_own_kind_of_cell():
    net = _supernet(4)
    x, features = _images(8), []
    for table in (None, net.alphas_normal, net.alphas_reduce):
        if table is not None:
            table.assign(table.value + np.arange(len(FEW)))
        y = net.stem(x)
        weights = tf.nn.softmax(net.alphas_normal.value)
        features.append((net.cells[0](y, y, weights), net(x)))
    before, normal, reduce = features
    assert np.abs(before[0] - normal[0]).max() > 1e-3
    np.testing.assert_array_equal(normal[0], reduce[0])
    assert np.abs(normal[1] - reduce[1]).max() > 1e-6


@pytest.mark.parametrize("training", [False, True])
def test_gradients_arrive_in_every_weight(training):
    net = _supernet(4)
    with tf.GradientTape() as tape:
        logits = net(_images(8), training=training)
        loss = tf.reduce_sum(logits**2)
    gradients = tape.gradient(loss, [v.value for v in net.trainable_variables])
    with tf.GradientTape() as tape:
        logits = per_edge.supernet(net, _images(8), per_edge.Statistics(training))
        loss = tf.reduce_sum(logits**2)
    expected = tape.gradient(loss, [v.value for v in net.trainable_variables])
    assert all(g is not None for g in gradients)
    for actual, reference in zip(gradients, expected, strict=True):
        bound = 1e-9 * max(1.0, np.abs(reference).max())
        np.testing.assert_allclose(actual, reference, rtol=0, atol=bound)


@pytest.mark.parametrize("batch", [1, 3])
def test_inference_does_not_mix_the_examples(batch):
    net = _supernet(3)
    x = _images(8, batch=4)
    whole = net(x, training=False)[:batch]
    np.testing.assert_allclose(net(x[:batch], training=False), whole, atol=1e-12)


def test_traced_penalty_equals_the_eager_one():
    # Some of those whose gradients are ours; test_kernels.py traces the others.
    ours = ("max_pool_3x3", "sep_conv_5x5", "dil_conv_3x3")
    net = _supernet(1, primitives=ours)
    x, y = _images(8, batch=3), tf.constant([0, 3, 4])
    variables = [v.value for v in net.trainable_variables]

    def gradients():
        with tf.GradientTape() as tape:
            r = penalty.curvature_penalty(lambda x: net(x, training=False), x, y, 1.5)
        return r, tape.gradient(r, variables)

    norms, expected = gradients()
    traced_norms, actual = tf.function(gradients)()
    np.testing.assert_allclose(traced_norms, norms, rtol=1e-10)
    for gradient, reference in zip(actual, expected, strict=True):
        # A bias that only shifts the logits has no part in it.
        if reference is not None:
            bound = 1e-9 * max(1e-3, np.abs(reference).max())
            np.testing.assert_allclose(gradient, reference, rtol=0, atol=bound)
