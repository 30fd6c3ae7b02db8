"""Examples that are read from their files when they are needed.

Every batch is made of a few equal row groups. Each row group reads its own range of the
records, so that a machine that makes one shard of the batches opens only the files of
the row groups in it, and a batch does not depend on the number of machines.
"""

import contextlib
import math
import re
from collections.abc import Callable, Iterator

import numpy as np
import tensorflow as tf

from advrush_tf.data.array_examples import channel_moments, require_memory
from advrush_tf.data.examples import (
    Examples,
    Shard,
    as_written,
    first_part,
    in_parallel,
    random_key,
    shard_bounds,
)
from advrush_tf.data.imagenet import centre_crops, decode
from advrush_tf.data.records import Records
from advrush_tf.errors import UserError
from advrush_tf.inputs import as_labels

# Machines whose number does not divide this read row groups that they share.
_ROW_GROUPS = 8

# The mean and the deviation of channels are those of so many images.
_MOMENT_EXAMPLES = 4096
_READ_BATCH = 64

# Bytes of a value in an array that becomes one of float32.
_BYTES_A_VALUE = 5


class StreamedExamples(Examples):
    """Examples in TFRecord files, as tfds writes them.

    tfds shuffles the records when it prepares a data set, so that a range of them is
    a random choice; here parts and row groups are ranges. Where the records are
    `ordered`, parts are chosen at random instead. Labels are checked as they are read.

    Args:
        records: The examples.
        keys: Names of the features that hold the image and its class.
        image_shape: Height, width and channels; of varying images those of the part
            that is taken.
        num_classes: Number of classes.
        varying: True if the images have many sizes.
        ordered: True if the records were not shuffled.
    """

    def __init__(
        self,
        records: Records,
        keys: tuple[str, str],
        image_shape: tuple[int, int, int],
        num_classes: int,
        varying: bool,
        ordered: bool = False,
    ):
        self._records, self._keys = records, keys
        self.image_shape, self._num_classes = image_shape, num_classes
        self.varying, self.ordered = varying, ordered

    def __len__(self) -> int:
        return len(self._records)

    def _of(self, records: Records) -> "StreamedExamples":
        kinds = self._num_classes, self.varying, self.ordered
        return StreamedExamples(records, self._keys, self.image_shape, *kinds)

    def split(self, portion: float, seed: int) -> tuple[Examples, Examples]:
        """As `Examples.split`: the first part are the first records, with any seed.

        Of ordered ones it is a random choice.
        """
        count, records = first_part(len(self), portion), self._records
        if self.ordered:
            order = np.random.default_rng(seed).permutation(len(self))
            parts = np.split(order, [count])
            return self._of(records.chosen(parts[0])), self._of(
                records.chosen(parts[1])
            )
        first, second = records.between(0, count), records.between(count, len(self))
        return self._of(first), self._of(second)

    def drawn(self, count: int, seed: int) -> "StreamedExamples":
        if count >= len(self):
            return self
        order = np.random.default_rng(seed).permutation(len(self))
        return self._of(self._records.chosen(order[:count]))

    def arrays(self) -> tuple[np.ndarray, np.ndarray]:
        needed = _BYTES_A_VALUE * len(self) * int(np.prod(self.image_shape))
        require_memory(f"An array of {len(self)} images", needed)
        images = np.empty((len(self), *self.image_shape), np.uint8)
        labels = np.empty(len(self), np.int32)
        start = 0
        for x, y in self._in_file_order():
            images[start : start + len(y)], labels[start : start + len(y)] = x, y
            start += len(y)
        return images, labels

    def sample(self, count: int, seed: int) -> np.ndarray:
        random = np.random.default_rng(seed)
        if self.ordered:
            return random.permutation(self.drawn(count, seed).arrays()[0])
        # A random range, of which far less must be read.
        start = int(random.integers(max(len(self) - count, 0) + 1))
        some = self._records.between(start, min(start + count, len(self)))
        return self._of(some).arrays()[0]

    def moments(self) -> tuple[tuple[float, ...], tuple[float, ...]]:
        """As `Examples.moments`, of the first 4,096 examples, or of as many drawn."""
        count = min(_MOMENT_EXAMPLES, len(self))
        first = self._of(self._records.between(0, count))
        some = self.drawn(count, 0) if self.ordered else first
        return channel_moments(images for images, _ in some._in_file_order())

    def _in_file_order(self) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        batches = self._records.in_order().batch(_READ_BATCH)
        with reading_examples():
            yield from in_parallel(batches, self._decoded).as_numpy_iterator()

    def _shuffled(
        self, batch_size: int, seed: int, stream: int, first: int, shard: Shard
    ) -> tf.data.Dataset:
        batches = shuffled_batches(
            self._records, batch_size, seed, stream, first, shard
        )
        return in_parallel(batches, self._parsed if self.varying else self._decoded)

    def _in_order(self, batch_size: int, shard: Shard) -> tf.data.Dataset:
        batches = ordered_batches(self._records, batch_size, shard)
        return in_parallel(batches, self._decoded)

    def _decoded(self, records: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        """Images uint8 (B, H, W, C), in the middle of varying ones, and classes."""
        images, labels = self._parsed(records)
        if self.varying:
            return centre_crops(images, self.image_shape[0]), labels
        return decode(images, self.image_shape), labels

    def _parsed(self, records: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        """Encoded images, string (B,), and classes, int32 (B,)."""
        image, label = self._keys
        features = tf.io.parse_example(
            records,
            {
                image: tf.io.FixedLenFeature([], tf.string),
                label: tf.io.FixedLenFeature([], tf.int64),
            },
        )
        return features[image], as_labels(features[label], self._num_classes)


def shuffled_batches(
    records: Records, batch_size: int, seed: int, stream: int, first: int, shard: Shard
) -> tf.data.Dataset:
    """Endless shards of full batches of serialised records, each epoch in a new order.

    Every row group shuffles its own range anew in each epoch. A start within an epoch
    reads the first records of that epoch and skips them.

    Args:
        records: At least `batch_size` of them.
        batch_size, shard: See `Examples.training_batches`.
        seed, stream: Keys of the random order.
        first: Number of batches skipped.
    """
    groups, per_epoch = row_groups(batch_size), len(records) // batch_size
    bounds = tf.constant(len(records) * np.arange(groups + 1) // groups)

    def rows(group: tf.Tensor) -> tf.data.Dataset:
        own = records.between(bounds[group], bounds[group + 1])
        key = random_key(seed, stream, group)

        def epoch(number: tf.Tensor) -> tf.data.Dataset:
            shuffled = own.shuffled(tf.random.fold_in(key, number))
            full = shuffled.batch(batch_size // groups, drop_remainder=True)
            return full.take(per_epoch)

        epochs = tf.data.Dataset.counter(first // per_epoch).flat_map(epoch)
        return epochs.skip(first % per_epoch)

    low, high = shard_bounds(batch_size, shard)
    parts = _interleaved(rows, batch_size, low, high)
    return parts.rebatch(high - low, drop_remainder=True)


def ordered_batches(records: Records, batch_size: int, shard: Shard) -> tf.data.Dataset:
    """Shards of batches of serialised records that hold each of them once.

    Args:
        records: At least one.
        batch_size, shard: See `Examples.evaluation_batches`.
    """
    groups = row_groups(batch_size)
    per_group, full = batch_size // groups, (len(records) - 1) // batch_size
    # The last batch is cut as the others; its last row groups may lack records.
    starts = per_group * np.arange(groups)
    last = np.clip(len(records) - full * batch_size - starts, 0, per_group)
    bounds = tf.constant(np.concatenate([[0], np.cumsum(full * per_group + last)]))

    def rows(group: tf.Tensor) -> tf.data.Dataset:
        own = records.between(bounds[group], bounds[group + 1])
        return own.in_order().batch(per_group)

    low, high = shard_bounds(batch_size, shard)
    nothing = tf.data.Dataset.from_tensors(tf.zeros(0, tf.string))
    if low == high:
        return nothing.repeat(full + 1)
    batches = _interleaved(rows, batch_size, low, high).rebatch(high - low)
    in_last = np.minimum(starts + last, high) - np.maximum(starts, low)
    return batches if (in_last > 0).any() else batches.concatenate(nothing)


def row_groups(batch_size: int) -> int:
    """Returns the number of row groups of a batch, which divides it."""
    return math.gcd(batch_size, _ROW_GROUPS)


def _interleaved(
    rows: Callable[[tf.Tensor], tf.data.Dataset], batch_size: int, low: int, high: int
) -> tf.data.Dataset:
    """The rows of a shard of every batch, one row group after the other.

    Args:
        rows: Gives the rows of a row group, those of one batch at a time.
        batch_size: Rows of a batch.
        low, high: The first row of the shard and the one after its last.
    """
    per_group = batch_size // row_groups(batch_size)
    first, last = low // per_group, (high - 1) // per_group

    @as_written
    def in_shard(group: tf.Tensor) -> tf.data.Dataset:
        start = group * per_group
        kept = slice(tf.maximum(low - start, 0), tf.minimum(high - start, per_group))
        return rows(group).map(lambda values: values[kept])

    return tf.data.Dataset.range(first, last + 1).interleave(
        in_shard, cycle_length=last + 1 - first
    )


@contextlib.contextmanager
def reading_examples() -> Iterator[None]:
    """Turns the errors of an input pipeline that cannot read a file into one line.

    Raises:
        UserError: If a file of the data set is missing or damaged.
    """
    try:
        yield
    except tf.errors.OpError as error:
        # Not what the model's own operations raise.
        if "IteratorGetNext" not in str(error):
            raise
        raise UserError(
            f"An example of the data set could not be read ({_cause(error)}); delete "
            "the data set's folder and prepare or copy it again."
        ) from error


def _cause(error: tf.errors.OpError) -> str:
    """Returns the message without the places in the program."""
    message = re.split(r"\n\t \[\[| \[Op:", str(error))[0].splitlines()[-1]
    return re.sub(r"\{\{.*?\}\} |[\[\]]", "", message).rpartition(": ")[-1].rstrip(".")
