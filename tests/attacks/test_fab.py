import numpy as np
import pytest
import tensorflow as tf

from advrush_tf.attacks.fab import FAB
from advrush_tf.attacks.geometry import Norm, length
from advrush_tf.attacks.iterative import Batch

SIZE = 20
BOTH = pytest.mark.parametrize("targeted", [True, False])


def weights(classes, seed=0):
    return np.random.default_rng(seed).normal(size=(SIZE, classes)).astype("float32")


def linear(kernel):
    """Logits that are all 0 in the middle of the box."""
    return lambda images: tf.reshape(images - 0.5, [-1, SIZE]) @ kernel


def distances_to_boundary(norm, kernel, x, y):
    """Of each image: the least margin / dual norm of the difference of weights."""
    kernel, found = kernel.astype("float64"), []
    for image, label in zip(x.reshape(-1, SIZE), y, strict=True):
        slopes = np.delete(kernel[:, [label]] - kernel, label, 1)
        order = 1 if norm is Norm.LINF else 2
        sizes = np.linalg.norm(slopes, order, axis=0)
        found.append(np.min((image - 0.5) @ slopes / sizes))
    return np.array(found)


def images_at(norm, kernel, wanted):
    """Images at given distances from the boundary, and their labels."""
    generator = np.random.default_rng(1)
    offsets = generator.normal(size=(50, 1, 1, SIZE))
    y = np.argmax(offsets.reshape(-1, SIZE) @ kernel, -1)
    size = distances_to_boundary(norm, kernel, offsets + 0.5, y)
    # The others are so far from the middle for their distance that the box binds.
    far = np.argsort(size)[-len(wanted) :]
    scale = np.array(wanted) / size[far]
    x = 0.5 + offsets[far] * scale[:, None, None, None]
    return x.astype("float32"), y[far]


def sizes(norm, delta):
    return length(norm, tf.constant(delta)).numpy()


@BOTH
@pytest.mark.parametrize("classes", [2, 3])
@pytest.mark.parametrize("norm", Norm)
def test_distances_of_a_linear_classifier(norm, classes, targeted):
    kernel = weights(classes)
    wanted = np.linspace(0.004, 0.02, 7)
    x, y = images_at(norm, kernel, wanted)
    attack = FAB(norm, targeted=targeted, iterations=20)
    images, distances = attack.minimal(linear(kernel), x, y, batch_size=4)
    # An overshoot of 5 per cent is drawn back to half a per cent.
    assert (distances >= wanted * (1 - 1e-4)).all()
    assert (distances <= wanted * 1.006).all()
    np.testing.assert_allclose(sizes(norm, images - x), distances, rtol=1e-6)
    assert (np.argmax(linear(kernel)(images), -1) != y).all()


@BOTH
@pytest.mark.parametrize("norm", Norm)
def test_a_ball_slightly_too_small_and_slightly_larger(norm, targeted):
    kernel, epsilon = weights(3), 0.02
    ratios = np.array([0.99, 1.01] * 3)
    x, y = images_at(norm, kernel, ratios * epsilon)
    attack = FAB(norm, epsilon, targeted=targeted, iterations=20)
    images = attack.craft(linear(kernel), x, y, batch_size=4)
    broken = np.argmax(linear(kernel)(images), -1) != y
    np.testing.assert_array_equal(broken, ratios < 1)
    np.testing.assert_array_equal(images[~broken], x[~broken])
    assert (sizes(norm, images - x) <= epsilon + 1e-6).all()


HIDDEN = np.random.default_rng(2).normal(size=(SIZE, 6))
OUT = np.random.default_rng(3).normal(size=(6, 4))


def bent(images):
    return tf.tanh(tf.reshape(images, [-1, SIZE]) @ HIDDEN) @ OUT


def project_by_bisection(norm, x, w, b):
    value = w @ x + b
    direction = -np.sign(value) * np.sign(w)
    room = np.where(direction > 0, 1 - x, x)
    rate = np.ones_like(w) if norm is Norm.LINF else np.abs(w)
    low, high = 0.0, 1e3
    for _ in range(100):
        time = (low + high) / 2
        short = np.abs(w) @ np.minimum(time * rate, room) < abs(value)
        low, high = (time, high) if short else (low, time)
    return direction * np.minimum(high * rate, room)


def one_step(attack, image, x, label, rank):
    """FAB's step on one image as the paper has it: next image, candidate, wrong."""
    order = np.inf if attack.norm is Norm.LINF else 2
    hidden = np.tanh(image @ HIDDEN)
    jacobian = (HIDDEN * (1 - hidden**2)) @ (OUT - OUT[:, [label]])
    values = hidden @ OUT - hidden @ OUT[:, label]
    others = [k for k in range(4) if k != label]
    if attack.targeted:
        clean = np.tanh(x @ HIDDEN) @ OUT
        chosen = sorted(others, key=lambda k: -clean[k])[rank]
    else:
        dual = 1 if attack.norm is Norm.LINF else 2
        reach = np.abs(values[others]) / np.linalg.norm(jacobian[:, others], dual, 0)
        chosen = others[np.argmin(reach)]
    w = jacobian[:, chosen]
    b = values[chosen] - w @ image
    here = project_by_bisection(attack.norm, image, w, b)
    there = project_by_bisection(attack.norm, x, w, b)
    size, other = np.linalg.norm(here, order), np.linalg.norm(there, order)
    alpha = min(size / (size + other), attack.alpha_max)
    ahead = (1 - alpha) * (image + attack.eta * here)
    moved = np.clip(ahead + alpha * (x + attack.eta * there), 0, 1)
    wrong = np.argmax(np.tanh(moved @ HIDDEN) @ OUT) != label
    back = (1 - attack.beta) * x + attack.beta * moved
    return (back if wrong else moved), moved, wrong


