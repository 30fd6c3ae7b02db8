import numpy as np
import pytest
import tensorflow as tf

from advrush_tf.training.micro_batches import mean_over_pieces
from support.tiny_search import random_batch, tiny_compiled


def test_the_mean_of_pieces_is_numpys():
    generator = np.random.default_rng(0)
    x, y = generator.normal(size=(12, 3)), generator.normal(size=12)

    def function(x, y):
        return tf.reduce_mean(x[:, 0] * y), [tf.reduce_mean(x, 0)]

    dtypes = tf.float64, [tf.float64]
    for size in (None, 12, 4, 1):
        product, [mean] = mean_over_pieces(function, (x, y), size, dtypes)
        np.testing.assert_allclose(product, np.mean(x[:, 0] * y), rtol=1e-14)
        np.testing.assert_allclose(mean, x.mean(0), rtol=1e-13)


def test_a_graph_holds_one_piece():
    traced = []

    def function(x):
        traced.append(x.shape)
        return tf.reduce_sum(x)

    step = tf.function(lambda x: mean_over_pieces(function, [x], 2, tf.float32))
    assert step(tf.ones((8, 3))) == 6.0
    assert traced == [(2, 3)]


def test_pieces_that_do_not_divide():
    with pytest.raises(ValueError, match="pieces of 5 do not divide a batch of 12"):
        mean_over_pieces(tf.reduce_mean, [tf.ones(12)], 5, tf.float32)


def test_the_penalty_of_pieces_is_the_batchs():
    results = []
    for size in (None, 2):
        model = tiny_compiled(
            model_settings={"dtype": "float64"}, penalty_batch=size, run_eagerly=True
        )
        results.append(model.steps["penalty_gradients"](*random_batch(0)))
    whole, pieces = (tf.nest.flatten(result) for result in results)
    # The only cell is a reduction cell.
    assert [np.max(np.abs(values)) > 1e-6 for values in whole] == [True, False, True]
    for a, b in zip(whole, pieces, strict=True):
        assert a.dtype == b.dtype == tf.float64
        np.testing.assert_allclose(b, a, rtol=1e-12, atol=1e-12 * np.max(np.abs(a)))
