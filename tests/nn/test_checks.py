import numpy as np
import pytest
import tensorflow as tf

from advrush_tf.nn import checks as inputs


@pytest.mark.parametrize(
    ("cells", "halvings", "smallest"), [(1, 0, 4), (8, 0, 8), (14, 3, 64)]
)
def test_the_smallest_images_that_the_halvings_leave_two_pixels(
    cells, halvings, smallest
):
    inputs.check_architecture(2, (smallest, smallest, 1), cells, halvings)
    with pytest.raises(ValueError, match=f"at least {smallest}x{smallest} pixels"):
        inputs.check_architecture(2, (smallest, smallest - 1, 1), cells, halvings)


@pytest.mark.parametrize(
    ("changes", "name"),
    [({"num_classes": 1}, "num_classes"), ({"nodes": 0}, "nodes must be 1 or more")],
)
def test_impossible_numbers_are_named(changes, name):
    settings = {"num_classes": 2, "image_shape": (8, 8, 1), "num_cells": 2}
    with pytest.raises(ValueError, match=name):
        inputs.check_architecture(**{**settings, **changes})


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"num_classes": 1}, "num_classes must be 2 or more, not 1"),
        ({"image_shape": (8, 7, 1)}, r"at least 8x8 pixels .* is \(8, 7, 1\)"),
        ({"image_shape": [7, 8, 1]}, r"is \(7, 8, 1\)"),
        ({"image_shape": (8, 8, 0)}, "a channel"),
        ({"image_shape": (8, 8)}, "a channel"),
        ({"image_shape": (2, 8, 8, 1)}, "a channel"),
        ({"smallest": 9}, "at least 9x9 pixels"),
        ({"width": 0}, "width must be 1 or more, not 0"),
        ({"width": 1, "depth": -1}, "depth must be 1 or more, not -1"),
    ],
)
def test_impossible_classifiers_are_refused(changes, message):
    settings = {"num_classes": 2, "image_shape": (8, 8, 1), "smallest": 8}
    inputs.check_image_classifier(**settings, width=1)
    with pytest.raises(ValueError, match=message):
        inputs.check_image_classifier(**settings | changes)


LABELS = [2, 0, 1]


@pytest.mark.parametrize("dtype", ["uint8", "int8", "int32", "int64", "uint16"])
@pytest.mark.parametrize("kind", [np.array, tf.constant, tf.Variable])
@pytest.mark.parametrize("shape", [(3,), (3, 1)])
def test_labels_of_any_integer_type_and_from_a_column(dtype, kind, shape):
    y = inputs.as_labels(kind(np.array(LABELS, dtype).reshape(shape)))
    assert y.dtype == tf.int32
    np.testing.assert_array_equal(y, LABELS)


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
def test_whole_numbers_are_labels_whatever_their_type(dtype):
    y = inputs.as_labels(np.array(LABELS, dtype))
    assert y.dtype == tf.int32
    np.testing.assert_array_equal(y, LABELS)


@pytest.mark.parametrize("run", [inputs.as_labels, tf.function(inputs.as_labels)])
@pytest.mark.parametrize("wrong", [0.5, 1.999, -0.25, np.nan])
def test_fractions_are_no_labels(run, wrong):
    with pytest.raises(tf.errors.InvalidArgumentError, match="whole numbers"):
        run(tf.constant([0.0, wrong, 1.0]))


def test_labels_as_they_come_in_a_graph():
    assert inputs.as_labels(LABELS).shape == (3,)
    # Of one image, too: a column is known by its rank.
    assert inputs.as_labels([[2]]).shape == (1,)
    for shape in ((None,), (None, 1)):
        traced = tf.function(inputs.as_labels).get_concrete_function(
            tf.TensorSpec(shape, tf.int64)
        )
        assert traced.structured_outputs.shape.as_list() == [None]
        column = tf.reshape(tf.constant(LABELS, tf.int64), [3, 1][: len(shape)])
        np.testing.assert_array_equal(traced(column), LABELS)


def test_normalisation_by_hand():
    x = tf.constant([[0.5, 0.5], [1.0, 0.25]])
    y = inputs.normalise(x, (0.5, 0.25), (0.5, 0.25))
    np.testing.assert_array_equal(y, [[0, 1], [1, 0]])
    assert inputs.normalise(x, None, None) is x


@pytest.mark.parametrize(
    ("mean", "std"),
    [((0.5,), None), (0.5, 0.5), ((0.5,), (0.0,)), ((np.inf,), (1.0,))],
)
def test_wrong_normalisation_is_refused(mean, std):
    with pytest.raises(ValueError, match="mean and std"):
        inputs.check_normalisation(mean, std, 1)


def test_only_pairs_fit():
    plain = tf.data.Dataset.from_tensors((tf.zeros(3), tf.zeros(3)))
    pairs = tf.data.Dataset.zip((plain, plain))
    inputs.check_pairs_for_fit(pairs, None, None)
    inputs.check_pairs_for_fit(pairs.repeat(), None, 5)
    with pytest.raises(ValueError, match="steps_per_epoch"):
        inputs.check_pairs_for_fit(pairs.repeat(), None, None)
    for x, y in ((plain, None), (np.zeros(3), np.zeros(3)), (None, None)):
        with pytest.raises(ValueError, match="bilevel_pairs"):
            inputs.check_pairs_for_fit(x, y, None)
