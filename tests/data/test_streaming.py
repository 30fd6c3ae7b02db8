import math

import numpy as np
import psutil
import pytest
import tensorflow as tf
import tensorflow_datasets as tfds

from advrush_tf.data.augmentation import Augmentation
from advrush_tf.data.imagenet import ResizedCrop
from advrush_tf.data.records import Records
from advrush_tf.data.streaming import (
    StreamedExamples,
    ordered_batches,
    reading_examples,
    row_groups,
    shuffled_batches,
)
from advrush_tf.errors import UserError

MEAN = (0.1, 0.2, 0.3)


def _examples(folder, shape, varying):
    builder = tfds.builder_from_directory(next(folder.iterdir()))
    split = builder.info.splits["train"]
    records = Records(
        tuple(map(str, split.filepaths)), tuple(split.shard_lengths), 0, 101
    )
    keys = "image", "label"
    return StreamedExamples(records, keys, shape, 1000, varying), builder


@pytest.fixture(scope="module")
def varying(imagenet_like):
    return _examples(imagenet_like[0], (16, 16, 3), True)[0]


@pytest.fixture(scope="module")
def fixed(imagenet_like):
    """Streamed examples of one size, and what tfds reads: images by their class."""
    examples, builder = _examples(imagenet_like[1], (64, 64, 3), False)
    rows = tfds.as_numpy(builder.as_dataset(split="train"))
    return examples, {int(row["label"]): row["image"] for row in rows}


def test_arrays_hold_what_tfds_reads(fixed):
    examples, expected = fixed
    images, labels = examples.arrays()
    assert (images.dtype, labels.dtype) == (np.uint8, np.int32)
    assert sorted(labels.tolist()) == sorted(expected)
    for image, label in zip(images, labels, strict=True):
        np.testing.assert_array_equal(image, expected[label])
    start = np.random.default_rng(3).integers(101 - 10 + 1)
    np.testing.assert_array_equal(examples.sample(10, 3), images[start : start + 10])
    np.testing.assert_array_equal(examples.sample(102, 3), images)
    rows = np.sort(np.random.default_rng(3).permutation(101)[:10])
    np.testing.assert_array_equal(examples.drawn(10, 3).arrays()[1], labels[rows])
    assert examples.drawn(101, 3) is examples


def test_moments_match_numpy(fixed):
    examples, expected = fixed
    unit = np.stack(list(expected.values())) / 255
    mean, std = examples.moments()
    np.testing.assert_allclose(mean, unit.mean((0, 1, 2)), rtol=1e-12)
    np.testing.assert_allclose(std, unit.std((0, 1, 2)), rtol=1e-12)


def test_a_split_is_disjoint_and_covering(fixed):
    examples, _ = fixed
    first, second = examples.split(0.8, seed=0)
    assert (len(first), len(second)) == (81, 20)
    labels = [part.arrays()[1] for part in (first, second)]
    np.testing.assert_array_equal(np.concatenate(labels), examples.arrays()[1])
    with pytest.raises(ValueError, match="leaves a part empty"):
        examples.split(0.001, seed=0)


def test_parts_of_ordered_examples_are_chosen_at_random(fixed):
    shuffled, _ = fixed
    ordered = StreamedExamples(
        shuffled._records, shuffled._keys, (64, 64, 3), 1000, False, ordered=True
    )
    labels = shuffled.arrays()[1]
    place = {int(label): row for row, label in enumerate(labels)}
    parts = ordered.split(0.6, seed=1)
    rows = [[place[int(y)] for y in part.arrays()[1]] for part in parts]
    assert (len(rows[0]), sorted(rows[0] + rows[1])) == (61, list(range(101)))
    # As the files hold them, and from all over: 5 runs of the first half at least.
    assert all(part == sorted(part) for part in rows)
    assert np.count_nonzero(np.diff(rows[0]) > 1) > 5
    assert not np.array_equal(ordered.split(0.6, seed=2)[0].arrays()[1], rows[0])
    some = ordered.drawn(9, 0)
    np.testing.assert_array_equal(
        sorted(place[int(y)] for y in some.arrays()[1]),
        np.sort(np.random.default_rng(0).permutation(101)[:9]),
    )
    # A part of a part, in batches: each example once.
    inner = parts[0].split(0.5, seed=3)[1]
    batches, steps = inner.training_batches(10, 0, Augmentation())
    found = np.concatenate([y for _, y in batches.take(steps)])
    assert len(set(found.tolist())) == 30
    assert set(found.tolist()) <= set(parts[0].arrays()[1].tolist())
    assert sorted(ordered.moments()) == sorted(shuffled.moments())


