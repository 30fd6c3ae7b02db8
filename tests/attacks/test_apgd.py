import math

import numpy as np
import pytest
import tensorflow as tf

from advrush_tf.attacks.apgd import APGD, Loss, checkpoints
from advrush_tf.attacks.geometry import Norm
from advrush_tf.attacks.iterative import Batch
from advrush_tf.attacks.randomness import seeds_of
from support.attacked import distances, fitted, grey, linear

EPSILONS = {Norm.LINF: 0.05, Norm.L2: 0.25}


def test_the_published_checkpoints():
    # By hand from the recurrence; the paper starts 100 steps at 22.
    assert checkpoints(100) == [22, 41, 57, 70, 80, 87, 93, 99]
    assert checkpoints(50) == [11, 21, 29, 35, 40, 44, 47, 50]
    assert checkpoints(1) == [1]


def clip(norm, image, x, epsilon):
    delta = image - x
    if norm is Norm.LINF:
        delta = np.clip(delta, -epsilon, epsilon)
    elif np.linalg.norm(delta) > epsilon:
        delta = delta * epsilon / np.linalg.norm(delta)
    return np.clip(x + delta, 0, 1)


def rising(norm, gradient):
    if norm is Norm.LINF:
        return np.sign(gradient)
    return gradient / max(np.linalg.norm(gradient), 1e-12)


def algorithm_1(loss_and_gradient, x, start, norm, epsilon, iterations):
    """Auto-PGD but for one "at most", for one image: the iterates, x_0 first."""

    def step(now, before, gradient, share):
        ahead = clip(norm, now + size * rising(norm, gradient), x, epsilon)
        moved = now + share * (ahead - now) + (1 - share) * (now - before)
        return clip(norm, moved, x, epsilon)

    size, images = 2 * epsilon, [start]
    losses = [loss_and_gradient(start)[0]]
    best, best_loss, last_best, last_size, rises = start, losses[0], -math.inf, 0, 0
    last_check = 0
    before = start
    for k in range(iterations):
        now = images[-1]
        origin = now
        if k in checkpoints(iterations):
            # The official code's rule, where the paper has "fewer than".
            few = rises <= 0.75 * (k - last_check)
            same = size == last_size and best_loss <= last_best
            last_size, last_best = size, best_loss
            if few or same:
                size, origin = size / 2, best
            last_check, rises = k, 0
        gradient = loss_and_gradient(origin)[1]
        images.append(step(origin, before, gradient, 1.0 if k == 0 else 0.75))
        before = origin
        losses.append(loss_and_gradient(images[-1])[0])
        rises += losses[-1] > losses[-2]
        if losses[-1] > best_loss:
            best, best_loss = images[-1], losses[-1]
    return images


@pytest.mark.parametrize("norm", Norm)
@pytest.mark.parametrize("loss", ["ce", "dlr", "targeted_dlr"])
def test_iterates_are_those_of_algorithm_1(norm, loss):
    model, x, y = fitted()
    attack = APGD(norm, EPSILONS[norm], loss, iterations=40)
    x, y = tf.constant(x[:4], tf.float64), tf.constant(y[:4], tf.int32)
    kernels = [tf.cast(weight, tf.float64) for weight in model.trainable_variables]

    def logits_fn(images):
        hidden = tf.nn.conv2d(images, kernels[0], 1, "VALID") + kernels[1]
        hidden = tf.reshape(tf.nn.relu(hidden), [images.shape[0], -1])
        return hidden @ kernels[2] + kernels[3]

    clean = logits_fn(x)
    batch = Batch(x, y, clean, seeds_of(0, range(4)), tf.zeros(4, tf.int32))
    state, seen = attack.start(batch), []
    step = tf.function(lambda i, s: attack.step(logits_fn, batch, i, tf.zeros(0), s))
    for index in range(attack.steps):
        found = step(tf.fill([4], index), state)
        state = found.state
        seen.append(found.images.numpy())

    @tf.function
    def traced(image, label, target):
        with tf.GradientTape() as tape:
            tape.watch(image)
            value = plain_loss(loss, logits_fn(image[tf.newaxis])[0], label, target)
        return value, tape.gradient(value, image)

    for row in range(4):
        order = np.argsort(clean[row])[::-1]
        target = tf.constant(next(k for k in order if k != y[row]), tf.int32)

        def loss_and_gradient(image, row=row, target=target):
            value, gradient = traced(tf.constant(image), y[row], target)
            return float(value), gradient.numpy()

        expected = algorithm_1(
            loss_and_gradient, x[row].numpy(), seen[0][row], norm, EPSILONS[norm], 40
        )
        np.testing.assert_allclose([s[row] for s in seen], expected, atol=1e-9)


def plain_loss(name, logits, label, target):
    """The three losses, as the paper writes them, of one image."""
    ordered = tf.sort(logits, direction="DESCENDING")
    if name == "ce":
        return tf.reduce_logsumexp(logits) - logits[label]
    if name == "targeted_dlr":
        scale = ordered[0] - (ordered[2] + ordered[3]) / 2
        return -(logits[label] - logits[target]) / scale
    right = tf.argmax(logits, output_type=tf.int32) == label
    other = tf.where(right, ordered[1], ordered[0])
    return -(logits[label] - other) / (ordered[0] - ordered[2])


