import numpy as np
import pytest
import tensorflow as tf

from advrush_tf.attacks.base import BatchedClassifier
from advrush_tf.attacks.geometry import Norm
from advrush_tf.attacks.iterative import Batch
from advrush_tf.attacks.randomness import seeds_of
from advrush_tf.attacks.square import Square

SHAPES = [(8, 8, 1), (6, 7, 3)]


def batch_of(x, y=None):
    rows = tf.range(len(x))
    y = tf.zeros_like(rows) if y is None else tf.constant(y, tf.int32)
    logits = tf.zeros([len(x), 2])
    return Batch(tf.constant(x), y, logits, seeds_of(3, rows), tf.zeros_like(rows))


def images(shape, count, low=0.0, high=1.0, seed=0):
    generator = np.random.default_rng(seed)
    return generator.uniform(low, high, (count, *shape)).astype(np.float32)


def draws_of(attack, x, seed=1):
    generator = np.random.default_rng(seed)
    return generator.random((len(x), attack.draws(x.shape[1:])), np.float32)


def candidates(attack, x, best, indices, draws):
    """What one step proposes when `best` is the better image."""
    state = {
        "candidate": tf.constant(best),
        "best": tf.zeros_like(x),
        "margin": tf.fill([len(x)], -9.0),
    }
    indices = tf.constant(indices, tf.int32)
    found = attack.step(
        lambda z: tf.zeros([len(z), 2]),
        batch_of(x),
        indices,
        tf.constant(draws[:, None]),
        state,
    )
    return found.state["candidate"].numpy()


def inside_ball(attack, x, count):
    """The given images and random ones of the ball, as the best images of a run."""
    noise = images(x.shape[1:], count, -1, 1, seed=7)
    if attack.norm is Norm.L2:
        noise /= np.sqrt((noise**2).sum((1, 2, 3), keepdims=True))
    best = np.clip(x + attack.epsilon * noise, 0, 1)
    best[::4] = x[::4]
    return best.astype(np.float32)


def linear(weights):
    """Two logits of which the second is the margin of label 0, less a bias."""
    kernel = tf.constant(weights.reshape(-1, 1), tf.float32)

    def logits(z):
        margin = tf.reshape(z - 0.5, [-1, kernel.shape[0]]) @ kernel
        return tf.concat([tf.zeros_like(margin), margin - 1.0], -1)

    return logits


