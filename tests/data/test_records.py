import numpy as np
import pytest
import tensorflow as tf

from advrush_tf.data import records
from advrush_tf.data.records import Records

LENGTHS = (7, 0, 4, 11)
KEY = tf.constant([1, 2], tf.int64)


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """Files whose records are the numbers from 0 to 21."""
    folder = tmp_path_factory.mktemp("records")
    paths, number = [], 0
    for index, length in enumerate(LENGTHS):
        paths.append(str(folder / str(index)))
        with tf.io.TFRecordWriter(paths[-1]) as writer:
            for _ in range(length):
                writer.write(str(number).encode())
                number += 1
    return Records(tuple(paths), LENGTHS, 0, number)


def _numbers(dataset):
    return [int(record) for record in dataset.as_numpy_iterator()]


@pytest.mark.parametrize("bounds", [(0, 22), (3, 5), (5, 9), (7, 11), (10, 22), (4, 4)])
def test_a_range_reads_its_own_records(files, bounds):
    part = files.between(*bounds)
    assert len(part) == bounds[1] - bounds[0]
    assert _numbers(part.in_order()) == list(range(*bounds))
    mixed = _numbers(part.shuffled(KEY))
    assert sorted(mixed) == list(range(*bounds))


def test_ranges_of_ranges_and_the_files_that_they_open(files):
    part = files.between(2, 20).between(3, 8)
    assert _numbers(part.in_order()) == list(range(5, 10))
    paths, skipped, taken, places = part.slices()
    assert [path.decode() for path in paths.numpy()] == [files.paths[0], files.paths[2]]
    assert (skipped.numpy().tolist(), taken.numpy().tolist()) == ([5, 0], [2, 3])
    assert places.numpy().tolist() == [5, 7]


def test_chosen_records_and_ranges_of_them(files):
    part = files.between(2, 20).chosen(np.array([9, 0, 17, 4, 5]))
    assert _numbers(part.in_order()) == [2, 6, 7, 11, 19]
    assert _numbers(part.between(1, 4).in_order()) == [6, 7, 11]
    assert _numbers(part.between(5, 5).in_order()) == []
    assert _numbers(part.between(1, 5).chosen(np.array([0, 3])).in_order()) == [6, 19]
    assert sorted(_numbers(part.shuffled(KEY))) == [2, 6, 7, 11, 19]


def test_the_order_follows_from_the_key(files, monkeypatch):
    monkeypatch.setattr(records, "_BLOCK", 8)
    one, again = (_numbers(files.shuffled(KEY)) for _ in range(2))
    other = _numbers(files.shuffled(KEY + 1))
    assert one == again
    assert one != other
    assert sorted(one) == sorted(other) == list(range(22))
    # Each block mixes records of several files.
    starts = np.cumsum((0, *LENGTHS))
    of_block = np.searchsorted(starts, one[:8], side="right")
    assert len(set(of_block.tolist())) > 1
