import keras
import numpy as np
import pytest
import tensorflow as tf

from advrush_tf.attacks import sanity_checks as checks
from advrush_tf.attacks import sanity_probes as probes
from advrush_tf.attacks.base import BatchedClassifier, check_answers
from advrush_tf.attacks.geometry import Norm
from advrush_tf.attacks.sanity_checks import Code

CLASSES, SHAPE = 4, (4, 4, 1)
AMPLITUDE = 0.1
# Rows that are orthogonal and of mean 0, so that grey is the border of all classes.
PATTERNS = np.array(
    [[(-1) ** (pixel >> bit & 1) for pixel in range(16)] for bit in range(CLASSES)],
    np.float32,
)


def blobs(size=64):
    """Images near grey plus their class's pattern, and labels."""
    generator = np.random.default_rng(0)
    y = np.arange(size, dtype=np.int32) % CLASSES
    x = 0.5 + AMPLITUDE * PATTERNS[y] + generator.uniform(-0.01, 0.01, (size, 16))
    return x.reshape(-1, *SHAPE).astype(np.float32), y


def linear(images):
    return (tf.reshape(images, [-1, 16]) - 0.5) @ PATTERNS.T


def codes(model, norm=Norm.LINF, epsilon=0.03, size=64):
    found = probes.check_model(
        BatchedClassifier(model, SHAPE, 32), *blobs(size), norm, epsilon, 0
    )
    return [finding.code for finding in found.findings]


def fitted_network():
    keras.utils.set_random_seed(0)
    network = keras.Sequential(
        [
            keras.layers.Input(SHAPE),
            keras.layers.Conv2D(8, 3, padding="same", activation="relu"),
            keras.layers.Flatten(),
            keras.layers.Dense(CLASSES),
        ]
    )
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    network.compile(keras.optimizers.Adam(0.02), loss)
    network.fit(*blobs(256), epochs=8, verbose=0)
    return network


@pytest.mark.parametrize("norm", Norm)
@pytest.mark.parametrize("epsilon", [1e-6, 0.03, 0.7])
def test_a_linear_model_gives_no_finding(norm, epsilon):
    assert codes(linear, norm, epsilon) == []


def test_a_fitted_network_gives_no_finding():
    network = fitted_network()
    assert codes(network, Norm.LINF, 0.05) == []
    assert codes(network, Norm.L2, 0.3) == []


def test_random_model():
    def model(images):
        logits = linear(images)
        return logits + tf.random.normal(tf.shape(logits), stddev=0.01)

    assert codes(model) == [Code.RANDOM_MODEL]


def test_probabilities():
    assert codes(lambda images: tf.nn.softmax(linear(images))) == [Code.PROBABILITIES]


@pytest.mark.parametrize("scale", [1e-12, 300])
def test_attacks_follow_the_gradient_of_a_model_of_any_confidence(scale):
    assert codes(lambda images: scale * linear(images), Norm.L2) == []


def test_gradients_that_are_not_finite():
    def change(images, gradient):
        first = tf.one_hot([0], 16, on_value=float("nan"), off_value=1.0)
        return gradient * tf.reshape(first, [1, *SHAPE])

    assert codes(with_gradient(change)) == [Code.NOT_FINITE]


def test_logits_that_are_not_finite_are_looked_for_at_all_images():
    def model(images):
        # The last of 65 images is black.
        dark = tf.reduce_max(images, [1, 2, 3])[:, None] == 0
        return tf.where(dark, float("inf"), linear(images))

    x, y = blobs(65)
    x[-1] = 0
    classifier = BatchedClassifier(model, SHAPE, 32)
    found = probes.check_model(classifier, x, y, Norm.LINF, 0.03, 0).findings
    assert [finding.code for finding in found] == [Code.NOT_FINITE]
    assert "1 of 65" in found[0].sentence


def test_what_the_probe_breaks():
    classifier = BatchedClassifier(linear, SHAPE, 32)
    x, y = blobs(70)
    y[3] = (y[3] + 1) % CLASSES
    for epsilon in (0.03, 0.5):
        probed = probes.check_model(classifier, x, y, Norm.LINF, epsilon, 0)
        # Not what is wrong without.
        tried = np.isin(np.arange(70), np.linspace(0, 69, 64).astype(int))
        expected = tried & (np.arange(70) != 3) & (epsilon == 0.5)
        np.testing.assert_array_equal(probed.broken, expected)


@pytest.mark.parametrize("bad", [float("nan"), float("-inf")])
def test_logits_that_are_not_finite_on_the_way_count_as_broken(bad):
    def model(images):
        logits = linear(images)
        ordered = tf.sort(logits, -1)
        near = ordered[:, -1:] - ordered[:, -2:-1] < 1
        worst = tf.one_hot(tf.argmin(logits, -1), CLASSES, True, False)
        return tf.where(near & worst, bad, logits)

    classifier, (x, y) = BatchedClassifier(model, SHAPE, 16), blobs(16)
    assert np.isfinite(classifier.predict(x)).all()
    assert probes.check_model(classifier, x, y, Norm.LINF, 0.09, 0).broken.all()


@pytest.mark.parametrize("activation", [tf.round, tf.sign])
def test_model_without_gradient(activation):
    expected = [Code.ZERO_GRADIENTS, Code.ACCURACY_OVER_EPSILON]
    assert codes(lambda images: activation(4 * linear(images))) == expected


def with_gradient(change):
    """The linear model, of which `change` maps images and gradient to another."""

    @tf.custom_gradient
    def disguise(images):
        return tf.identity(images), lambda gradient: change(images, gradient)

    return lambda images: linear(disguise(images))


