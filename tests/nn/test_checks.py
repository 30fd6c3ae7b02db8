import numpy as np
import pytest
import tensorflow as tf

from advrush_tf.nn import checks


@pytest.mark.parametrize(
    ("cells", "halvings", "smallest"), [(1, 0, 4), (8, 0, 8), (14, 3, 64)]
)
def test_the_smallest_images_that_the_halvings_leave_two_pixels(
    cells, halvings, smallest
):
    checks.check_architecture(2, (smallest, smallest, 1), cells, halvings)
    with pytest.raises(ValueError, match=f"at least {smallest}x{smallest} pixels"):
        checks.check_architecture(2, (smallest, smallest - 1, 1), cells, halvings)


@pytest.mark.parametrize(
    ("changes", "name"),
    [({"num_classes": 1}, "num_classes"), ({"nodes": 0}, "nodes must be 1 or more")],
)
def test_impossible_numbers_are_named(changes, name):
    settings = {"num_classes": 2, "image_shape": (8, 8, 1), "num_cells": 2}
    with pytest.raises(ValueError, match=name):
        checks.check_architecture(**{**settings, **changes})


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"num_classes": 1}, "num_classes must be 2 or more, not 1"),
        ({"image_shape": (8, 7, 1)}, r"at least 8x8 pixels .* is \(8, 7, 1\)"),
        ({"image_shape": [7, 8, 1]}, r"is \(7, 8, 1\)"),
        ({"image_shape": (8, 8, 0)}, "a channel"),
        ({"image_shape": (8, 8)}, "a channel"),
        ({"image_shape": (None, None, 1)}, r"whole numbers.* \(None, None, 1\)"),
        ({"image_shape": (2, 8, 8, 1)}, "a channel"),
        ({"smallest": 9}, "at least 9x9 pixels"),
        ({"width": 0}, "width must be 1 or more, not 0"),
        ({"width": 1, "depth": -1}, "depth must be 1 or more, not -1"),
    ],
)
def test_impossible_classifiers_are_refused(changes, message):
    settings = {"num_classes": 2, "image_shape": (8, 8, 1), "smallest": 8}
    checks.check_image_classifier(**settings, width=1)
    with pytest.raises(ValueError, match=message):
        checks.check_image_classifier(**settings | changes)


def test_normalisation_by_hand():
    x = tf.constant([[0.5, 0.5], [1.0, 0.25]])
    y = checks.normalise(x, (0.5, 0.25), (0.5, 0.25))
    np.testing.assert_array_equal(y, [[0, 1], [1, 0]])
    assert checks.normalise(x, None, None) is x


@pytest.mark.parametrize(
    ("mean", "std"),
    [((0.5,), None), (0.5, 0.5), ((0.5,), (0.0,)), ((np.inf,), (1.0,))],
)
def test_wrong_normalisation_is_refused(mean, std):
    with pytest.raises(ValueError, match="mean and std"):
        checks.check_normalisation(mean, std, 1)


def test_only_pairs_fit():
    plain = tf.data.Dataset.from_tensors((tf.zeros(3), tf.zeros(3)))
    pairs = tf.data.Dataset.zip((plain, plain))
    checks.check_pairs_for_fit(pairs, None, None)
    checks.check_pairs_for_fit(pairs.repeat(), None, 5)
    with pytest.raises(ValueError, match="steps_per_epoch"):
        checks.check_pairs_for_fit(pairs.repeat(), None, None)
    for x, y in ((plain, None), (np.zeros(3), np.zeros(3)), (None, None)):
        with pytest.raises(ValueError, match="bilevel_pairs"):
            checks.check_pairs_for_fit(x, y, None)