def test_batches_of_one_size_are_augmented_as_those_in_memory(fixed):
    examples, expected = fixed
    augmentation = Augmentation(crop_padding=4, flip=True, cutout=9)
    batches, steps = examples.training_batches(16, 3, augmentation, 1, MEAN)
    assert steps == 6
    assert batches.cardinality() == tf.data.INFINITE_CARDINALITY
    assert batches.element_spec == (
        tf.TensorSpec((16, 64, 64, 3), tf.float32),
        tf.TensorSpec((16,), tf.int32),
    )
    for step, (x, y) in enumerate(batches.take(2).as_numpy_iterator(), steps):
        number = tf.constant(step, tf.int64)
        key = tf.random.fold_in(tf.constant([3, 5], tf.int64), number)
        drawn = augmentation.draw(key, (16, 64, 64, 3))
        images = np.stack([expected[label] for label in y])
        np.testing.assert_array_equal(x, augmentation.apply(images, drawn, MEAN))


def test_all_shards_are_the_batch_bit_for_bit(varying):
    arguments, count = (12, 3, ResizedCrop(16, cutout=3), 1, MEAN), 3
    whole, _ = varying.training_batches(*arguments)
    shards = [
        varying.training_batches(*arguments, shard=(index, count))[0]
        for index in range(count)
    ]
    assert shards[0].element_spec[0].shape == (12 // count, 16, 16, 3)
    streams = [shard.take(3).as_numpy_iterator() for shard in shards]
    batches = whole.take(3).as_numpy_iterator()
    for batch, *pieces in zip(batches, *streams, strict=True):
        together = tf.nest.map_structure(lambda *p: np.concatenate(p), *pieces)
        tf.nest.map_structure(np.testing.assert_array_equal, batch, together)


def test_a_later_epoch_continues_bit_for_bit(varying):
    arguments = 32, 3, ResizedCrop(16)
    whole, steps = varying.training_batches(*arguments)
    later, _ = varying.training_batches(*arguments, initial_epoch=2)
    expected = whole.skip(2 * steps).take(steps + 1).as_numpy_iterator()
    got = later.take(steps + 1).as_numpy_iterator()
    for one, other in zip(expected, got, strict=True):
        tf.nest.map_structure(np.testing.assert_array_equal, one, other)


def test_an_evaluation_gives_every_middle_once(varying):
    count = 3
    images, labels = varying.arrays()
    middles = dict(zip(labels.tolist(), images, strict=True))
    parts = [varying.evaluation_batches(32, (index, count)) for index in range(count)]
    assert {int(part.cardinality()) for part in parts} == {4}
    batches = [batch for part in parts for batch in part.as_numpy_iterator()]
    x, y = (np.concatenate(each) for each in zip(*batches, strict=True))
    assert sorted(y.tolist()) == sorted(middles)
    expected = np.stack([middles[label] for label in y]) * np.float32(1 / 255)
    np.testing.assert_array_equal(x, expected)


def test_arrays_too_large_for_memory_are_refused(varying, monkeypatch):
    class Free:
        available = 101 * 16 * 16 * 3 * 5 / 0.75 - 100

    monkeypatch.setattr(psutil, "virtual_memory", Free)
    with pytest.raises(UserError, match=r"An array of 101 images needs .* fewer"):
        varying.arrays()
    assert len(varying.drawn(100, 0).arrays()[0]) == 100


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


def test_row_groups_have_separate_records(records):
    dataset = shuffled_batches(records, 16, 5, 0, 0, (0, 1))
    groups = np.array(_batches(dataset, 60)).reshape(60, 8, 2)
    shares = [set(groups[:, group].ravel().tolist()) for group in range(8)]
    # Over ten epochs each has shown all of its 12 or 13 records.
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
def test_all_shards_of_records_are_the_batch(records, batch_size, count):
    whole = _batches(shuffled_batches(records, batch_size, 5, 0, 3, (0, 1)), 9)
    shards = [
        _batches(shuffled_batches(records, batch_size, 5, 0, 3, (index, count)), 9)
        for index in range(count)
    ]
    assert {len(piece) for shard in shards for piece in shard} == {batch_size // count}
    assert [_joined(pieces) for pieces in zip(*shards, strict=True)] == whole


@pytest.mark.parametrize(("batch_size", "count"), [(12, 3), (24, 5), (7, 3), (128, 4)])
def test_an_evaluation_has_each_record_once_whatever_the_shards(
    records, batch_size, count
):
    whole = _batches(ordered_batches(records, batch_size, (0, 1)))
    assert sorted(_joined(whole)) == list(range(COUNT))
    assert len(whole) == math.ceil(COUNT / batch_size)
    assert all(len(batch) == batch_size for batch in whole[:-1])
    shards = [
        _batches(ordered_batches(records, batch_size, (index, count)))
        for index in range(count)
    ]
    assert [_joined(pieces) for pieces in zip(*shards, strict=True)] == whole


def test_a_shard_without_rows_has_as_many_batches(records):
    # Rows are rounded up: of two, the third machine gets none.
    batches = _batches(ordered_batches(records, 2, (2, 3)))
    assert batches == [[]] * math.ceil(COUNT / 2)


def test_a_shard_opens_only_the_files_of_its_row_groups(records):
    # The last of four machines reads the records from 75 on.
    paths = ("gone", "gone", *records.paths[2:])
    fewer = Records(paths, LENGTHS, 0, COUNT)
    for make in (
        lambda files: ordered_batches(files, 16, (3, 4)),
        lambda files: shuffled_batches(files, 16, 5, 0, 0, (3, 4)).take(6),
    ):
        assert _batches(make(fewer)) == _batches(make(records))


def test_the_number_of_row_groups_divides_the_batch():
    assert [row_groups(size) for size in (128, 12, 7, 8, 2)] == [8, 4, 1, 8, 2]


def test_a_damaged_file_is_one_clear_line(tmp_path):
    path = str(tmp_path / "records")
    with tf.io.TFRecordWriter(path) as writer:
        writer.write(b"one")
    (tmp_path / "records").write_bytes((tmp_path / "records").read_bytes()[:-1])
    for read in (next, tf.function(lambda iterator: next(iterator))):
        message = r"\(truncated record at [^{}\[\]]*\); delete"
        with pytest.raises(UserError, match=message) as caught, reading_examples():
            read(iter(tf.data.TFRecordDataset(path)))
        assert "\n" not in str(caught.value)


def test_an_image_that_is_none_is_one_clear_line():
    images = tf.data.Dataset.from_tensors("no image").map(tf.io.decode_image)
    message = r"\(Unknown image file format"
    with pytest.raises(UserError, match=message) as caught, reading_examples():
        next(iter(images))
    assert "\n" not in str(caught.value)


def test_a_label_of_no_class_is_one_clear_line(fixed):
    shuffled, _ = fixed
    largest = max(shuffled.arrays()[1])
    few = StreamedExamples(
        shuffled._records, shuffled._keys, (64, 64, 3), largest, False
    )
    message = rf"\(labels must be whole numbers from 0 to {largest - 1}; not {largest} "
    batches = few.training_batches(101, 0, Augmentation())[0]
    for read in (few.arrays, lambda: next(iter(batches))):
        with pytest.raises(UserError, match=message), reading_examples():
            read()


def test_what_a_model_raises_is_left_alone():
    with pytest.raises(tf.errors.InvalidArgumentError), reading_examples():
        tf.reshape(tf.zeros(3), [2, 2])