def test_gradients_that_point_nowhere():
    junk = tf.random.stateless_normal((1, *SHAPE), (0, 1))
    model = with_gradient(lambda images, gradient: junk + 0 * gradient)
    assert codes(model) == [Code.ACCURACY_OVER_EPSILON]


def test_a_label_that_gradients_do_not_reach():
    def model(images):
        # Black-box attacks would find the step, which has no gradient.
        locked = tf.stop_gradient(tf.one_hot(tf.argmax(linear(images), -1), CLASSES))
        return 30 * locked - linear(images)

    assert codes(model) == [Code.ACCURACY_OVER_EPSILON]


def test_gradients_that_mislead_small_steps():
    centres = tf.constant(0.5 + AMPLITUDE * PATTERNS)

    def change(images, gradient):
        # A belt that one step of the smaller balls does not cross.
        flat = tf.reshape(images, [-1, 1, 16])
        distance = tf.reduce_min(tf.reduce_max(tf.abs(flat - centres), -1), -1)
        misled = (distance > 0.045) & (distance < 0.07)
        return tf.where(tf.reshape(misled, [-1, 1, 1, 1]), -gradient, gradient)

    assert codes(with_gradient(change), epsilon=0.15) == [Code.STEPS_DO_NOT_HELP]


def test_images_outside_the_box_are_not_probed():
    x, y = blobs()
    classifier = BatchedClassifier(linear, SHAPE, 32)
    probed = probes.check_model(classifier, 255 * x, y, Norm.LINF, 0.03, 0)
    (finding,) = probed.findings
    assert finding.code is Code.IMAGES_OUTSIDE_BOX


def test_a_model_that_is_always_wrong_is_at_chance_and_not_attacked():
    assert codes(lambda images: -linear(images)) == [Code.CHANCE]


@pytest.mark.parametrize(
    ("model", "text"),
    [
        # Blind to smaller differences than an 8-bit level, and to bright images.
        (lambda images: linear(tf.floor(images / 2)), "in [0, 255]: of 64"),
        (lambda images: linear(tf.minimum(images, 0.25)), "in [-1, 1]: of 64"),
    ],
)
def test_the_range_that_a_model_expects_is_named(model, text):
    x, y = blobs()
    classifier = BatchedClassifier(model, SHAPE, 32)
    chance, other = check_answers(classifier, x, y)
    assert (chance.code, other.code) == (Code.CHANCE, Code.OTHER_RANGE)
    assert text in other.sentence and other.sentence.count("about 64") == 1
    right = BatchedClassifier(linear, SHAPE, 32)
    assert check_answers(right, x, y) == []


def test_a_model_that_says_the_same_of_all_images_is_named():
    x, y = blobs()
    classifier = BatchedClassifier(lambda images: linear(0 * images), SHAPE, 32)
    (finding,) = check_answers(classifier, x, y)
    assert finding.code is Code.CHANCE
    assert "gives all 64 images that were tried the class" in finding.sentence


@pytest.mark.parametrize(
    ("batch_size", "norm", "epsilon"),
    [(24, Norm.LINF, 0.125), (100, Norm.L2, 0.5)],  # that cube has the same side
)
def test_what_the_checks_are_given(monkeypatch, batch_size, norm, epsilon):
    """The right ones of 64 of the images, and a curve that is known exactly."""
    generator = np.random.default_rng(1)
    slope = generator.normal(size=16).astype(np.float32)
    x = generator.random((80, *SHAPE), np.float32)
    scores = (x.reshape(-1, 16) - 0.5) @ slope
    y = (scores > 0).astype(np.int32)
    y[::4] = 1 - y[::4]

    def model(images):
        score = (tf.reshape(images, [-1, 16]) - 0.5) @ slope[:, None]
        return tf.concat([0 * score, score], -1)

    seen = {}
    for name in ("zero_gradients", "accuracy_over_epsilon"):
        monkeypatch.setattr(
            checks, name, lambda *arrays, name=name: seen.update({name: arrays})
        )
    classifier = BatchedClassifier(model, SHAPE, batch_size)
    assert probes.check_model(classifier, x, y, norm, epsilon, 0).findings == []

    rows = np.linspace(0, 79, 64).astype(int)
    kept = rows[rows % 4 > 0]
    label = y[kept]
    (steps,) = seen["zero_gradients"]
    up = np.where(label == 1, -1, 1)[:, None] * slope
    way = np.sign(up) if norm is Norm.LINF else up / np.linalg.norm(slope)
    np.testing.assert_allclose(steps.reshape(-1, 16), way, rtol=1e-5)
    radii, accuracies = seen["accuracy_over_epsilon"]
    np.testing.assert_allclose(radii, [0.125, 0.25, 0.5])
    for radius, accuracy in zip(radii, accuracies, strict=True):
        way = np.where(label == 1, -1, 1)[:, None] * np.sign(slope)
        moved = np.clip(x[kept].reshape(-1, 16) + radius * way, 0, 1)
        assert accuracy == np.mean(((moved - 0.5) @ slope > 0) == (label == 1))


def test_the_model_and_its_gradient_are_traced_once():
    traces = {"model": 0, "gradient": 0}

    def change(images, gradient):
        del images
        traces["gradient"] += 1
        return gradient

    disguised = with_gradient(change)

    def model(images):
        traces["model"] += 1
        return disguised(images)

    assert codes(model, Norm.L2, size=50) == []
    assert traces == {"model": 1, "gradient": 1}
