import numpy as np
import pytest
import tensorflow as tf

from advrush_tf.attacks.geometry import Norm, length, project, steepest, unit

RANDOM = np.random.default_rng(0)


def images(*values):
    """One image a row of values, of one channel in a line."""
    return tf.constant(np.reshape(values, (len(values), 1, -1, 1)), tf.float64)


def test_lengths_by_hand():
    delta = images([3.0, -4.0], [0.0, 0.0])
    np.testing.assert_allclose(length(Norm.LINF, delta), [4, 0])
    np.testing.assert_allclose(length(Norm.L2, delta), [5, 0])


def test_steepest_directions_by_hand():
    gradient = images([3.0, -4.0], [0.0, 0.0])
    np.testing.assert_allclose(steepest(Norm.LINF, gradient), images([1, -1], [0, 0]))
    np.testing.assert_allclose(steepest(Norm.L2, gradient), images([0.6, -0.8], [0, 0]))


@pytest.mark.parametrize("norm", Norm)
def test_no_direction_of_length_1_rises_more_than_the_steepest(norm):
    gradient = RANDOM.normal(size=(1, 4, 4, 3))
    best = np.sum(gradient * steepest(norm, tf.constant(gradient)))
    others = unit(norm, tf.constant(RANDOM.normal(size=(500, 4, 4, 3))))
    np.testing.assert_allclose(length(norm, others), np.ones(500))
    assert np.sum(gradient * others, (1, 2, 3)).max() < best


def test_projections_by_hand():
    x = images([0.5, 0.5], [0.5, 0.5], [0.9, 0.5])
    far = images([0.8, 0.1], [0.6, 0.5], [1.9, 0.5])
    linf = project(Norm.LINF, far, x, 0.2)
    np.testing.assert_allclose(linf, images([0.7, 0.3], [0.6, 0.5], [1.0, 0.5]))
    l2 = project(Norm.L2, far, x, 0.25)
    # The first is 0.5 away, the second is inside, the third meets the box.
    np.testing.assert_allclose(l2, images([0.65, 0.3], [0.6, 0.5], [1.0, 0.5]))


@pytest.mark.parametrize("norm", Norm)
def test_projections_are_inside_and_stay_where_they_are(norm):
    x = tf.constant(RANDOM.random((50, 5, 5, 3)), tf.float32)
    far = x + tf.constant(RANDOM.normal(size=x.shape), tf.float32)
    inside = project(norm, far, x, 0.3)
    assert length(norm, inside - x).numpy().max() <= 0.3 + 1e-6
    assert inside.numpy().min() >= 0
    assert inside.numpy().max() <= 1
    if norm is Norm.LINF:
        np.testing.assert_array_equal(project(norm, inside, x, 0.3), inside)
    np.testing.assert_allclose(project(norm, inside, x, 0.3), inside, atol=1e-7)


def test_an_unknown_norm_names_the_known_ones():
    with pytest.raises(ValueError, match="L1"):
        Norm("L1")
