"""The splits of a tfds data set: which are used, read into memory or streamed."""

import contextlib
import itertools
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf

from advrush_tf.data.array_examples import ArrayExamples, averaged_over_areas
from advrush_tf.data.examples import Examples
from advrush_tf.data.records import Records
from advrush_tf.data.source import image_and_label
from advrush_tf.data.streaming import StreamedExamples
from advrush_tf.errors import UserError, one_line

_READ_BATCH = 500


def train_and_test(
    builder: Any, given: Sequence[str] = ()
) -> tuple[str | None, str | None]:
    """Returns the splits to train and to test with, None where there is none.

    Args:
        builder: A `tfds.core.DatasetBuilder`.
        given: tfds' expressions for none of them, the first or both. Otherwise `train`
            trains, or a split that is the only one, and `test` tests, or without it or
            its labels `validation`.

    Raises:
        UserError: If a given split cannot be had, or both have images in common.
    """
    available = list(builder.info.splits)
    train, test = [*given, None, None][:2]
    if test is None:
        test = _usual_test(builder)
    if train is None and "train" in available:
        train = "train"
    if train is None and test is None and len(available) == 1:
        (train,) = available
    if given and train and test and _overlap(builder, train, test):
        raise UserError(
            f"Splits {train} and {test} of data set {builder.name} have images in "
            "common; give others, such as train[:80%],train[80%:]."
        )
    return train, test


def _usual_test(builder: Any) -> str | None:
    splits = builder.info.splits
    tests = [split for split in ("test", "validation") if split in splits]
    # ImageNet's test split has no labels, which tfds writes as -1.
    if len(tests) == 2 and _first_label(builder, "test") < 0:
        tests.remove("test")
    return tests[0] if tests else None


def _overlap(builder: Any, one: str, other: str) -> bool:
    """Returns True if two splits have images in common."""
    pieces = (_split(builder, each).file_instructions for each in (one, other))
    return any(
        a.filename == b.filename
        and max(a.skip, b.skip) < min(a.skip + a.take, b.skip + b.take)
        for a, b in itertools.product(*pieces)
    )


def _split(builder: Any, split: str) -> Any:
    """Returns tfds' description of a split or of an expression of splits."""
    try:
        return builder.info.splits[split]
    except ValueError as error:
        raise UserError(
            f"Data set {builder.name} has no split {split} ({one_line(error)}); give "
            "one of its own, or a part such as train[:80%]."
        ) from None


def count(builder: Any, split: str) -> int:
    """Returns the number of a split's images, which dataset_info.json says.

    Raises:
        UserError: If there are none.
    """
    shards = _split(builder, split).shard_lengths
    if min(shards, default=0) < 0 or not sum(shards):
        raise UserError(
            f"dataset_info.json of data set {builder.name} says that {split!r} has "
            f"shards of {shards} images; copy or prepare the data set again."
            if split in builder.info.splits
            else f"Split {split} of data set {builder.name} has no images; give more."
        )
    return sum(shards)


def _first_label(builder: Any, split: str) -> int:
    _, label = builder.info.supervised_keys
    with _naming_damage(builder):
        first = builder.as_dataset(split=f"{split}[:1]", decoders=_undecoded(builder))
        return int(next(first.as_numpy_iterator())[label])


def streamed(builder: Any, split: str, shape: tuple[int, int, int]) -> Examples:
    """Returns the examples of a split, which are read when they are needed.

    Args:
        builder: A `tfds.core.DatasetBuilder`.
        split: Name or expression.
        shape: Of the images of a batch.

    Raises:
        UserError: If a file is not there, or is no TFRecord file.
    """
    image, label = image_and_label(builder)
    if builder.info.file_format.value != "tfrecord":
        raise UserError(
            f"Data set {builder.name} is prepared as {builder.info.file_format.value}; "
            "prepare it as tfrecord, which is tfds' default."
        )
    pieces = _split(builder, split).file_instructions
    paths = tuple(str(piece.filename) for piece in pieces)
    with _naming_damage(builder):
        for path in paths:
            tf.io.gfile.stat(path)  # raises where there is none
    lengths = tuple(piece.examples_in_shard for piece in pieces)
    records = Records(paths, lengths, 0, sum(lengths))
    if sum(piece.take for piece in pieces) < len(records):
        starts = np.cumsum(lengths) - lengths + [piece.skip for piece in pieces]
        rows = [s + np.arange(p.take) for s, p in zip(starts, pieces, strict=True)]
        records = records.chosen(np.concatenate(rows))
    keys = builder.info.supervised_keys
    ordered = bool(builder.info.disable_shuffling)
    return StreamedExamples(
        records, keys, shape, label.num_classes, None in image.shape, ordered
    )


def read(builder: Any, split: str, shape: tuple[int, int, int]) -> Examples:
    """Reads a split, in the order of its files.

    Args:
        builder, split: As for `streamed`.
        shape: Of the images, which are averaged over areas if they are larger.

    Raises:
        UserError: If a file is damaged, or labels are not of the classes.
    """
    _, label = image_and_label(builder)
    images = np.empty((count(builder, split), *shape), np.uint8)
    labels = np.empty(len(images), np.int32)
    start = 0
    with _naming_damage(builder, _split(builder, split).filepaths):
        for batch_images, batch_labels in _batches(builder, split):
            end = start + len(batch_labels)
            images[start:end] = averaged_over_areas(batch_images, shape)
            labels[start:end] = batch_labels
            start = end
    if labels.min() < 0 or labels.max() >= label.num_classes:
        raise UserError(
            f"Split {split!r} of data set {builder.name} has labels "
            f"outside 0 to {label.num_classes - 1}; use a fully labelled set."
        )
    return ArrayExamples(images, labels)


def _batches(builder: Any, split: str) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    import tensorflow_datasets as tfds

    dataset = builder.as_dataset(
        split=split,
        as_supervised=True,
        shuffle_files=False,
        read_config=tfds.ReadConfig(try_autocache=False),
    )
    return dataset.batch(_READ_BATCH).as_numpy_iterator()


def _undecoded(builder: Any) -> Any:
    import tensorflow_datasets as tfds

    image, _ = builder.info.supervised_keys
    return {image: tfds.decode.SkipDecoding()}


@contextlib.contextmanager
def _naming_damage(builder: Any, paths: Sequence[Any] = ()) -> Iterator[None]:
    """Turns what reading files raises into a UserError that names the damaged one."""
    try:
        yield
    except (tf.errors.OpError, OSError) as error:
        damaged = next(
            (path for path in map(Path, paths) if not _is_readable(path)),
            builder.data_path,
        )
        raise UserError(
            f"The prepared data set {builder.name} is damaged at {damaged} "
            f"({one_line(error)}); delete its folder and prepare or copy it again."
        ) from error


def _is_readable(path: Path) -> bool:
    try:
        for _ in tf.data.TFRecordDataset(str(path)):
            pass
    except tf.errors.OpError:
        return False
    return True
