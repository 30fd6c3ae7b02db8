"""CleverHans' attacks against NumPy and closed forms, on tiny models."""

import dataclasses
import gc
import weakref

import keras
import numpy as np
import pytest
import tensorflow as tf

from advrush_tf.attacks.base import BatchedClassifier
from advrush_tf.attacks.cleverhans import (
    BIM,
    FGSM,
    MIM,
    PGD,
    SPSA,
    CarliniWagner,
    CleverHansAttack,
)
from advrush_tf.attacks.cleverhans_compat import scaled_gradient
from advrush_tf.attacks.fab import FAB
from advrush_tf.attacks.geometry import Norm
from support.attacked import distances, fitted, grey, linear

LINF, L2 = Norm.LINF, Norm.L2
ATTACKS = [
    FGSM(LINF, 0.02),
    FGSM(L2, 0.1),
    BIM(LINF, 0.02, 3),
    BIM(L2, 0.1, 3),
    PGD(LINF, 0.02, 3, restarts=2),
    PGD(L2, 0.1, 3, restarts=2),
    MIM(LINF, 0.02, 3),
    MIM(L2, 0.1, 3),
    CarliniWagner(L2, 0.1, searches=2, steps=8, learning_rate=0.1, first_weight=1.0),
    SPSA(LINF, 0.02, 3, samples=8),
]
RANDOM = [attack for attack in ATTACKS if isinstance(attack, PGD | SPSA)]
MODEL, WEIGHTS = linear()
X, Y = grey(MODEL, 7)


def names(attack):
    return f"{type(attack).__name__}-{attack.norm}"


def length(attack, delta):
    order = np.inf if attack.norm is LINF else 2
    return np.linalg.norm(delta.reshape(len(delta), -1), order, axis=1)


def outcomes(attack, model=MODEL, x=X, y=Y, batch_size=3, seed=0, indices=None):
    """In the images' order: what was tried last, and which are broken."""
    attack = dataclasses.replace(attack, persistent=True)
    return against(
        BatchedClassifier(model, x.shape[1:], batch_size), attack, x, y, seed, indices
    )


def against(classifier, attack, x=X, y=Y, seed=0, indices=None):
    found = sorted(
        attack.outcomes(classifier, x, y, seed, indices), key=lambda o: o.index
    )
    assert [outcome.index for outcome in found] == list(range(len(x)))
    images = np.stack([outcome.image for outcome in found])
    return images, np.array([outcome.broken for outcome in found])


def step_of(attack, slope):
    return np.sign(slope) if attack.norm is LINF else slope / np.linalg.norm(slope)


def by_hand(attack, x, y, steps, size, decay):
    """Steps of a linear model's momentum attack on one image, in float64."""
    image, momentum = x.astype(np.float64), 0.0
    for _ in range(steps):
        logits = (image - 0.5).ravel() @ WEIGHTS.astype(np.float64)
        share = np.exp(logits - logits.max())
        share = share / share.sum() - np.eye(len(logits))[y]
        slope = (WEIGHTS @ share).reshape(x.shape)
        momentum = decay * momentum + slope / np.abs(slope).mean()
        delta = image + size * step_of(attack, momentum) - x
        far = length(attack, delta[None])[0]
        if attack.norm is LINF:
            delta = np.clip(delta, -attack.epsilon, attack.epsilon)
        elif far > attack.epsilon:
            delta = delta * attack.epsilon / far
        image = np.clip(x + delta, 0, 1)
    return image


@pytest.mark.parametrize("norm", [LINF, L2])
@pytest.mark.parametrize(
    ("attack", "steps", "size", "decay"),
    [
        # Without momentum, the length of the gradient does not matter.
        (FGSM(epsilon=0.2), 1, 0.2, 0.0),
        (BIM(epsilon=0.2), 10, 0.05, 0.0),
        (BIM(epsilon=0.2, steps=2), 2, 0.2, 0.0),
        (BIM(epsilon=0.2, steps=4, step_size=0.03), 4, 0.03, 0.0),
        (MIM(epsilon=0.2), 10, 0.05, 1.0),
        (MIM(epsilon=0.2, steps=5, step_size=0.07, decay=0.5), 5, 0.07, 0.5),
    ],
)
def test_steps_by_hand(norm, attack, steps, size, decay):
    attack = dataclasses.replace(attack, norm=norm)
    images, _ = outcomes(attack)
    for x, y, image in zip(X, Y, images, strict=True):
        expected = by_hand(attack, x, y, steps, size, decay)
        np.testing.assert_allclose(image, expected, atol=5e-6)