@BOTH
@pytest.mark.parametrize("norm", Norm)
def test_steps_against_numpy(norm, targeted):
    x = np.random.default_rng(4).random((6, 1, 1, SIZE))
    logits = bent(x)
    y, run = np.argmax(logits, -1), np.arange(6) % 3
    batch = Batch(
        tf.constant(x),
        tf.constant(y, tf.int32),
        logits,
        tf.zeros((6, 2), tf.int32),
        tf.constant(run if targeted else 0 * run, tf.int32),
    )
    attack = FAB(norm, 100.0, targeted=targeted, alpha_max=0.3)
    state, expected = attack.start(batch), x.reshape(6, SIZE)
    seen = set()
    for _ in range(4):
        found = attack.step(bent, batch, None, None, state)
        rows = zip(expected, x.reshape(6, SIZE), y, run, strict=True)
        steps = [one_step(attack, *row) for row in rows]
        expected, moved, wrong = (np.array(part) for part in zip(*steps, strict=True))
        np.testing.assert_allclose(found.images.numpy().reshape(6, SIZE), moved)
        np.testing.assert_array_equal(found.wrong, wrong)
        state = found.state
        np.testing.assert_allclose(state["images"].numpy().reshape(6, SIZE), expected)
        seen |= set(wrong.tolist())
    assert seen == {True, False}


def test_a_step_that_leaves_the_ball_breaks_nothing():
    x = np.random.default_rng(4).random((6, 1, 1, SIZE))
    y, zero = np.argmax(bent(x), -1), tf.zeros(6, tf.int32)
    seeds = tf.zeros((6, 2), tf.int32)
    batch = Batch(tf.constant(x), tf.constant(y), bent(x), seeds, zero)
    attack, wrong, inside = FAB(epsilon=0.05), [], []
    state = attack.start(batch)
    for _ in range(4):
        found = attack.step(bent, batch, None, None, state)
        state = found.state
        wrong.append(np.argmax(bent(found.images), -1) != y)
        inside.append(sizes(Norm.LINF, found.images - x) <= 0.05)
        np.testing.assert_array_equal(found.wrong, wrong[-1] & inside[-1])
    assert (np.array(wrong) & ~np.array(inside)).any()
    assert (np.array(wrong) & np.array(inside)).any()


def test_runs_are_targets_and_restarts():
    assert FAB(targets=9, restarts=2).runs(3) == 4
    assert FAB(targets=2, restarts=3).runs(10) == 6
    assert FAB(targeted=False, restarts=3).runs(10) == 3


@pytest.mark.parametrize("norm", Norm)
def test_restarts_begin_at_half_of_epsilon(norm):
    x = tf.fill((4, 1, 1, SIZE), 0.5)
    run = tf.constant([0, 1, 2, 3])
    seed = tf.zeros((4, 2), tf.int32)
    batch = Batch(x, tf.zeros(4, tf.int32), tf.zeros((4, 3)), seed, run)
    start = FAB(norm, 0.2).start(batch)["images"]
    # Two targets of three classes, so that runs 2 and 3 are restarts.
    expected = [0.0, 0.0, 0.1, 0.1]
    np.testing.assert_allclose(sizes(norm, start - x), expected, atol=1e-6)
    assert (start[2].numpy() != start[3].numpy()).any()


def test_the_nearest_images_do_not_depend_on_their_batch():
    x = np.random.default_rng(5).random((7, 1, 1, SIZE)).astype("float32")

    def model(images):
        return bent(tf.cast(images, tf.float64))

    y = np.argmax(model(x), -1)
    attack = FAB(epsilon=0.03, iterations=10, restarts=2)
    images, distances = attack.minimal(model, x, y, batch_size=7)
    assert images.min() >= 0
    assert images.max() <= 1
    small, near = attack.minimal(model, x, y, batch_size=3)
    np.testing.assert_allclose(small, images, atol=1e-5)
    np.testing.assert_allclose(near, distances, rtol=1e-4)
    crafted = attack.craft(model, x, y, batch_size=7)
    broken = np.argmax(model(crafted), -1) != y
    np.testing.assert_array_equal(broken, distances <= 0.03)
    assert 0 < broken.sum() < 7


def test_images_that_are_wrong_or_cannot_be_broken():
    x = np.full((2, 1, 1, SIZE), 0.5, "float32")

    def constant(images):
        return 0 * linear(weights(3))(images) + [2.0, 1.0, 0.0]

    images, distances = FAB(iterations=2).minimal(constant, x, np.array([1, 0]))
    np.testing.assert_array_equal(distances, [0, np.inf])
    np.testing.assert_array_equal(images, x)
