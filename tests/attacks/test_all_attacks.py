"""The promises that every attack keeps, on a linear model of known robustness."""

import dataclasses
import functools
import warnings

import numpy as np
import pytest
import tensorflow as tf

from advrush_tf.attacks.apgd import APGD
from advrush_tf.attacks.base import BatchedClassifier
from advrush_tf.attacks.cleverhans import BIM, FGSM, MIM, PGD, SPSA, CarliniWagner
from advrush_tf.attacks.fab import FAB
from advrush_tf.attacks.geometry import Norm
from advrush_tf.attacks.square import Square
from support.attacked import distances, grey, linear

LINF, L2 = Norm.LINF, Norm.L2
MODEL, WEIGHTS = linear()
X, Y = grey(MODEL, 12)
FAR = {norm: distances(WEIGHTS, X, Y, norm) for norm in Norm}
# Half of the images can be broken.
NEAR = {norm: float(np.median(far)) for norm, far in FAR.items()}

# Each breaks what is nearer than epsilon by this factor.
ATTACKS = {
    FGSM(LINF, NEAR[LINF]): 1.05,
    FGSM(L2, NEAR[L2]): 1.05,
    BIM(LINF, NEAR[LINF], 10): 1.05,
    BIM(L2, NEAR[L2], 10): 1.05,
    PGD(LINF, NEAR[LINF], 20, restarts=2): 1.05,
    PGD(L2, NEAR[L2], 20, restarts=2): 1.05,
    MIM(LINF, NEAR[LINF], 10): 1.05,
    MIM(L2, NEAR[L2], 10): 1.05,
    CarliniWagner(
        L2, NEAR[L2], searches=2, steps=30, learning_rate=0.01, first_weight=0.03
    ): 1.1,
    SPSA(LINF, NEAR[LINF], 12, samples=16): 1.3,
    APGD(LINF, NEAR[LINF], "ce", iterations=20): 1.05,
    APGD(L2, NEAR[L2], "dlr", iterations=20, restarts=2): 1.05,
    APGD(LINF, NEAR[LINF], "targeted_dlr", iterations=20): 1.01,
    FAB(LINF, NEAR[LINF], iterations=10, restarts=2): 1.02,
    FAB(L2, NEAR[L2], targeted=False, iterations=10): 1.02,
    Square(LINF, NEAR[LINF], queries=300, restarts=2): 1.05,
    Square(L2, NEAR[L2], queries=300): 1.3,
}
RANDOM = [
    attack for attack in ATTACKS if isinstance(attack, PGD | SPSA | APGD | Square)
]


def names(attack):
    return f"{type(attack).__name__}-{attack.norm}-{getattr(attack, 'loss', '')}"


ALL = pytest.mark.parametrize("attack", ATTACKS, ids=names)


def outcomes(attack, x=X, y=Y, batch_size=5, seed=0, indices=None):
    """The adversarial images, and which of them are said to be broken."""
    classifier = BatchedClassifier(MODEL, x.shape[1:], batch_size)
    found = list(attack.outcomes(classifier, x, y, seed, indices))
    found.sort(key=lambda outcome: outcome.index)
    assert [outcome.index for outcome in found] == list(range(len(x)))
    images = np.stack([outcome.image for outcome in found])
    return images, np.array([outcome.broken for outcome in found])


first = functools.cache(outcomes)


@ALL
def test_images_are_inside_the_ball_and_the_box_and_verdicts_are_true(attack):
    images, broken = first(attack)
    assert (images.dtype, images.shape) == (np.float32, X.shape)
    assert images.min() >= 0
    assert images.max() <= 1
    order = np.inf if attack.norm is LINF else 2
    sizes = np.linalg.norm((images - X).reshape(len(X), -1), order, axis=1)
    assert sizes.max() <= attack.epsilon + 1e-6
    wrong = np.argmax(MODEL(tf.constant(images)), -1) != Y
    np.testing.assert_array_equal(broken, wrong)
    np.testing.assert_array_equal(images[~broken], X[~broken])


@ALL
def test_a_linear_model_is_broken_where_it_can_be(attack):
    far, (_, broken) = FAR[attack.norm], first(attack)
    assert not broken[far > 1.0001 * attack.epsilon].any()
    near = far * ATTACKS[attack] < attack.epsilon
    assert near.any()
    assert broken[near].all()


