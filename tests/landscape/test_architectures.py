import json

import keras
import numpy as np
import pytest
import tensorflow as tf

from advrush_tf.data.array_examples import ArrayExamples
from advrush_tf.data.dataset import ImageDataset
from advrush_tf.genotypes.genotype import random_genotype
from advrush_tf.landscape import meter
from advrush_tf.landscape.architectures import ArchitectureSampler, SampledGenotype
from advrush_tf.landscape.meter import measure_curvature
from advrush_tf.landscape.weight_sharing import SharedNetwork
from advrush_tf.nn.supernet import Supernet
from advrush_tf.search.model import AdvRushSearchModel

EPSILON = 0.1
PRIMITIVES = ("none", "avg_pool_3x3", "skip_connect", "sep_conv_3x3")


def _dataset():
    """Bright, dark and noisy images, which any network tells apart to some degree."""
    generator = np.random.default_rng(0)
    labels = generator.integers(0, 3, 90).astype(np.int32)
    images = (
        generator.integers(0, 256, (90, 6, 6, 1)) // 2
        + 60 * labels[:, np.newaxis, np.newaxis, np.newaxis]
    )
    images = np.clip(images, 0, 255).astype(np.uint8)
    names = ("dark", "grey", "bright")
    train = ArrayExamples(images[:70], labels[:70])
    test = ArrayExamples(images[70:], labels[70:])
    return ImageDataset("shades", train, test, 3, names)


def _model():
    keras.utils.set_random_seed(1)
    model = AdvRushSearchModel(
        3, (6, 6, 1), 2, 1, num_nodes=2, primitives=PRIMITIVES, mean=(0.5,), std=(0.3,)
    )
    classifier = model.supernet.classifier.kernel
    classifier.assign(8 * classifier.value)
    return model


def _sampler(model, **changes):
    settings = {"test_images": 20, "curvature_images": 4, "batches": 2, "batch_size": 8}
    return ArchitectureSampler(model, _dataset(), EPSILON, **{**settings, **changes})


@pytest.fixture(scope="module")
def model():
    return _model()


@pytest.fixture(scope="module")
def sampler(model):
    return _sampler(model, seed=5)


@pytest.fixture(scope="module")
def samples(sampler):
    return list(sampler.draw(4))


def test_radii_may_be_texts(model):
    written = ArchitectureSampler(
        model, _dataset(), str(EPSILON), 20, probe_length="2 / 255", batches=2
    )
    np.testing.assert_array_equal(written._start, _sampler(model)._start)


def _numbers(sample):
    names = ("clean", "robust", "top_eigenvalue", "penalty", "gradient_norm")
    return np.array([getattr(sample, name) for name in names])


def test_genotypes_are_drawn_by_consecutive_seeds(samples):
    assert [sample.seed for sample in samples] == [5, 6, 7, 8]
    for sample in samples:
        assert sample.genotype == random_genotype(sample.seed, 2, PRIMITIVES)
        assert 0 <= sample.robust <= sample.clean <= 1
    assert len({sample.clean for sample in samples}) > 1
    assert len({sample.robust for sample in samples}) > 1


def test_an_interrupted_run_ends_as_one_that_was_not(sampler, samples):
    interrupted = sampler.draw(4)
    known = [next(interrupted), next(interrupted)]
    interrupted.close()
    assert known == samples[:2]
    # With another one that was measured beside them.
    other = sampler.measure(random_genotype(99, 2, PRIMITIVES))
    assert list(sampler.draw(4, [other, *known])) == samples[2:]
    assert list(sampler.draw(4, samples)) == []


def test_a_genotype_of_ones_own_is_measured_alike(sampler, samples):
    found = sampler.measure(samples[1].genotype)
    assert found.seed is None
    np.testing.assert_array_equal(_numbers(found), _numbers(samples[1]))


def test_the_supernet_is_left_as_it_was(model, samples):
    del samples
    fresh = _model().supernet.weights
    for variable, expected in zip(model.supernet.weights, fresh, strict=True):
        np.testing.assert_array_equal(variable, expected)


def _attacked(network, x, y, start):
    """PGD on the margin, step by step."""
    images, labels = start, tf.one_hot(y, 3)
    for _ in range(10):
        with tf.GradientTape() as tape:
            tape.watch(images := tf.constant(images, tf.float32))
            logits = network(images)
            best_wrong = tf.reduce_max(logits - 1e9 * labels, -1)
            margin = best_wrong - tf.reduce_sum(logits * labels, -1)
        steps = 0.25 * EPSILON * np.sign(tape.gradient(margin, images))
        images = np.clip(images + steps, x - EPSILON, x + EPSILON).clip(0, 1)
    return images


def test_the_numbers_are_those_of_the_definitions(model, samples):
    dataset, sample = _dataset(), samples[3]
    x = dataset.test.images.astype(np.float32) / 255
    y = dataset.test.labels
    order = np.random.default_rng(5).permutation(70)[:64]
    batch = dataset.train.images[order].astype(np.float32) / 255
    noise = np.random.default_rng(5).uniform(-EPSILON, EPSILON, x.shape)
    network = SharedNetwork(model)
    with network.adopted(sample.genotype, [batch]):
        right = np.argmax(network(x), -1) == y
        attacked = _attacked(network, x, y, x + noise)
        robust = right & (np.argmax(network(attacked), -1) == y)
        some = dataset.test.drawn(4, 5).unit_arrays()
        curvature = measure_curvature(network, *some, seed=5)
    expected = (
        right.mean(),
        robust.mean(),
        curvature.eigenvalues[:, 0].mean(),
        curvature.penalties.mean(),
        curvature.gradient_norms.mean(),
    )
    np.testing.assert_allclose(_numbers(sample), expected, rtol=1e-3)
    assert right.mean() > robust.mean() > 0


def test_the_batch_size_does_not_matter(model, samples):
    found = list(_sampler(model, batch_size=7, seed=5).draw(2))
    for sample, expected in zip(found, samples, strict=False):
        np.testing.assert_allclose(_numbers(sample), _numbers(expected), rtol=1e-3)


def test_no_products_are_spent_on_traces(sampler, samples, monkeypatch):
    probes, trace = [], meter.trace

    def counted(product, tridiagonal, count, seeds):
        probes.append(count)
        return trace(product, tridiagonal, count, seeds)

    monkeypatch.setattr(meter, "trace", counted)
    sampler.measure(samples[0].genotype)
    assert set(probes) == {0}


def test_all_is_compiled_with_the_first_genotype(sampler, samples, monkeypatch):
    def compiled_again(*args, **kwargs):
        raise AssertionError("the supernet was traced again")

    monkeypatch.setattr(Supernet, "mix", compiled_again)
    assert sampler.measure(samples[0].genotype, 5) == samples[0]


def test_a_genotype_that_does_not_fit_is_refused(sampler):
    with pytest.raises(ValueError, match="3 nodes"):
        sampler.measure(random_genotype(0, 3, PRIMITIVES))


def test_json_holds_what_was_measured(samples):
    text = json.dumps([sample.to_dict() for sample in samples])
    assert [SampledGenotype.from_dict(row) for row in json.loads(text)] == samples


@pytest.mark.parametrize("damage", ["genotype", "clean", "extra", "cell"])
def test_damaged_json_is_refused(samples, damage):
    row = samples[0].to_dict()
    if damage == "extra":
        row["more"] = 1
    elif damage == "cell":
        del row["genotype"]["reduce"]
    else:
        del row[damage]
    with pytest.raises(ValueError, match="damaged"):
        SampledGenotype.from_dict(row)
