import numpy as np
import pytest
import tensorflow as tf

from advrush_tf.data.array_examples import ArrayExamples
from advrush_tf.data.examples import (
    check_batches,
    check_numbers,
    check_shard,
    endless,
    even_batch,
    first_part,
    in_parallel,
    random_key,
    shard_bounds,
)


def test_unit_arrays_are_in_the_unit_range():
    images = np.asarray([0, 51, 255], np.uint8).reshape(3, 1, 1, 1)
    x, y = ArrayExamples(images, np.arange(3)).unit_arrays()
    assert x.dtype == np.float32
    np.testing.assert_allclose(x.ravel(), [0, 0.2, 1], rtol=1e-6)
    np.testing.assert_array_equal(y, [0, 1, 2])


@pytest.mark.parametrize(
    "examples, portion, expected", [(10, 0.5, 5), (7, 0.5, 4), (50000, 0.98, 49000)]
)
def test_first_part_rounds(examples, portion, expected):
    assert first_part(examples, portion) == expected


@pytest.mark.parametrize("examples, portion", [(10, 0.0), (10, 1.0), (10, 0.01)])
def test_both_parts_have_examples(examples, portion):
    with pytest.raises(ValueError, match=r"[Pp]ortion"):
        first_part(examples, portion)


@pytest.mark.parametrize(
    ("examples", "size"),
    # 719 is a prime, and 2 * 353 has no divisor from 128 to 256.
    [(1, 1), (256, 256), (1000, 250), (50000, 250), (360, 180), (719, 256), (706, 256)],
)
def test_batches_of_an_evaluation_are_of_one_size_where_that_can_be(examples, size):
    assert even_batch(examples) == size


def test_random_streams_have_different_keys():
    keys = [
        tuple(random_key(seed, stream, tf.constant(number, tf.int64)).numpy())
        for seed in range(2)
        for stream in range(6)
        for number in range(5)
    ]
    assert len(set(keys)) == len(keys)


def test_a_parallel_map_keeps_the_order_and_an_endless_dataset_has_no_end():
    doubled = in_parallel(tf.data.Dataset.range(50), lambda number: 2 * number)
    assert list(doubled.as_numpy_iterator()) == list(range(0, 100, 2))
    numbers = endless(tf.data.Dataset.range(3).repeat())
    assert numbers.cardinality() == tf.data.INFINITE_CARDINALITY


@pytest.mark.parametrize(
    ("batch_size", "count", "expected"),
    [
        (12, 1, [(0, 12)]),
        (12, 3, [(0, 4), (4, 8), (8, 12)]),
        (5, 4, [(0, 2), (2, 4), (4, 5), (5, 5)]),
        (2, 3, [(0, 1), (1, 2), (2, 2)]),
    ],
)
def test_shards_are_contiguous_and_rounded_up(batch_size, count, expected):
    assert [
        shard_bounds(batch_size, (index, count)) for index in range(count)
    ] == expected


def test_bounds_of_many_batches_at_once():
    low, high = shard_bounds(np.array([8, 5]), (1, 2))
    np.testing.assert_array_equal([low, high], [[4, 3], [8, 5]])


def test_batches_that_cannot_be_made_are_refused():
    check_batches(12, (2, 3), 4)
    for shard in ((3, 3), (-1, 3), (0, 0)):
        with pytest.raises(ValueError, match=r"index from 0 to count - 1, not \("):
            check_shard(shard)
    with pytest.raises(ValueError, match="12 cannot be cut into 5 equal shards"):
        check_batches(12, (0, 5))
    with pytest.raises(ValueError, match=r"at least 1 .* not 0 and 0"):
        check_numbers(0)
    with pytest.raises(ValueError, match="not 4 and -1"):
        check_batches(4, (0, 1), -1)
