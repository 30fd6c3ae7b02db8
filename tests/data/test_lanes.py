import math

import numpy as np
import pytest
import tensorflow as tf

from advrush_tf.data.lanes import lane_count, ordered_batches, shuffled_batches
from advrush_tf.data.records import Records

LENGTHS = (30, 5, 41, 25)
COUNT = sum(LENGTHS)


@pytest.fixture(scope="module")
def records(tmp_path_factory):
    folder = tmp_path_factory.mktemp("records")
    numbers = iter(range(COUNT))
    paths = [str(folder / str(index)) for index in range(len(LENGTHS))]
    for path, length in zip(paths, LENGTHS, strict=True):
        with tf.io.TFRecordWriter(path) as writer:
            for _ in range(length):
                writer.write(str(next(numbers)).encode())
    return Records(tuple(paths), LENGTHS, 0, COUNT)


def _batches(dataset, count=-1):
    return [b.astype(int).tolist() for b in dataset.take(count).as_numpy_iterator()]


def _joined(pieces):
    return [number for piece in pieces for number in piece]


@pytest.mark.parametrize("batch_size", [16, 12, 7])
def test_an_epoch_has_each_record_once_up_to_an_incomplete_batch(records, batch_size):
    per_epoch = COUNT // batch_size
    dataset = shuffled_batches(records, batch_size, 5, 0, 0, (0, 1))
    batches = np.array(_batches(dataset, 3 * per_epoch))
    epochs = batches.reshape(3, -1)
    for epoch in epochs:
        assert len(set(epoch.tolist())) == per_epoch * batch_size
        assert set(epoch.tolist()) <= set(range(COUNT))
    assert len({tuple(epoch) for epoch in epochs}) == 3


def test_lanes_have_shares_of_their_own(records):
    dataset = shuffled_batches(records, 16, 5, 0, 0, (0, 1))
    lanes = np.array(_batches(dataset, 60)).reshape(60, 8, 2)
    shares = [set(lanes[:, lane].ravel().tolist()) for lane in range(8)]
    # Over ten epochs each lane has shown all of its 12 or 13 records.
    assert sum(map(len, shares)) == len(set().union(*shares)) == COUNT


def test_a_later_start_continues(records):
    whole = _batches(shuffled_batches(records, 16, 5, 2, 0, (0, 1)), 20)
    for first in (6, 8):
        later = shuffled_batches(records, 16, 5, 2, first, (0, 1))
        assert _batches(later, 20 - first) == whole[first:]


def test_seed_and_stream_decide_the_order(records):
    orders = [
        _batches(shuffled_batches(records, 16, seed, stream, 0, (0, 1)), 1)
        for seed, stream in ((1, 0), (1, 0), (2, 0), (1, 1))
    ]
    assert orders[0] == orders[1]
    assert orders[0] != orders[2]
    assert orders[0] != orders[3]


@pytest.mark.parametrize(("batch_size", "count"), [(16, 2), (6, 3)])
def test_pieces_of_all_parts_are_the_batch(records, batch_size, count):
    whole = _batches(shuffled_batches(records, batch_size, 5, 0, 3, (0, 1)), 9)
    parts = [
        _batches(shuffled_batches(records, batch_size, 5, 0, 3, (index, count)), 9)
        for index in range(count)
    ]
    assert {len(piece) for part in parts for piece in part} == {batch_size // count}
    assert [_joined(pieces) for pieces in zip(*parts, strict=True)] == whole


@pytest.mark.parametrize(("batch_size", "count"), [(12, 3), (24, 5), (7, 3), (128, 4)])
def test_an_evaluation_has_each_record_once_whatever_the_parts(
    records, batch_size, count
):
    whole = _batches(ordered_batches(records, batch_size, (0, 1)))
    assert sorted(_joined(whole)) == list(range(COUNT))
    assert len(whole) == math.ceil(COUNT / batch_size)
    assert all(len(batch) == batch_size for batch in whole[:-1])
    parts = [
        _batches(ordered_batches(records, batch_size, (index, count)))
        for index in range(count)
    ]
    assert [_joined(pieces) for pieces in zip(*parts, strict=True)] == whole


def test_a_part_without_rows_has_as_many_batches(records):
    # Rows are rounded up: of two, the third machine gets none.
    batches = _batches(ordered_batches(records, 2, (2, 3)))
    assert batches == [[]] * math.ceil(COUNT / 2)


def test_a_part_opens_the_files_of_its_lanes_only(records):
    # The last of four machines reads the records from 75 on.
    paths = ("gone", "gone", *records.paths[2:])
    fewer = Records(paths, LENGTHS, 0, COUNT)
    for make in (
        lambda files: ordered_batches(files, 16, (3, 4)),
        lambda files: shuffled_batches(files, 16, 5, 0, 0, (3, 4)).take(6),
    ):
        assert _batches(make(fewer)) == _batches(make(records))


def test_the_number_of_lanes_divides_the_batch():
    assert [lane_count(size) for size in (128, 12, 7, 8, 2)] == [8, 4, 1, 8, 2]
