import dataclasses
import warnings

import keras
import numpy as np
import pytest
import tensorflow as tf

from advrush_tf.attacks.base import (
    Attack,
    BatchedClassifier,
    Outcome,
    StoppedError,
    as_logits_fn,
)
from advrush_tf.attacks.fab import FAB
from advrush_tf.attacks.geometry import Norm
from support.small_networks import tiny_batch, tiny_network


def test_predictions_are_the_models_in_inference_mode_whatever_the_number():
    net, (x, _) = tiny_network(), tiny_batch(size=10)
    classifier = BatchedClassifier(net, (8, 8, 1), batch_size=4)
    assert classifier.num_classes == 3
    for count in (10, 4, 1):
        expected = net(x[:count], training=False)
        np.testing.assert_allclose(classifier.predict(x[:count]), expected, atol=1e-6)
    assert classifier.predict(x[:0]).shape == (0, 3)


def _of_any_size(images):
    return tf.reduce_sum(images, [1, 2])


def _of_known_sizes(images):
    return tf.reduce_sum(tf.reshape(images, (images.shape[0], -1, 3)), 1)


def _of_known_shape(images):
    """Its shape is not known where the number of images is not."""
    logits = _of_any_size(images)
    shape = logits.shape if images.shape[0] else tf.TensorShape(None)
    return tf.raw_ops.PlaceholderWithDefault(input=logits, shape=shape)


@pytest.mark.parametrize(
    ("model", "sizes"),
    [
        (_of_any_size, [None]),
        (_of_known_sizes, [5, 2]),
        (_of_known_shape, [None, 5, 2]),
    ],
)
def test_the_model_is_traced_once_or_for_each_size(model, sizes):
    traces = []

    def traced(images):
        outputs = model(images)
        traces.append(images.shape.as_list())
        return outputs

    classifier = BatchedClassifier(traced, (2, 2, 3), batch_size=5)
    images = np.random.default_rng(0).random((12, 2, 2, 3), np.float32)
    for count in (12, 5, 2):
        found = classifier.predict(images[:count])
        np.testing.assert_allclose(found, images[:count].sum((1, 2)), rtol=1e-6)

    @tf.function
    def gradient(images):
        with tf.GradientTape() as tape:
            tape.watch(images)
            logits = classifier.followed_logits(images)
            second = logits[:, 1]
        found = tape.gradient(second, images)
        # Loops keep the shapes that they begin with.
        assert (logits.shape, found.shape) == ((images.shape[0], 3), images.shape)
        return found

    for count in (5, 2):
        expected = np.broadcast_to([0, 1, 0], (count, 2, 2, 3))
        found = gradient(tf.constant(images[:count]))
        np.testing.assert_array_equal(found, expected)
    assert traces == [[size, 2, 2, 3] for size in sizes]


def test_batch_normalisation_is_in_inference_mode():
    layer = keras.layers.BatchNormalization()
    model = keras.Sequential([keras.Input((1, 1, 4)), layer, keras.layers.Flatten()])
    x = np.random.default_rng(0).random((6, 1, 1, 4), np.float32)
    np.testing.assert_allclose(
        as_logits_fn(model)(x), x.reshape(6, 4) / np.sqrt(1 + layer.epsilon), rtol=1e-5
    )


def test_a_full_batch_begins_with_the_images():
    x = np.arange(3, dtype=np.float32).reshape(3, 1, 1, 1)
    classifier = BatchedClassifier(
        lambda images: tf.zeros((images.shape[0], 2)), (1, 1, 1), 5
    )
    np.testing.assert_array_equal(np.ravel(classifier.filled(x)), [0, 1, 2, 2, 2])


@pytest.mark.parametrize("outputs", [(4,), (4, 1), (4, 2, 2)])
def test_what_is_no_classifier_is_refused(outputs):
    with pytest.raises(ValueError, match="logits of shape"):
        BatchedClassifier(lambda images: tf.zeros(outputs), (2, 2, 1), 4)


def test_a_model_in_float16_is_refused():
    with pytest.raises(ValueError, match="float16 loses small gradients"):
        BatchedClassifier(tiny_network(dtype="mixed_float16"), (8, 8, 1), 4)


def test_a_stopped_classifier_does_not_answer():
    classifier = BatchedClassifier(tiny_network(), (8, 8, 1), 6)
    x = tf.constant(tiny_batch()[0])
    classifier.check_stop()
    classifier.logits(x)
    classifier.stop()
    for look in (classifier.check_stop, lambda: classifier.logits(x)):
        with pytest.raises(StoppedError):
            look()


