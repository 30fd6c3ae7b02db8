import keras
import numpy as np
import pytest
import tensorflow as tf

from advrush_tf.data.dataset import load_dataset
from advrush_tf.genotypes.genotype import Genotype, random_genotype
from advrush_tf.genotypes.search_space import PRIMITIVES
from advrush_tf.landscape.weight_sharing import (
    SharedNetwork,
    one_hot_weights,
    train_paths,
)
from advrush_tf.search.model import AdvRushSearchModel
from support import per_edge

NODES = 3


@pytest.fixture(scope="module")
def model():
    keras.utils.set_random_seed(0)
    model = AdvRushSearchModel(
        *(3, (8, 8, 3)),
        init_channels=2,
        num_cells=2,
        num_nodes=NODES,
        mean=(0.25, 0.5, 0.75),
        std=(0.5, 0.25, 0.125),
        dtype="float64",
    )
    generator = np.random.default_rng(1)
    for variable in model.supernet.non_trainable_variables:
        variable.assign(generator.uniform(0.5, 1.5, variable.shape))
    return model


@pytest.fixture(scope="module")
def network(model):
    return SharedNetwork(model)


def _batches(count, seed=2, size=5):
    return list(np.random.default_rng(seed).random((count, size, 8, 8, 3)))


def _state(model):
    return [variable.numpy() for variable in model.supernet.weights]


def _cell(layer, first, second, edges, statistics):
    """The cell of a genotype, with its two operations a node and no others."""
    pairs = zip((first, second), layer.preprocess, strict=True)
    states = [per_edge.preprocess(x, part, statistics) for x, part in pairs]
    for node in range(layer.num_nodes):
        terms = []
        for name, state in edges[2 * node : 2 * node + 2]:
            mixed = layer.edges[state]
            start = (node - max(0, state - 1)) * layer.channels
            part = slice(start, start + layer.channels)
            terms.append(
                per_edge.operation(name, states[state], mixed, part, statistics)
            )
        states.append(tf.add_n(terms))
    return tf.concat(states[2:], -1)


def _discrete(model, genotype, images, statistics):
    """Logits of a genotype, computed without any mixing weights."""
    net = model.supernet
    x = (images - [0.25, 0.5, 0.75]) / [0.5, 0.25, 0.125]
    x = per_edge.convolve(x, net.stem.kernel.value)
    x = statistics.normalize(x, net.stem.moving_mean, net.stem.moving_variance)
    first = second = x * net.stem.gamma.value + net.stem.beta.value
    for layer in net.cells:
        edges = genotype.reduce if layer.reduction else genotype.normal
        first, second = second, _cell(layer, first, second, edges, statistics)
    features = tf.reduce_mean(second, [1, 2])
    return features @ net.classifier.kernel.value + net.classifier.bias.value


def test_one_hot_weights_worked_by_hand():
    # Rows: node 0 from states 0, 1; node 1 from states 0, 1, 2.
    genotype = Genotype(
        normal=[
            ("sep_conv_3x3", 1),
            ("max_pool_3x3", 0),
            ("skip_connect", 2),
            ("skip_connect", 0),
        ],
        normal_concat=(2, 3),
        reduce=[("max_pool_3x3", 0), ("max_pool_3x3", 1)] * 2,
        reduce_concat=(2, 3),
    )
    primitives = ("none", "skip_connect", "max_pool_3x3", "sep_conv_3x3")
    normal, reduce = one_hot_weights(genotype, primitives)
    assert normal.tolist() == [
        [0, 0, 1, 0],
        [0, 0, 0, 1],
        [0, 1, 0, 0],
        [0, 0, 0, 0],
        [0, 1, 0, 0],
    ]
    assert np.argwhere(reduce).tolist() == [[0, 2], [1, 2], [2, 2], [3, 2]]


@pytest.mark.parametrize("seed", [0, 1, 2])
@pytest.mark.parametrize("training", [False, True])
def test_it_equals_the_genotypes_own_network(model, network, seed, training):
    genotype, (images,) = random_genotype(seed, NODES), _batches(1, 3)
    with network.adopted(genotype, _batches(2)):
        statistics = per_edge.Statistics(training)
        expected = _discrete(model, genotype, images, statistics)
        actual = network(images, training=training)
    np.testing.assert_allclose(actual, expected, rtol=0, atol=1e-10)
    assert np.ptp(actual, axis=0).min() > 1e-3


def test_statistics_of_several_batches_are_their_weighted_mean(model, network):
    genotype, batches = random_genotype(4, NODES), _batches(3)
    seen = []
    for batch in batches:
        with network.adopted(genotype, [batch]):
            seen.append([v.numpy() for v in model.supernet.non_trainable_variables])
    weights = np.array([0.81, 0.9, 1]) / (0.81 + 0.9 + 1)
    with network.adopted(genotype, batches):
        found = [v.numpy() for v in model.supernet.non_trainable_variables]
    for value, *parts in zip(found, *seen, strict=True):
        mean = sum(w * part for w, part in zip(weights, parts, strict=True))
        np.testing.assert_allclose(value, mean, rtol=1e-12, atol=1e-14)