GRADIENT_ATTACKS = [
    FGSM(L2, NEAR[L2]),
    PGD(L2, NEAR[L2], 20),
    MIM(L2, NEAR[L2], 10),
    APGD(L2, NEAR[L2], "ce", iterations=20),
    FAB(L2, NEAR[L2], targeted=False, iterations=10),
]
WEIGHTED = CarliniWagner(L2, NEAR[L2], targets=1, searches=4, steps=80)


@pytest.mark.parametrize("scale", [1e-12, 1e4])
@pytest.mark.parametrize("attack", [*GRADIENT_ATTACKS, WEIGHTED], ids=names)
def test_the_scale_of_the_logits_does_not_matter(attack, scale):
    # Of more classes, the cross-entropy aims at all wrong ones at once.
    model, weights = linear(2)
    x, y = grey(model, 12)
    far = distances(weights, x, y, L2)
    attack = dataclasses.replace(attack, epsilon=float(np.median(far)))
    classifier = BatchedClassifier(lambda x: scale * model(x), x.shape[1:], 12)
    found = attack.outcomes(classifier, x, y, 0)
    broken = {outcome.index for outcome in found if outcome.broken}
    assert set(np.flatnonzero(far * 1.05 < attack.epsilon)) <= broken


@tf.custom_gradient
def _with_hole(images):
    """The images; their first pixel has no gradient that is a number."""

    def gradient(dy):
        hole = tf.one_hot(0, 48, float("nan"), 0.0)
        return dy + tf.reshape(hole, [1, *X.shape[1:]])

    return tf.identity(images), gradient


@pytest.mark.parametrize(
    "attack",
    [*GRADIENT_ATTACKS, PGD(LINF, NEAR[LINF], 20), APGD(LINF, NEAR[LINF], "dlr")],
    ids=names,
)
def test_gradients_that_are_not_finite_are_left_out(attack):
    classifier = BatchedClassifier(lambda x: MODEL(_with_hole(x)), X.shape[1:], 12)
    found = list(attack.outcomes(classifier, X, Y, 0))
    assert np.isfinite([outcome.image for outcome in found]).all()
    # Without that pixel, boundaries are a little farther away.
    broken = {outcome.index for outcome in found if outcome.broken}
    assert set(np.flatnonzero(FAR[attack.norm] * 1.3 < attack.epsilon)) <= broken
    assert len(broken) > 3
    assert classifier.bad_gradients


@pytest.mark.parametrize(
    "attack", [PGD(LINF, 0.6, 3), MIM(LINF, 0.6, 3), APGD(LINF, 0.6, iterations=2)]
)
@pytest.mark.parametrize("at_zero", [False, True])
def test_gradients_that_are_not_finite_where_an_attack_leads_are_named(attack, at_zero):
    # Clean images are grey, and steps clip pixels to 0.
    def model(images):
        roots = tf.reduce_sum(tf.sqrt(images + 1.0 - at_zero), [1, 2, 3])
        return MODEL(images) + 1e-9 * tf.stack([roots, 0 * roots, 0 * roots], -1)

    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        attack.craft(model, X, Y)
    sentences = [str(warning.message) for warning in caught]
    assert len(sentences) == at_zero
    assert all("During the attack the model's gradient had NaN" in s for s in sentences)


def test_images_that_are_not_finite_break_nothing():
    @tf.custom_gradient
    def no_gradient(images):
        return tf.identity(images), lambda dy: dy * float("nan")

    def model(images):
        # NaN would be of another class.
        known = tf.reduce_all(tf.math.is_finite(images), [1, 2, 3])
        kind = tf.cast(known, tf.float32) + 0 * tf.reduce_sum(
            no_gradient(images), [1, 2, 3]
        )
        return tf.stack([kind, 1 - kind], -1)

    zeros = np.zeros(12, int)
    for attack in GRADIENT_ATTACKS:
        np.testing.assert_array_equal(attack.craft(model, X, zeros), X)


