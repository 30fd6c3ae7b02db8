"""The structure that all our attacks share, with the smallest attacks there are."""

import dataclasses

import numpy as np
import pytest
import tensorflow as tf

from advrush_tf.attacks.base import BatchedClassifier
from advrush_tf.attacks.geometry import Norm, length, per_image
from advrush_tf.attacks.iterative import Batch, IterativeAttack, StepResult


def brightness(images):
    """Class 1 for images that are more bright than dark."""
    mean = tf.reduce_mean(images, [1, 2, 3])
    return tf.stack([0.5 - mean, mean - 0.5], -1)


@dataclasses.dataclass(frozen=True)
class Brighten(IterativeAttack):
    """Adds 0.01 a step, in its last run only."""

    attempts: int = 1

    block = 5

    def runs(self, num_classes):
        return self.attempts

    @property
    def steps(self):
        return 25

    def start(self, batch):
        return {"images": batch.x, "last": batch.x}

    def strongest(self, state):
        return state["last"]

    def step(self, logits_fn, batch, index, draws, state):
        images = state["images"]
        wrong = tf.argmax(logits_fn(images), -1, tf.int32) != batch.y
        useful = tf.cast(batch.run == self.attempts - 1, tf.float32)
        brighter = images + 0.01 * per_image(useful)
        return StepResult({"images": brighter, "last": images}, images, wrong)


def shades(*values):
    x = np.ones((len(values), 2, 2, 1), np.float32)
    return x * np.reshape(values, (-1, 1, 1, 1)).astype(np.float32)


DARK = shades(0.45, 0.3, 0.49, 0.1, 0.395)
LABELS = np.zeros(5, np.int64)


def outcomes(attack, x=DARK, y=LABELS, batch_size=2, model=brightness):
    classifier = BatchedClassifier(model, x.shape[1:], batch_size)
    found = list(attack.outcomes(classifier, x, y, 0))
    assert sorted(outcome.index for outcome in found) == list(range(len(x)))
    return sorted(found, key=lambda outcome: outcome.index)


@pytest.mark.parametrize("batch_size", [1, 2, 5, 100])
@pytest.mark.parametrize("attempts", [1, 3])
def test_each_image_is_broken_by_the_first_step_that_can(batch_size, attempts):
    found = outcomes(Brighten(epsilon=0.15, attempts=attempts), batch_size=batch_size)
    assert [outcome.broken for outcome in found] == [True, False, True, False, True]
    expected = shades(0.51, 0.3, 0.51, 0.1, 0.505)
    images = np.stack([outcome.image for outcome in found])
    np.testing.assert_allclose(images, expected, atol=0.0051)
    np.testing.assert_array_equal(images[[1, 3]], DARK[[1, 3]])


def test_what_leaves_the_ball_does_not_count():
    found = outcomes(Brighten(epsilon=0.03))
    assert [outcome.broken for outcome in found] == [False, False, True, False, False]
    assert np.abs(found[2].image - DARK[2]).max() <= 0.03 + 1e-6


def _traces(images):
    """How often the model and the attack's step are traced for so many images."""
    traced = {"model": 0, "step": 0}

    def model(x):
        traced["model"] += 1
        return brightness(x)

    class Counted(Brighten):
        def step(self, *given):
            traced["step"] += 1
            return super().step(*given)

    attack = Counted(epsilon=0.15, attempts=4)
    outcomes(attack, DARK[:images], LABELS[:images], 3, model)
    return traced


def test_no_function_is_traced_again_as_fewer_images_survive():
    traced = _traces(5)
    # `classifier.logits` for its batch, which the attack's graph calls.
    assert traced["model"] == 1
    assert traced == _traces(3)


def test_no_step_is_taken_after_the_last_one():
    calls = tf.Variable(0)

    def model(images):
        calls.assign_add(1)
        return brightness(images)

    class Blocks(Brighten):
        block = 10

    outcomes(Blocks(epsilon=0.15), DARK[3:4], LABELS[3:4], model=model)
    # For the clean logits, and 25 steps in three blocks.
    assert calls.numpy() == 1 + 25
    calls.assign(0)
    outcomes(Blocks(epsilon=0.15), DARK[2:3], LABELS[2:3], model=model)
    # The third image that the model sees is wrong.
    assert calls.numpy() == 1 + 3


def test_no_images_are_no_outcomes():
    assert outcomes(Brighten(), DARK[:0], LABELS[:0]) == []


@pytest.mark.parametrize("norm", Norm)
def test_random_starts_are_on_the_border_and_differ_by_run(norm):
    x = tf.constant(shades(*[0.5] * 6))
    zero = tf.zeros(6, tf.int32)
    seed = tf.stack([zero, tf.range(6)], -1)
    runs = [
        Batch(x, zero, tf.zeros((6, 2)), seed, zero + run).in_ball(norm, 0.25) - x
        for run in (0, 1)
    ]
    np.testing.assert_allclose(length(norm, runs[0]), [0.25] * 6, rtol=1e-5)
    # All twelve differ.
    rows = np.reshape(runs, (12, -1))
    assert len(np.unique(rows.round(6), axis=0)) == 12


def test_a_persistent_attack_goes_on_to_its_strongest_image():
    found = outcomes(Brighten(epsilon=0.25, persistent=True))
    assert [outcome.broken for outcome in found] == [True, True, True, False, True]
    images = np.stack([outcome.image for outcome in found])
    # Those of the last step, whether they broke the model or not.
    np.testing.assert_allclose(images, DARK + 0.24, atol=1e-5)
