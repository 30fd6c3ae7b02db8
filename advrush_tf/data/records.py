"""Encoded examples in TFRecord files, in order or shuffled."""

import dataclasses
from typing import Any

import numpy as np
import tensorflow as tf

from advrush_tf.data.examples import as_written

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
        rows: Where only some records count, their places among all, ascending.
    """

    paths: tuple[str, ...]
    lengths: tuple[int, ...]
    start: Any
    stop: Any
    rows: np.ndarray | None = None

    def __len__(self) -> int:
        return self.stop - self.start

    def between(self, start: Any, stop: Any) -> "Records":
        """Returns a range of this range, counted from the first record of this one."""
        return dataclasses.replace(
            self, start=self.start + start, stop=self.start + stop
        )

    def chosen(self, places: np.ndarray) -> "Records":
        """Returns some records of this range, counted from its first one."""
        rows = np.arange(sum(self.lengths)) if self.rows is None else self.rows
        rows = np.sort(rows[self.start : self.stop][places])
        return dataclasses.replace(self, start=0, stop=len(rows), rows=rows)

    def slices(self) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor, tf.Tensor]:
        """Returns the slices of files that hold the range.

        Their paths, the records to skip and those to take in each, and the place of
        the first of these among the records of all files.
        """
        ends = np.cumsum(self.lengths)
        start, stop = (tf.cast(end, tf.int64) for end in (self.start, self.stop))
        if self.rows is not None:
            places = tf.constant([*self.rows, sum(self.lengths)], tf.int64)
            start, stop = tf.gather(places, start), tf.gather(places, stop)
        begins = ends - self.lengths
        skipped = tf.maximum(start - begins, 0)
        taken = tf.minimum(stop, ends) - begins - skipped
        values = tf.constant(self.paths), skipped, taken, begins + skipped
        paths, skipped, taken, places = (
            tf.boolean_mask(each, taken > 0) for each in values
        )
        return paths, skipped, taken, places

    def in_order(self) -> tf.data.Dataset:
        """The serialised records, in the order of the files."""
        return tf.data.Dataset.from_tensor_slices(self.slices()).flat_map(self._read)

    @as_written
    def _read(
        self, path: tf.Tensor, skipped: tf.Tensor, taken: tf.Tensor, place: tf.Tensor
    ) -> tf.data.Dataset:
        """The records of a slice that count."""
        records = tf.data.TFRecordDataset(path).skip(skipped).take(taken)
        if self.rows is None:
            return records
        counts = np.zeros(sum(self.lengths), bool)
        counts[self.rows] = True
        counted = tf.constant(counts)
        numbered = tf.data.Dataset.zip(records, tf.data.Dataset.counter(place))
        kept = numbered.filter(lambda _, number: tf.gather(counted, number))
        return kept.map(lambda record, _: record)

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
            self._read,
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


def _shuffle(values: tf.Tensor, key: tf.Tensor) -> tf.Tensor:
    return tf.random.experimental.stateless_shuffle(values, key)
