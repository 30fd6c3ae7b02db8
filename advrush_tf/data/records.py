"""Encoded examples in TFRecord files, in order or shuffled."""

import dataclasses
from typing import Any

import numpy as np
import tensorflow as tf

# Number of files that a stream reads at a time, and of neighbouring records that it
# shuffles at a time.
_FILES_AT_ONCE = 4
_BLOCK = 256


@dataclasses.dataclass(frozen=True)
class Records:
    """A range of the records of some files.

    Attributes:
        paths: The files.
        lengths: Number of records in each file.
        start, stop: The first record and the one after the last, counted through all
            files; numbers, or within a dataset's function scalar tensors.
    """

    paths: tuple[str, ...]
    lengths: tuple[int, ...]
    start: Any
    stop: Any

    def __len__(self) -> int:
        return self.stop - self.start

    def between(self, start: Any, stop: Any) -> "Records":
        """Returns a range of this range, counted from the first record of this one."""
        return dataclasses.replace(
            self, start=self.start + start, stop=self.start + stop
        )

    def slices(self) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
        """Returns the files' paths, the records to skip and those to take in each."""
        ends = np.cumsum(self.lengths)
        start, stop = (tf.cast(end, tf.int64) for end in (self.start, self.stop))
        begins = ends - self.lengths
        skipped = tf.maximum(start - begins, 0)
        taken = tf.minimum(stop, ends) - begins - skipped
        values = tf.constant(self.paths), skipped, taken
        paths, skipped, taken = (tf.boolean_mask(each, taken > 0) for each in values)
        return paths, skipped, taken

    def in_order(self) -> tf.data.Dataset:
        """The serialised records, in the order of the files."""
        return tf.data.Dataset.from_tensor_slices(self.slices()).flat_map(_read)

    def shuffled(self, key: tf.Tensor) -> tf.data.Dataset:
        """The serialised records, all of them in a random order.

        Files come in random order, some at a time, and what comes is shuffled in
        blocks: the order follows from the key alone, and little is held in memory.

        Args:
            key: Integer seed (2,).
        """
        slices = self.slices()
        order = _shuffle(tf.range(tf.size(slices[0])), tf.random.fold_in(key, 0))
        files = tuple(tf.gather(values, order) for values in slices)
        records = tf.data.Dataset.from_tensor_slices(files).interleave(
            _read,
            cycle_length=_FILES_AT_ONCE,
            num_parallel_calls=tf.data.AUTOTUNE,
            deterministic=True,
        )
        blocks = records.batch(_BLOCK).enumerate(start=1)
        mixed = blocks.map(
            lambda number, block: _shuffle(block, tf.random.fold_in(key, number))
        )
        # The next block is read while this one is used.
        return mixed.prefetch(1).unbatch()


def _read(path: tf.Tensor, skipped: tf.Tensor, taken: tf.Tensor) -> tf.data.Dataset:
    return tf.data.TFRecordDataset(path).skip(skipped).take(taken)


def _shuffle(values: tf.Tensor, key: tf.Tensor) -> tf.Tensor:
    return tf.random.experimental.stateless_shuffle(values, key)