@pytest.mark.parametrize("attack", RANDOM[:2], ids=names)
def test_pgd_starts_uniformly_in_the_ball(attack):
    x = np.full((300, 2, 2, 1), 0.5, np.float32)
    still = dataclasses.replace(attack, steps=1, step_size=1e-9, restarts=1)
    model, _ = linear(shape=(2, 2, 1))
    images, _ = outcomes(still, model, x, np.zeros(300, int), batch_size=300)
    delta = (images - x) / attack.epsilon
    assert np.abs(delta.mean(0)).max() < 0.12
    # The share of the ball's volume inside a uniform point's radius is uniform.
    inside = np.sort(length(attack, delta) ** 4)
    assert np.abs(inside - np.arange(300) / 300).max() < 0.09


def test_a_restart_only_for_survivors():
    calls = []

    class InTheSecondRun(CleverHansAttack):
        runs = 3

        def crafter(self, classifier):
            def crafter(x, y, seeds, run):
                calls.append((run, seeds.numpy()[:, 1].tolist()))
                # Of the odd ones, the first run breaks the model already.
                useful = (seeds[:, 1] % 2 == 1) | (run == 1) & (seeds[:, 1] > 0)
                return x + tf.reshape(tf.cast(useful, x.dtype), [-1, 1, 1, 1]) + run

            return crafter

    def bright(images):
        mean = tf.reduce_mean(images, [1, 2, 3])
        return tf.stack([0.65 - mean, mean - 0.65], -1)

    x = np.full((5, 2, 2, 1), 0.4, np.float32)
    x[0] = 0
    images, broken = outcomes(
        InTheSecondRun(epsilon=0.3), bright, x, np.zeros(5, int), batch_size=2
    )
    runs = [(0, [0, 1]), (0, [2, 3]), (0, [4, 4]), (1, [0, 2]), (1, [4, 4])]
    assert calls == [*runs, (2, [0, 0])]
    np.testing.assert_array_equal(broken, [False, True, True, True, True])
    np.testing.assert_allclose(images[:, 0, 0, 0], [0.3, 0.7, 0.7, 0.7, 0.7])


def moved_to(distance, norm):
    """The images, all as far from the nearest boundary."""
    scale = distance / distances(WEIGHTS, X, Y, norm)
    return (0.5 + (X - 0.5) * scale[:, None, None, None]).astype(np.float32)


def test_the_first_run_that_breaks_counts():
    # Hardly a step, so that only the random starts matter.
    attack = PGD(LINF, 0.1, 1, 1e-6)
    x = moved_to(0.005, LINF)
    first, broken_first = outcomes(attack, x=x)
    many, broken_many = outcomes(dataclasses.replace(attack, restarts=8), x=x)
    assert 0 < broken_first.sum() < broken_many.sum()
    np.testing.assert_array_equal(many[broken_first], first[broken_first])


def test_carlini_wagner_is_near_the_closed_form():
    attack = CarliniWagner(
        epsilon=10.0, searches=2, steps=60, learning_rate=0.002, first_weight=1e-3
    )
    x = moved_to(0.02, L2)
    images, broken = outcomes(attack, x=x, batch_size=7)
    assert broken.all()
    found = length(attack, images - x)
    assert (found > 0.999 * 0.02).all()
    assert (found < 1.2 * 0.02).all()
    # A ball that is too small moves what was found, which then is not adversarial.
    closer = dataclasses.replace(attack, epsilon=0.019)
    again, counted = outcomes(closer, x=x, batch_size=7)
    moved = (images - x) * (0.019 / found)[:, None, None, None]
    np.testing.assert_allclose(again - x, moved, atol=1e-6)
    assert not counted.any()


def test_carlini_wagner_finds_images_as_near_as_fab_does():
    model, x, y = fitted()
    right = np.argmax(model(x), -1) == y
    # Pixels at the ends of the range, which are far out in the attack's tanh space.
    x, y = np.where(x > 0.7, 1, np.where(x < 0.3, 0, x))[right], y[right]
    right = np.argmax(model(x), -1) == y
    x, y = x[right][:20].astype(np.float32), y[right][:20]
    _, far = FAB(L2, 1.0).minimal(model, x, y)
    attack = CarliniWagner(L2, 10.0, searches=1, steps=100, first_weight=3.0)
    crafted = attack.craft(model, x, y, batch_size=20)
    assert (np.argmax(model(crafted), -1) != y).all()
    assert length(attack, crafted - x).mean() < 1.03 * far.mean()


