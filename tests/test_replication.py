import keras
import numpy as np
import pytest
import tensorflow as tf

from advrush_tf import replication
from support.replicas import on_each, pieces, strategy

SIZES = (1, 2, 4)


def _random(*shape):
    return np.random.default_rng(0).normal(size=shape)


@pytest.mark.parametrize("replicas", SIZES)
def test_counts_replicas_and_adds_over_them(replicas):
    chosen = strategy(replicas)
    x = _random(8, 3)

    def step(x):
        sums = {"sum": tf.reduce_sum(x, 0), "count": tf.cast(tf.shape(x)[0], x.dtype)}
        return tf.constant(replication.num_replicas()), replication.all_reduce_sum(sums)

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
    shares = on_each(chosen, replication.mean_contribution, parts)
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
        return replication.mean_contribution(
            tf.constant(values)[3 * own : 3 * own + rows]
        )

    shares = on_each(chosen, step, _rows_of(chosen, [3, 1]))
    np.testing.assert_allclose(shares, [6 / 4, 10 / 4], rtol=1e-12)


@pytest.mark.parametrize("rows", [[5], [3, 2], [2, 0], [1, 2, 0, 2]])
def test_random_rows_are_those_of_the_whole_batch(rows):
    chosen = strategy(len(rows))

    def draw(count):
        return tf.random.stateless_uniform([count, 3], (1, 2))

    found = on_each(
        chosen, lambda rows: replication.local_rows(draw, rows), _rows_of(chosen, rows)
    )
    assert [len(part) for part in found] == rows
    np.testing.assert_array_equal(np.concatenate(found), draw(sum(rows)).numpy())


def test_what_all_replicas_have_is_in_their_order_and_differentiable():
    chosen = strategy(4)
    x, weights = _random(4, 3), tf.constant(_random(4, 3))

    def step(x):
        with tf.GradientTape() as tape:
            tape.watch(x)
            all_rows = replication.all_gather(x[0])
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


@pytest.mark.parametrize("rows", [(1, 0), (2, 1), (0, 2)])
def test_a_replica_without_images_gets_one_that_is_dropped(rows):
    chosen, images = strategy(2), _random(2, 4, 4, 1)

    def brightness(x):
        tf.debugging.assert_positive(tf.shape(x)[0])
        return tf.reduce_sum(x**2, [1, 2, 3])

    def step(rows):
        x = tf.constant(images)[:rows]
        with tf.GradientTape() as tape:
            tape.watch(x)
            found = replication.even_if_empty(brightness, x)
        return found, tape.gradient(found, x)

    for count, (found, gradient) in zip(
        rows, on_each(chosen, step, _rows_of(chosen, rows)), strict=True
    ):
        np.testing.assert_allclose(found, (images[:count] ** 2).sum((1, 2, 3)))
        np.testing.assert_allclose(gradient, 2 * images[:count])