@pytest.mark.parametrize("norm", Norm)
@pytest.mark.parametrize(
    ("loss", "classes"),
    # Cross-entropy aims at all wrong classes at once: with two there is one.
    [(Loss.CE, 2), (Loss.DLR, 3), (Loss.TARGETED_DLR, 2), (Loss.TARGETED_DLR, 5)],
)
def test_breaks_a_linear_model_exactly_where_that_can_be(norm, loss, classes):
    model, weights = linear(classes)
    x, y = grey(model)
    away = distances(weights, x, y, norm)
    epsilon = float(np.median(away))
    attack = APGD(norm, epsilon, loss, iterations=30)
    crafted = attack.craft(model, x, y, batch_size=16)
    broken = np.argmax(model(tf.constant(crafted)), -1) != y
    assert not broken[away > 1.0001 * epsilon].any()
    # A sign's step is optimal here, a gradient's only close to it.
    reached = away < (0.999 if norm is Norm.LINF else 0.97) * epsilon
    assert broken[reached].all()
    assert reached.sum() > 5


def test_gradients_are_averaged_over_a_random_model():
    # The noise on the gradient is twice its length: one gradient goes astray.
    model, weights = linear(2)
    x, y = grey(model, 40)
    generator = tf.random.Generator.from_seed(0)

    def noisy(images):
        noise = generator.normal(weights.shape, stddev=4.0)
        flat = tf.reshape(images - 0.5, [-1, len(weights)])
        return flat @ (weights + noise)

    epsilon = float(np.median(distances(weights, x, y, Norm.LINF))) * 1.3
    shares = []
    for eot in (1, 30):
        attack = APGD(epsilon=epsilon, iterations=1, eot=eot)
        batch = Batch(
            tf.constant(x),
            tf.constant(y, tf.int32),
            model(tf.constant(x)),
            seeds_of(0, range(40)),
            tf.zeros(40, tf.int32),
        )
        state, zero = attack.start(batch), tf.zeros(40, tf.int32)
        state = attack.step(noisy, batch, zero, tf.zeros(0), state).state
        shares.append(np.mean(np.argmax(model(state["images"]), -1) != y))
    assert shares[1] > shares[0] + 0.1


# The second time the cross-entropy and its gradient underflow.
@pytest.mark.parametrize("shift", [0, -200])
@pytest.mark.parametrize("loss", ["ce", "dlr"])
def test_gradients_of_the_loss_are_averaged(loss, shift):
    # Three passes, whose gradients in two pixels differ as their confidence does.
    slopes = np.array([[1.0, 0.0], [0.0, -2.0], [0.5, 3.0]])
    offsets = shift + np.array([-2.0, 0.5, -1.0])
    passes = tf.Variable(0)

    def model(images):
        row = passes.assign_add(1) - 1
        slope, offset = (
            tf.gather(tf.constant(v, tf.float32), row) for v in (slopes, offsets)
        )
        margin = tf.reduce_sum(images * tf.reshape(slope, [1, 1, 2, 1]), [1, 2, 3])
        return tf.stack([0 * margin, margin + offset], -1)

    x, y = tf.fill([1, 1, 2, 1], 0.0), tf.zeros(1, tf.int32)
    batch = Batch(x, y, tf.zeros([1, 2]), seeds_of(0, range(1)), y)
    attack = APGD(loss=loss, eot=3)
    state = attack.start(batch) | {"images": x}
    found = attack.step(model, batch, y, tf.zeros(0), state).state["best_gradient"]
    weights = np.exp(-np.logaddexp(0, -offsets)) if loss == "ce" else np.ones(3)
    expected = weights @ slopes
    direction = np.ravel(found) / np.linalg.norm(found)
    np.testing.assert_allclose(
        direction, expected / np.linalg.norm(expected), rtol=1e-5
    )


def test_one_pass_over_a_random_model_decides():
    # Wrong in one of four passes; on average right.
    margins = tf.constant([-9.0, -9.0, -9.0, 1.0])
    passes = tf.Variable(0)

    def model(images):
        margin = tf.gather(margins, passes.assign_add(1) - 1)
        margin += 0 * tf.reduce_sum(images, [1, 2, 3])
        return tf.stack([-margin, margin], -1)

    x, y = tf.fill([1, 2, 2, 1], 0.5), tf.zeros(1, tf.int32)
    batch = Batch(x, y, tf.zeros([1, 2]), seeds_of(0, range(1)), y)
    attack = APGD(eot=4)
    found = attack.step(model, batch, y, tf.zeros(0), attack.start(batch))
    assert passes.numpy() == 4
    assert found.wrong.numpy().all()


def test_runs():
    assert APGD(restarts=3).runs(10) == 3
    assert APGD(loss="targeted_dlr").runs(10) == 9
    assert APGD(loss="targeted_dlr").runs(3) == 2
    assert APGD(loss="targeted_dlr", restarts=2).runs(1000) == 18
