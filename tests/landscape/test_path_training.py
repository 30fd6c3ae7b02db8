import keras
import numpy as np
import pytest

from advrush_tf.data.dataset import load_dataset
from advrush_tf.genotypes.genotype import random_genotype
from advrush_tf.landscape.path_training import train_paths
from advrush_tf.landscape.weight_sharing import SharedNetwork
from advrush_tf.search.model import AdvRushSearchModel


def _supernet():
    keras.utils.set_random_seed(0)
    return AdvRushSearchModel(10, (8, 8, 1), init_channels=4, num_cells=1, num_nodes=2)


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
        with network.adopted(random_genotype(seed, 2), batches):
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
