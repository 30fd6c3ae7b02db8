import keras
import numpy as np
import pytest
import tensorflow as tf
from replicas import on_each, pieces, strategy

from advrush_tf import kernels, replication

SIZES = (1, 2, 4)


def _random(*shape):
    return np.random.default_rng(0).normal(size=shape)


@pytest.mark.parametrize("replicas", SIZES)
def test_counts_replicas_and_adds_over_them(replicas):
    chosen = strategy(replicas)
    x = _random(8, 3)

    def step(x):
        sums = {"sum": tf.reduce_sum(x, 0), "count": tf.cast(tf.shape(x)[0], x.dtype)}
        return tf.constant(replication.num_replicas()), replication.total(sums)

    (parts,) = pieces(chosen, x)
    for count, sums in on_each(chosen, step, parts):
        assert count == replicas
        np.testing.assert_allclose(sums["sum"], x.sum(0), rtol=1e-12)
        assert sums["count"] == 8


def test_outside_a_replica_there_is_one():
    with strategy(2).scope():
        assert replication.num_replicas() == 1


@pytest.mark.parametrize("replicas", SIZES)
def test_shares_add_up_to_the_batch_mean(replicas):
    chosen = strategy(replicas)
    values = _random(8)
    (parts,) = pieces(chosen, values)
    shares = on_each(chosen, replication.batch_share, parts)
    np.testing.assert_allclose(sum(shares), values.mean(), rtol=1e-12)


def _rows_of(chosen, rows):
    """Gives each replica its number of rows, as a shape known only at run time."""
    return chosen.experimental_distribute_values_from_function(
        lambda context: tf.constant(rows[context.replica_id_in_sync_group])
    )


def test_shares_count_unequal_pieces():
    chosen = strategy(2)
    values = np.asarray([1.0, 2.0, 3.0, 10.0])

    def step(rows):
        own = tf.distribute.get_replica_context().replica_id_in_sync_group
        return replication.batch_share(tf.constant(values)[3 * own : 3 * own + rows])

    shares = on_each(chosen, step, _rows_of(chosen, [3, 1]))
    np.testing.assert_allclose(shares, [6 / 4, 10 / 4], rtol=1e-12)


@pytest.mark.parametrize("rows", [[5], [3, 2], [2, 0], [1, 2, 0, 2]])
def test_random_rows_are_those_of_the_whole_batch(rows):
    chosen = strategy(len(rows))

    def draw(count):
        return tf.random.stateless_uniform([count, 3], (1, 2))

    found = on_each(
        chosen, lambda rows: replication.own_rows(draw, rows), _rows_of(chosen, rows)
    )
    assert [len(part) for part in found] == rows
    np.testing.assert_array_equal(np.concatenate(found), draw(sum(rows)).numpy())


def test_what_all_replicas_have_is_in_their_order_and_differentiable():
    chosen = strategy(4)
    x, weights = _random(4, 3), tf.constant(_random(4, 3))

    def step(x):
        with tf.GradientTape() as tape:
            tape.watch(x)
            all_rows = replication.of_all(x[0])
            loss = tf.reduce_sum(all_rows * weights)
        return all_rows, tape.gradient(loss, x)

    (parts,) = pieces(chosen, x)
    for index, (rows, gradient) in enumerate(on_each(chosen, step, parts)):
        np.testing.assert_allclose(rows, x)
        # Each of the four replicas' losses depends on this replica's row.
        np.testing.assert_allclose(gradient[0], 4 * weights[index])


def test_average_makes_copies_equal():
    chosen = strategy(2)
    with chosen.scope():
        variable = keras.Variable(np.zeros(2), trainable=False, dtype="float64")

    def step(x):
        variable.assign(x[0])
        own = tf.identity(variable.value)
        replication.average([variable])
        return own, tf.identity(variable.value)

    (parts,) = pieces(chosen, np.asarray([[1.0, 2.0], [3.0, 6.0]]))
    (first, mean), (second, other) = on_each(chosen, step, parts)
    np.testing.assert_array_equal([first, second], [[1, 2], [3, 6]])
    np.testing.assert_array_equal([mean, other], [[2, 4], [2, 4]])


def _batch_norm(synchronized):
    def step(x, weights, scale, offset):
        with tf.GradientTape() as tape:
            watched = (x, scale, offset)
            tape.watch(watched)
            y, mean, variance = kernels.batch_normalize(
                x, scale, offset, synchronized=synchronized
            )
            loss = tf.reduce_sum(y * weights)
        dx, *others = tape.gradient(loss, watched)
        return y, dx, replication.total(others), mean, variance

    return step


@pytest.mark.parametrize("dtype, tolerance", [("float64", 1e-12), ("float32", 1e-5)])
@pytest.mark.parametrize("replicas", [2, 4])
def test_synchronized_batch_norm_is_that_of_the_whole_batch(replicas, dtype, tolerance):
    x, weights = (3 + _random(2, 8, 2, 2, 3)).astype(dtype)
    scale, offset = _random(2, 3).astype(dtype)

    def results(count):
        chosen = strategy(count)
        parts = pieces(chosen, x, weights)
        found = on_each(chosen, _batch_norm(True), *parts, scale, offset)
        y, dx = (np.concatenate([each[i] for each in found]) for i in range(2))
        return y, dx, *found[-1][2], *found[-1][3:]

    for got, expected in zip(results(replicas), results(1), strict=True):
        np.testing.assert_allclose(got, expected, rtol=tolerance, atol=tolerance)


def test_batch_norm_that_is_not_synchronized_uses_its_own_piece():
    x, weights = _random(2, 4, 2, 2, 3)
    ones, zeros = np.ones(3), np.zeros(3)
    chosen = strategy(2)
    found = on_each(
        chosen, _batch_norm(False), *pieces(chosen, x, weights), ones, zeros
    )
    for each, piece in zip(found, np.split(x, 2), strict=True):
        np.testing.assert_allclose(each[3], piece.mean((0, 1, 2)), rtol=1e-12)
        np.testing.assert_allclose(each[4], piece.var((0, 1, 2), ddof=1), rtol=1e-12)
