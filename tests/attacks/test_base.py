import dataclasses

import numpy as np
import pytest
import tensorflow as tf

from advrush_tf.attacks.base import Attack, Outcome
from advrush_tf.attacks.geometry import Norm


def halves(images):
    """Class 1 for images that are bright at the left."""
    shade = images[:, 0, 0, 0]
    return tf.stack([0.5 - shade, shade - 0.5], -1)


@dataclasses.dataclass(frozen=True)
class Invert(Attack):
    """Shows what it is given, and turns images into their negatives, last first."""

    def outcomes(self, classifier, x, y, seed, indices=None):
        assert (x.dtype, classifier.num_classes, seed) == (np.float32, 2, 7)
        for row in reversed(range(len(x))):
            yield Outcome(row, 1 - x[row], bool(y[row]))


def test_craft_puts_outcomes_where_they_belong_and_leaves_the_images_alone():
    x = np.random.default_rng(0).random((5, 2, 3, 1))
    kept = x.copy()
    crafted = Invert().craft(halves, x, [0] * 5, seed=7, batch_size=2)
    np.testing.assert_allclose(crafted, 1 - x, atol=1e-6)
    np.testing.assert_array_equal(x, kept)


def test_norms_by_name():
    assert Invert("L2", 0.5).norm is Norm.L2


@pytest.mark.parametrize("epsilon", [0, -1, float("nan"), float("inf")])
def test_a_wrong_epsilon_is_refused(epsilon):
    with pytest.raises(ValueError, match="epsilon must be more than 0"):
        Invert(epsilon=epsilon)


def test_images_outside_the_box_are_refused():
    with pytest.raises(ValueError, match="must be in"):
        Invert().craft(halves, np.full((1, 2, 3, 1), 2.0), [0])