@pytest.mark.parametrize("compiled", [False, True])
def test_gradients_that_are_not_finite_are_counted(compiled):
    def model(images):
        shade = images[:, 0, 0, 0]
        return tf.stack([tf.sqrt(shade), shade], -1)

    classifier = BatchedClassifier(model, (1, 1, 1), 2)

    def slope(images):
        with tf.GradientTape() as tape:
            tape.watch(images)
            logits = classifier.followed_logits(images)
        return logits, tape.gradient(logits, images)

    slope = tf.function(slope) if compiled else slope
    for values, count in (([0.25, 1.0], 0), ([0.25, 0.0], 1), ([0.0, 0.0], 2)):
        shade = np.reshape(values, (2, 1, 1, 1)).astype(np.float32)
        logits, gradient = slope(tf.constant(shade))
        assert classifier.bad_gradients == count
        np.testing.assert_allclose(logits, model(shade))
        with np.errstate(divide="ignore"):
            np.testing.assert_allclose(gradient, 1 + 0.5 / np.sqrt(shade))


def halves(images):
    """Class 1 for images that are bright at the left."""
    shade = images[:, 0, 0, 0]
    return tf.stack([0.5 - shade, shade - 0.5], -1)


@dataclasses.dataclass(frozen=True)
class Invert(Attack):
    """Shows what it is given, and turns images into their negatives, last first."""

    def _tried(self, classifier, x, y, seed, indices):
        assert (x.dtype, classifier.num_classes, seed) == (np.float32, 2, 7)
        for row in reversed(range(len(x))):
            yield Outcome(row, 1 - x[row], not y[row])


def test_craft_puts_outcomes_where_they_belong_and_leaves_the_images_alone():
    x = np.random.default_rng(0).random((5, 2, 3, 1))
    kept = x.copy()
    attack = Invert(epsilon=1.0)
    crafted = attack.craft(halves, x, [0] * 5, seed=7, batch_size=2)
    np.testing.assert_allclose(crafted, 1 - x, atol=1e-6)
    np.testing.assert_array_equal(x, kept)


def test_what_nothing_broke_is_given_back_unless_it_is_to_transfer():
    x = np.random.default_rng(0).random((5, 2, 3, 1), np.float32)
    y = [0, 1, 1, 0, 1]
    attack = Invert(epsilon=1.0)
    crafted = attack.craft(halves, x, y, seed=7)
    np.testing.assert_array_equal(crafted[1], x[1])
    np.testing.assert_array_equal(crafted[0], 1 - x[0])
    tried = dataclasses.replace(attack, persistent=True).craft(halves, x, y, seed=7)
    np.testing.assert_array_equal(tried, 1 - x)


@pytest.mark.parametrize("search", [Invert(epsilon=1.0).craft, FAB().minimal])
def test_a_model_at_chance_is_named_by_all_that_attack(search):
    x = np.random.default_rng(0).random((20, 2, 3, 1), np.float32)
    y = x[:, 0, 0, 0] > 0.5
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        search(halves, x, y, seed=7)
    with pytest.warns(UserWarning, match="right about 0 of 20") as caught:
        search(halves, x, ~y, seed=7)
    assert caught[0].filename == __file__


@dataclasses.dataclass(frozen=True)
class Claim(Attack):
    """Says of one image that it is adversarial."""

    image: np.ndarray = None

    def _tried(self, classifier, x, y, seed, indices):
        yield Outcome(0, self.image, True)


@pytest.mark.parametrize("persistent", [False, True])
@pytest.mark.parametrize(
    ("norm", "values", "accepted"),
    [
        ("Linf", [0.6, 0.4], True),
        ("Linf", [0.61, 0.5], False),
        ("L2", [0.57, 0.43], True),
        ("L2", [0.58, 0.42], False),
        ("L2", [float("nan"), 0.5], False),
        ("Linf", [float("nan"), 0.5], False),
        ("Linf", [float("inf"), 0.5], False),
    ],
)
def test_only_a_finite_image_inside_the_ball_is_adversarial(
    norm, values, accepted, persistent
):
    x = np.full((1, 1, 2, 1), 0.5, np.float32)
    image = np.reshape(values, (1, 2, 1)).astype(np.float32)
    attack = Claim(norm, 0.1, image=image, persistent=persistent)
    (outcome,) = attack.outcomes(None, x, np.zeros(1, int), 0)
    assert outcome.broken is accepted
    np.testing.assert_array_equal(outcome.image, image if accepted else x[0])


def test_an_image_outside_the_box_is_not_adversarial():
    x = np.full((1, 1, 2, 1), 0.99, np.float32)
    (outcome,) = Claim(epsilon=0.1, image=x[0] + 0.02).outcomes(None, x, [0], 0)
    assert not outcome.broken


def test_norms_by_name():
    assert Invert("L2", 0.5).norm is Norm.L2


@pytest.mark.parametrize("epsilon", [0, -1, float("nan"), float("inf")])
def test_a_wrong_epsilon_is_refused(epsilon):
    with pytest.raises(ValueError, match="epsilon must be more than 0"):
        Invert(epsilon=epsilon)


def test_images_outside_the_box_are_refused():
    with pytest.raises(ValueError, match="must be in"):
        Invert().craft(halves, np.full((1, 2, 3, 1), 2.0), [0])