def test_statistics_of_one_batch_are_its_own(model, network):
    genotype, (images,) = random_genotype(5, NODES), _batches(1)
    statistics = per_edge.Statistics(training=True)
    with network.adopted(genotype, [images]):
        _discrete(model, genotype, images, statistics)
        # The batch would move them towards itself, if they were not there already.
        for variable, part, value in statistics.expected:
            np.testing.assert_allclose(variable.numpy()[part], value, rtol=1e-11)


def test_both_modes_agree_on_the_one_batch_that_was_observed(network):
    # But for the variance, which in inference mode is the unbiased one.
    (images,) = _batches(1, size=100)
    with network.adopted(random_genotype(5, NODES), [images]):
        trained, inferred = network(images, training=True), network(images)
    np.testing.assert_allclose(inferred, trained, rtol=0, atol=0.01 * np.ptp(trained))


def test_afterwards_the_supernet_is_as_before(model, network):
    before = _state(model)
    logits = model(_batches(1)[0], training=False)
    with (
        pytest.raises(KeyError),
        network.adopted(random_genotype(0, NODES), _batches(2)),
    ):
        assert any(
            not np.array_equal(a, b) for a, b in zip(_state(model), before, strict=True)
        )
        raise KeyError
    for now, value in zip(_state(model), before, strict=True):
        np.testing.assert_array_equal(now, value)
    np.testing.assert_array_equal(model(_batches(1)[0], training=False), logits)


def test_one_graph_serves_all_genotypes(network):
    traces = []

    @tf.function(autograph=False)
    def logits(images):
        traces.append(images.shape)
        return network(images)

    images, found = _batches(1)[0], []
    for seed in range(3):
        with network.adopted(random_genotype(seed, NODES), _batches(1)):
            found.append(logits(tf.constant(images)).numpy())
            np.testing.assert_allclose(found[-1], network(images), atol=1e-12)
    assert len(traces) == 1
    assert np.abs(found[0] - found[1]).max() > 1e-3


@pytest.mark.parametrize(
    ("genotype", "words"),
    [
        (random_genotype(0, 4), "4 nodes .* supernet 3"),
        (
            random_genotype(0, NODES, ["conv_7x1_1x7"]),
            "normal cell has the operation conv_7x1_1x7.*it has none, max_pool_3x3",
        ),
        (
            Genotype(
                random_genotype(0, NODES).normal,
                (2, 3, 4),
                random_genotype(0, NODES).reduce,
                (2, 4),
            ),
            r"reduce cell puts out the states \(2, 4\)",
        ),
    ],
)
def test_a_genotype_that_does_not_fit_is_refused(model, network, genotype, words):
    before = _state(model)
    with (
        pytest.raises(ValueError, match=words),
        network.adopted(genotype, _batches(1)),
    ):
        pass
    for now, value in zip(_state(model), before, strict=True):
        np.testing.assert_array_equal(now, value)


def test_without_batches_there_are_no_statistics(network):
    with (
        pytest.raises(ValueError, match="at least one training batch"),
        network.adopted(random_genotype(0, NODES), []),
    ):
        pass


def test_an_edge_read_twice_counts_twice():
    edges = [("skip_connect", 0), ("skip_connect", 0)]
    normal, _ = one_hot_weights(Genotype(edges, (2,), edges, (2,)), PRIMITIVES)
    assert normal[0, PRIMITIVES.index("skip_connect")] == 2


def _supernet():
    keras.utils.set_random_seed(0)
    few = ("none", "avg_pool_3x3", "skip_connect", "sep_conv_3x3")
    return AdvRushSearchModel(10, (8, 8, 1), 4, 1, num_nodes=2, primitives=few)


@pytest.fixture(scope="module")
def digits():
    return load_dataset("digits")


def _accuracy(model, dataset):
    """Mean over architectures that were not trained for."""
    network = SharedNetwork(model)
    images = dataset.train.images.astype(np.float32) / 255
    batches = [images[first : first + 64] for first in range(0, 640, 64)]
    x, y = dataset.test.images / np.float32(255), dataset.test.labels
    found = []
    for seed in range(3):
        genotype = random_genotype(seed, 2, model.supernet.primitives)
        with network.adopted(genotype, batches):
            found.append((np.argmax(network(x), -1) == y).mean())
    return np.mean(found)


def test_architectures_learn_to_share_the_weights(digits):
    model = _supernet()
    alphas = [table.numpy() for table in model.alphas]
    before = _accuracy(model, digits)
    done = []
    train_paths(model, digits, 8, progress=done.append)
    assert done == [1] * 8
    assert _accuracy(model, digits) > before + 0.3
    for table, expected in zip(model.alphas, alphas, strict=True):
        np.testing.assert_array_equal(table, expected)
    # The seed determines the outcome.
    again = _supernet()
    train_paths(again, digits, 8)
    for first, second in zip(
        model.supernet.weights, again.supernet.weights, strict=True
    ):
        np.testing.assert_array_equal(first, second)


def test_no_epochs_change_nothing(digits):
    model = _supernet()
    before = [weight.numpy() for weight in model.supernet.weights]
    train_paths(model, digits, 0)
    for weight, value in zip(model.supernet.weights, before, strict=True):
        np.testing.assert_array_equal(weight, value)