def test_spsa_raises_the_margin_and_stops_when_it_breaks():
    def margins(x):
        logits = (x - 0.5).reshape(len(x), -1) @ WEIGHTS
        right = logits[np.arange(len(x)), Y]
        logits[np.arange(len(x)), Y] = -np.inf
        return logits.max(1) - right

    far = distances(WEIGHTS, X, Y, LINF)
    attack = SPSA(LINF, float(far.min()) / 2, 8, samples=32)
    images, broken = outcomes(attack)
    assert not broken.any()
    # At least half of what the best image of the ball gains.
    gain = (margins(images) - margins(X)) / -margins(X)
    assert (gain > 0.5 * attack.epsilon / far).all()
    # More steps change only what these few did not break.
    attack = SPSA(LINF, float(np.median(far)) * 1.5, 2, samples=8)
    images, broken = outcomes(attack)
    more, broken_more = outcomes(dataclasses.replace(attack, steps=12))
    assert 0 < broken.sum() < broken_more.sum()
    np.testing.assert_array_equal(more[broken], images[broken])
    assert (more != images).any((1, 2, 3))[~broken].all()


def functional():
    inputs = keras.Input((4, 4, 3))
    hidden = keras.layers.Conv2D(2, 3, activation="relu")(inputs)
    hidden = keras.layers.Dropout(0.5)(keras.layers.Flatten()(hidden))
    return keras.Model(inputs, keras.layers.Dense(3)(hidden))


def sequential():
    layers = [keras.Input((4, 4, 3)), keras.layers.Flatten(), keras.layers.Dense(3)]
    return keras.Sequential(layers)


@pytest.mark.parametrize("make", [functional, sequential, lambda: MODEL])
def test_every_attack_on_every_model(make):
    keras.utils.set_random_seed(0)
    classifier = BatchedClassifier(make(), X.shape[1:], 3)
    y = np.argmax(classifier.predict(X), -1)
    for attack in ATTACKS:
        images, broken = against(classifier, attack, y=y)
        assert images.shape == X.shape
        assert images.dtype == np.float32
        assert (images >= 0).all()
        assert (images <= 1).all()
        inside = length(attack, images - X) <= attack.epsilon + 1e-6
        assert inside.all() or isinstance(attack, CarliniWagner)
        wrong = np.argmax(classifier.predict(images), -1) != y
        np.testing.assert_array_equal(broken, wrong & inside)


def test_craft_gives_the_images_of_the_outcomes():
    attack = PGD(LINF, 0.004, 3, restarts=2)
    crafted = attack.craft(MODEL, X, Y, seed=4, batch_size=3)
    tried, broken = outcomes(attack, seed=4)
    assert 0 < broken.sum() < len(X)
    np.testing.assert_array_equal(crafted[broken], tried[broken])
    np.testing.assert_array_equal(crafted[~broken], X[~broken])


@pytest.mark.parametrize("attack", ATTACKS, ids=names)
def test_nothing_is_traced_again(attack):
    traces = []

    def model(images):
        traces.append(images.shape)
        return MODEL(images)

    classifier = BatchedClassifier(model, X.shape[1:], 2)
    traced = _count_traces(classifier)
    list(attack.outcomes(classifier, X[:1], Y[:1], 0))
    assert len(traces) == 1
    counts = len(traces), len(traced), scaled_gradient.experimental_get_tracing_count()
    assert traced
    list(attack.outcomes(classifier, X[:5], Y[:5], 0))
    assert counts[0] == len(traces)
    assert counts[2] == scaled_gradient.experimental_get_tracing_count()
    # Carlini-Wagner's and SPSA's functions are those of a call of `outcomes`.
    again = 2 if isinstance(attack, CarliniWagner | SPSA) else 1
    assert len(traced) == again * counts[1]


def _count_traces(classifier):
    """Collects the calls of a classifier's logits while a function is traced."""
    traced = []

    def counted(logits):
        def call(images):
            if not tf.executing_eagerly():
                traced.append(images.shape)
            return logits(images)

        return call

    classifier.logits = counted(classifier.logits)
    classifier.followed_logits = counted(classifier.followed_logits)
    return traced


@pytest.mark.parametrize("attack", ATTACKS, ids=names)
def test_no_model_outlives_its_evaluation(attack):
    model, _ = linear()
    classifier = BatchedClassifier(model, X.shape[1:], 2)
    list(attack.outcomes(classifier, X[:3], Y[:3], 0))
    alive = weakref.ref(classifier)
    del classifier
    gc.collect()
    assert alive() is None


def test_attacks_share_a_traced_gradient():
    classifier = BatchedClassifier(MODEL, X.shape[1:], 2)
    before = scaled_gradient.experimental_get_tracing_count()
    for attack in (FGSM(LINF, 0.01), PGD(LINF, 0.01, 2, restarts=2)):
        list(attack.outcomes(classifier, X, Y, 0))
    assert scaled_gradient.experimental_get_tracing_count() == before + 1