@ALL
def test_an_image_does_not_depend_on_its_batch(attack):
    images, broken = first(attack)
    order = np.array([6, 0, 11, 3, 1])
    some, broken_some = outcomes(attack, X[order], Y[order], 4, indices=order)
    np.testing.assert_allclose(some, images[order], atol=2e-6)
    np.testing.assert_array_equal(broken_some, broken[order])


@ALL
def test_global_random_numbers_do_not_matter(attack):
    images, _ = first(attack)
    tf.random.set_seed(1)
    np.random.seed(1)
    expected = float(tf.random.uniform([])), np.random.random()
    tf.random.set_seed(1)
    np.random.seed(1)
    again, _ = outcomes(attack)
    assert (float(tf.random.uniform([])), np.random.random()) == expected
    np.testing.assert_array_equal(again, images)


@pytest.mark.parametrize("attack", RANDOM, ids=names)
def test_another_seed_is_another_attack(attack):
    if isinstance(attack, PGD | SPSA):
        # More steps lead from all starts to one corner of the ball.
        attack = dataclasses.replace(attack, steps=1)
    images, broken = first(attack)
    for seed, indices in ((1, None), (0, np.arange(12) + 12)):
        other, broken_too = outcomes(attack, seed=seed, indices=indices)
        # Our own attacks give back the image that they do not break.
        assert (other != images).any((1, 2, 3))[broken & broken_too].any()


@ALL
def test_no_images(attack):
    # Where earlier attacks have broken all.
    classifier = BatchedClassifier(MODEL, X.shape[1:], 5)
    assert not list(attack.outcomes(classifier, X[:0], Y[:0], 0))
    with pytest.raises(ValueError, match="there are no images"):
        attack.craft(MODEL, X[:0], Y[:0])


KINDS = list(dict.fromkeys(type(attack) for attack in ATTACKS))
NAN, INFINITE = float("nan"), float("inf")


@pytest.mark.parametrize("value", [0.0, -1.0, NAN, INFINITE])
@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
def test_an_epsilon_out_of_range_is_refused(kind, value):
    with pytest.raises(ValueError, match=f"epsilon must be more than 0, not {value}"):
        kind(epsilon=value)


@pytest.mark.parametrize(
    ("kind", "values", "message"),
    [
        (FGSM, {"norm": "L1"}, "norm must be Linf or L2, not L1"),
        (CarliniWagner, {"norm": LINF}, "norm must be L2, not Linf"),
        (SPSA, {"norm": "L2"}, "norm must be Linf, not L2"),
        (APGD, {"norm": "L1"}, "L1"),
        (BIM, {"steps": 0}, "steps must be more than 0, not 0"),
        (PGD, {"restarts": 0}, "restarts must be more than 0, not 0"),
        (PGD, {"step_size": 0.2, "epsilon": 0.1}, "at most epsilon, 0.1, not 0.2"),
        (MIM, {"step_size": 0.0}, "step_size must be more than 0"),
        (MIM, {"decay": -1.0}, "decay must be 0 or more"),
        (CarliniWagner, {"learning_rate": 0.0}, "learning_rate"),
        (CarliniWagner, {"searches": 0}, "searches"),
        (SPSA, {"samples": 3}, "samples must be even"),
        (SPSA, {"delta": -0.1}, "delta"),
        *((APGD, {name: 0}, f"{name} must be 1 or more, not 0") for name in
          ("iterations", "restarts", "targets", "eot")),
        (APGD, {"loss": "best"}, "best"),
        *((FAB, {name: 0}, f"{name} must be 1 or more, not 0") for name in
          ("targets", "iterations", "restarts", "eta")),
        (FAB, {"eta": NAN}, "eta must be 1 or more"),
        (FAB, {"alpha_max": 1.1}, "alpha_max must be from 0 to 1"),
        (FAB, {"beta": 0.0}, "beta must be in"),
        (FAB, {"persistent": True}, "cannot be persistent"),
        *((Square, {name: 0}, f"{name} must be 1 or more, not 0") for name in
          ("queries", "restarts")),
        (Square, {"initial_share": 0.0}, "initial_share 0.0 is not in"),
        (Square, {"initial_share": 1.5}, "initial_share 1.5 is not in"),
    ],
)  # fmt: skip
def test_wrong_numbers(kind, values, message):
    with pytest.raises(ValueError, match=message):
        kind(**values)