def eta(side):
    """Equations 1 and 2, with their one-based indices; the halves are rows."""

    def bump(h1, h2):
        n = h1 // 2
        values = np.zeros((h1, h2))
        for r in range(1, h1 + 1):
            for s in range(1, h2 + 1):
                m = n - max(abs(r - h1 // 2 - 1), abs(s - h2 // 2 - 1))
                values[r - 1, s - 1] = sum(1 / (n + 1 - k) ** 2 for k in range(m + 1))
        return values

    k = side // 2
    both = np.concatenate([bump(side, k), -bump(side, side - k)], 1).T
    return both / np.linalg.norm(both)


def test_the_pattern_by_hand():
    x = np.full((2, 5, 5, 1), 0.5, np.float32)
    # The first row and column; upright then turned; a sign of + then -.
    draws = np.array([[0, 0, 0.9, 0.9, 0.9, 0.9], [0, 0, 0.9, 0.9, 0.1, 0.1]])
    attack = Square(Norm.L2, 0.3)
    found = candidates(attack, x, x, [4999, 4999], draws.astype(np.float32))
    hand = np.array([[1, 5, 1], [-1, -1, -1], [-1, -5, -1]])
    hand = 0.3 * hand / np.sqrt(57)
    expected = np.zeros((2, 5, 5))
    expected[0, :3, :3], expected[1, :3, :3] = hand, -hand.T
    np.testing.assert_allclose(found[..., 0] - 0.5, expected, atol=1e-7)


def test_sides_by_hand():
    def runs(attack, *size):
        sides = attack.sides(*size)
        firsts = [0, *(np.flatnonzero(np.diff(sides)) + 1)]
        return [(int(first), int(sides[first])) for first in firsts]

    assert runs(Square(), 32, 32) == [
        (0, 29), (11, 20), (51, 14), (201, 10), (501, 7), (1001, 5), (2001, 4),
        (4001, 3),
    ]  # fmt: skip
    assert runs(Square(queries=10_000), 16, 16)[-1] == (4001, 1)
    # Odd ones of at least 3; at 2001 the 4 becomes a 5 again.
    assert runs(Square(Norm.L2), 32, 32) == [
        (0, 29), (11, 21), (51, 15), (201, 11), (501, 7), (1001, 5), (4001, 3),
    ]  # fmt: skip
    assert runs(Square(queries=1), 6, 7) == [(0, 6)]
    assert runs(Square(Norm.L2, queries=1), 6, 7) == [(0, 5)]
    assert runs(Square(queries=1, initial_share=1.0), 4, 9) == [(0, 4)]
    assert runs(Square(Norm.L2), 2, 2) == [(0, 1)]


@pytest.mark.parametrize("shape", SHAPES)
def test_an_linf_candidate_differs_in_one_square(shape):
    # The best images touch neither border, so that all of a square changes.
    x, attack = images(shape, 40, 0.03, 0.97), Square(Norm.LINF, 0.1)
    best = inside_ball(Square(Norm.LINF, 0.02), x, 40)
    indices = np.resize([0, 30, 100, 4999], 40)
    found = candidates(attack, x, best, indices, draws_of(attack, x))
    for image, before, after, index in zip(x, best, found, indices, strict=True):
        rows, columns = np.nonzero((before != after).any(-1))
        sides = [np.ptp(rows) + 1, np.ptp(columns) + 1]
        assert sides == [attack.sides(*shape[:2])[index]] * 2
        box = np.s_[rows.min() : rows.max() + 1, columns.min() : columns.max() + 1]
        for channel in range(shape[2]):
            choices = [
                np.clip(image[box][..., channel] + sign * np.float32(0.1), 0, 1)
                for sign in (-1, 1)
            ]
            assert any((after[box][..., channel] == one).all() for one in choices)


def l2_candidate(x, best, epsilon, side, draws):
    """Algorithm 3 for one image, without the clipping to [0, 1]."""
    (height, width, channels), nu = x.shape, (best - x).astype(float)
    free = np.array([height, width] * 2, np.float32) + 1 - side
    r1, s1, r2, s2 = (draws[:4] * free).astype(int)
    w1 = np.s_[r1 : r1 + side, s1 : s1 + side]
    w2 = np.s_[r2 : r2 + side, s2 : s2 + side]
    either = np.zeros((height, width), bool)
    either[w1] = either[w2] = True
    pattern = eta(side).T if draws[4] < 0.5 else eta(side)
    unused = max(epsilon**2 - (nu**2).sum(), 0)
    for channel in range(channels):
        old = nu[..., channel]
        size = np.linalg.norm(old[w1])
        new = pattern * (-1 if draws[5 + channel] < 0.5 else 1)
        new = new + (old[w1] / size if size else 0)
        available = np.sqrt((old[either] ** 2).sum() + unused / channels)
        old[w2] = 0
        old[w1] = new / np.linalg.norm(new) * available
    return x + nu


@pytest.mark.parametrize("shape", SHAPES)
def test_an_l2_candidate_is_that_of_algorithm_3(shape):
    x, attack = images(shape, 40), Square(Norm.L2, 0.5)
    best, draws = inside_ball(attack, x, 40), draws_of(attack, x)
    indices = np.resize([0, 30, 4999], 40)
    found = candidates(attack, x, best, indices, draws)
    for row, index in enumerate(indices):
        side = attack.sides(*shape[:2])[index]
        expected = l2_candidate(x[row], best[row], 0.5, side, draws[row])
        np.testing.assert_allclose(found[row], np.clip(expected, 0, 1), atol=2e-6)


@pytest.mark.parametrize("shape", SHAPES)
def test_l2_candidates_use_the_whole_budget(shape):
    # Nothing is clipped to [0, 1] from here.
    x, attack = images(shape, 30, 0.45, 0.55), Square(Norm.L2, 0.4)
    best = attack.start(batch_of(x))["candidate"].numpy()
    for seed in range(5):
        norms = np.sqrt(((best - x) ** 2).sum((1, 2, 3)))
        np.testing.assert_allclose(norms, 0.4, atol=1e-6)
        draws = draws_of(attack, x, seed)
        best = candidates(attack, x, best, np.resize([5, 4999], 30), draws)


@pytest.mark.parametrize("norm", list(Norm))
def test_places_are_uniform(norm):
    x = np.full((3000, 6, 7, 1), 0.5, np.float32)
    attack = Square(norm, 0.1)
    found = candidates(attack, x, x, [4999] * len(x), draws_of(attack, x))
    changed = (found != x)[..., 0].reshape(len(x), -1)
    places, counts = np.unique(changed.argmax(1), return_counts=True)
    side = attack.sides(6, 7)[4999]
    assert len(places) == (7 - side) * (8 - side)
    # Within five standard deviations.
    mean = len(x) / len(places)
    assert np.abs(counts - mean).max() < 5 * np.sqrt(mean)


@pytest.mark.parametrize("shape", SHAPES)
def test_the_linf_start_has_vertical_stripes(shape):
    x = np.full((20, *shape), 0.5, np.float32)
    start = Square(Norm.LINF, 0.25).start(batch_of(x))["candidate"].numpy()
    assert set(np.unique(start)) == {0.25, 0.75}
    assert (start == start[:, :1]).all()
    # The sign of each column of each channel is by itself, and even.
    ups = (start[:, 0] > 0.5).mean(0)
    assert ups.min() > 0.05 and ups.max() < 0.95
    assert len(np.unique(start[:, 0].reshape(20, -1), axis=0)) == 20


@pytest.mark.parametrize(
    ("shape", "side", "corner"),
    [((16, 18, 3), 3, (0, 1)), ((12, 11, 1), 2, (1, 0)), ((8, 8, 1), 1, (1, 1))],
)
def test_the_l2_start_is_a_grid_of_patterns(shape, side, corner):
    x = np.full((6, *shape), 0.5, np.float32)
    delta = Square(Norm.L2, 0.3).start(batch_of(x))["candidate"].numpy() - x
    np.testing.assert_allclose(np.sqrt((delta**2).sum((1, 2, 3))), 0.3, rtol=1e-5)
    tiles = delta[:, corner[0] :, corner[1] :][:, : 5 * side, : 5 * side]
    assert np.count_nonzero(delta) == np.count_nonzero(tiles) == tiles.size
    tiles = tiles.reshape(6, 5, side, 5, side, -1).transpose(0, 1, 3, 5, 2, 4)
    size = 0.3 / np.sqrt(25 * shape[2])
    kinds = size * np.array([eta(side), -eta(side), eta(side).T, -eta(side).T])
    gaps = np.abs(tiles[..., None, :, :] - kinds).max((-1, -2))
    assert gaps.min(-1).max() < 1e-6
    # Every kind occurs, and all channels of a tile have one direction.
    assert len(np.unique(gaps.argmin(-1))) == (4 if side > 1 else 2)
    direction = gaps.argmin(-1) // 2
    assert (direction == direction[..., :1]).all()


@pytest.mark.parametrize("norm", list(Norm))
def test_the_best_margin_never_falls(norm):
    x, attack = images((8, 8, 1), 5), Square(norm, 0.2)
    model = linear(np.random.default_rng(2).normal(size=64))
    batch = batch_of(x)
    state, seen = attack.start(batch), []
    for step in range(30):
        tried = model(state["candidate"])[:, 1]
        index = tf.fill([5], step)
        draws = tf.constant(draws_of(attack, x, step)[:, None])
        found = attack.step(model, batch, index, draws, state)
        seen.append(tried)
        state = found.state
        np.testing.assert_array_equal(state["margin"], np.max(seen, 0))
        np.testing.assert_allclose(model(state["best"])[:, 1], state["margin"])
        np.testing.assert_array_equal(found.wrong, tried > 0)
    rises = np.diff(np.maximum.accumulate(seen, 0), axis=0)
    assert (rises > 0).any(0).all() and (rises == 0).any(0).all()


@pytest.mark.parametrize(
    ("norm", "dual", "room"), [(Norm.LINF, 1, 1.03), (Norm.L2, 2, 1.6)]
)
def test_a_linear_model_is_broken_where_it_can_be(norm, dual, room):
    # Single pixels come after 200 candidates, so that Linf reaches the best corner;
    # the squares of L2 stay 3 by 3.
    x = images((4, 4, 1), 40, 0.3, 0.7)
    weights = np.random.default_rng(4).normal(size=16)
    clean = (x.reshape(40, 16) - 0.5) @ weights - 1.0
    # By Hölder's inequality; no image can leave [0, 1].
    needed = -clean / np.linalg.norm(weights, dual)
    epsilon = float(np.median(needed))
    assert epsilon < 0.3
    attack = Square(norm, epsilon, queries=500)
    classifier = BatchedClassifier(linear(weights), (4, 4, 1), 16)
    broken = np.zeros(40, bool)
    for outcome in attack.outcomes(classifier, x, np.zeros(40, int), 0):
        broken[outcome.index] = outcome.broken
        assert not outcome.broken or linear(weights)(outcome.image[None])[0, 1] > 0
    cannot, can = needed > epsilon, needed * room < epsilon
    assert cannot.sum() > 5 and can.sum() > 5
    assert not broken[cannot].any()
    assert broken[can].all()


@pytest.mark.parametrize(
    ("norm", "epsilon", "lead", "persistent"),
    [
        (Norm.LINF, 0.2, 5, False),
        (Norm.LINF, 0.2, 5, True),
        (Norm.L2, 1.0, 3, False),
    ],
)
def test_candidates_ahead_change_nothing(norm, epsilon, lead, persistent):
    x, rows = images((6, 7, 3), 8, 0.3, 0.7), np.zeros(8, int)
    # In eighths, of which sums are exact in any order.
    kernel = np.random.default_rng(5).integers(-8, 8, 126) / 8

    def logits(z):
        weighted = tf.reshape(tf.round(512 * z) / 512, [-1, 126]) * kernel
        margin = tf.reduce_sum(weighted, 1) - 0.5 * kernel.sum() - lead
        return tf.stack([tf.zeros_like(margin), margin], 1)

    attack = Square(norm, epsilon, queries=120, persistent=persistent)
    outcomes = []
    for batch_size in (8, 100):
        classifier = BatchedClassifier(logits, (6, 7, 3), batch_size)
        found = attack.outcomes(classifier, x, rows, 0)
        outcomes.append(sorted(found, key=lambda outcome: outcome.index))
    assert [attack.ahead(8, size) for size in (8, 16, 32, 100)] == [1, 1, 4, 12]
    assert 0 < sum(outcome.broken for outcome in outcomes[0]) < 8
    for found in outcomes[1:]:
        for one, other in zip(found, outcomes[0], strict=True):
            assert one.broken == other.broken
            np.testing.assert_allclose(one.image, other.image, atol=1e-5)


def test_slots_wait_for_one_whose_candidates_all_count():
    looks = tf.Variable(0.0)

    def logits(z):
        # The first image's margin stays, the second's rises with each look, and the
        # third is wrong at once.
        rising = looks.assign_add(1.0) - 1000
        mean = tf.reduce_mean(z, [1, 2, 3])
        margin = tf.where(mean < 0.4, -1.0, tf.where(mean > 0.7, rising, 1.0))
        return tf.stack([tf.zeros_like(margin), margin], 1)

    x = np.ones((3, 6, 6, 1), np.float32) * np.reshape([0.2, 0.8, 0.5], (3, 1, 1, 1))
    attack = Square(Norm.LINF, 0.05, queries=100)
    classifier = BatchedClassifier(logits, (6, 6, 1), 12)
    assert attack.ahead(3, 12) == 4
    found = attack.outcomes(classifier, x.astype(np.float32), np.zeros(3, int), 0)
    broken = {outcome.index: outcome.broken for outcome in found}
    assert broken == {0: False, 1: False, 2: True}


def test_each_restart_has_a_start_of_its_own():
    x, y = images((8, 8, 1), 12, 0.45, 0.55), np.zeros(12, int)
    model = linear(np.random.default_rng(6).normal(size=64))

    def broken(restarts):
        attack = Square(Norm.LINF, 0.1, queries=1, restarts=restarts)
        return (attack.craft(model, x, y) != x).any((1, 2, 3)).sum()

    assert broken(1) < broken(8)
