import numpy as np
import tensorflow as tf

from advrush_tf.attacks.randomness import normal, seeds_of, uniform


def salts(*values):
    return tf.constant(values, tf.int32)


def test_numbers_belong_to_the_image_whatever_its_batch():
    many = uniform(seeds_of(3, range(5)), (2, 3), salts(*[[0, 7]] * 5))
    one = uniform(seeds_of(3, [4]), (2, 3), salts([0, 7]))
    np.testing.assert_array_equal(many[4:], one)


def test_seed_image_and_salt_give_other_numbers():
    first = uniform(seeds_of(0, [1]), (50,), salts([0]))
    others = [
        uniform(seeds_of(1, [1]), (50,), salts([0])),
        uniform(seeds_of(0, [2]), (50,), salts([0])),
        uniform(seeds_of(0, [1]), (50,), salts([1])),
        uniform(seeds_of(0, [1]), (50,), salts([0, 0])),
    ]
    for other in others:
        assert np.abs(np.corrcoef(first, other)[0, 1]) < 0.5
        assert (np.asarray(first) != np.asarray(other)).all()


def test_distributions():
    seeds, numbers = seeds_of(0, range(4)), salts(*[[0]] * 4)
    flat = uniform(seeds, (5000,), numbers).numpy()
    assert flat.min() >= 0
    assert flat.max() < 1
    np.testing.assert_allclose(flat.mean(), 0.5, atol=0.01)
    bell = normal(seeds, (5000,), numbers).numpy()
    np.testing.assert_allclose([bell.mean(), bell.std()], [0, 1], atol=0.02)


def test_a_large_seed_fits():
    assert uniform(seeds_of(2**32 - 1, [0]), (2,), salts([0])).shape == (1, 2)
