"""Examples that are read from their files as they are needed."""

from collections.abc import Iterator

import numpy as np
import tensorflow as tf

from advrush_tf.data.channel_moments import channel_moments
from advrush_tf.data.examples import Examples, first_part, in_parallel
from advrush_tf.data.imagenet import centre_crops, decode
from advrush_tf.data.lanes import ordered_batches, shuffled_batches
from advrush_tf.data.memory import require_memory
from advrush_tf.data.parts import Shard
from advrush_tf.data.reading import reading_examples
from advrush_tf.data.records import Records

# The mean and the deviation of channels are those of so many images.
_MOMENT_EXAMPLES = 4096
_READ_BATCH = 64

# Bytes of a value in an array that becomes one of float32.
_BYTES_A_VALUE = 5


class StreamedExamples(Examples):
    """Examples in TFRecord files, as tfds writes them.

    tfds shuffles the records when it prepares a data set, so that a range of them is
    a random choice; here parts, samples and lanes (see `lanes`) are ranges.

    Args:
        records: The examples.
        keys: Names of the features that hold the image and its class.
        image_shape: Height, width and channels; of varying images those of the part
            that is taken.
        varying: Whether the images have many sizes.
    """

    def __init__(
        self,
        records: Records,
        keys: tuple[str, str],
        image_shape: tuple[int, int, int],
        varying: bool,
    ):
        self._records, self._keys = records, keys
        self.image_shape, self.varying = image_shape, varying

    def __len__(self) -> int:
        return len(self._records)

    def _between(self, start: int, stop: int) -> "StreamedExamples":
        records = self._records.between(start, stop)
        return StreamedExamples(records, self._keys, self.image_shape, self.varying)

    def split(self, portion: float, seed: int) -> tuple[Examples, Examples]:
        """As `Examples.split`: the first part are the first records, with any seed."""
        count = first_part(len(self), portion)
        return self._between(0, count), self._between(count, len(self))

    def first(self, count: int) -> Examples:
        return self._between(0, min(count, len(self)))

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
        start = int(np.random.default_rng(seed).integers(len(self) - count + 1))
        return self._between(start, start + count).arrays()[0]

    def moments(self) -> tuple[tuple[float, ...], tuple[float, ...]]:
        """As `Examples.moments`, of the first 4,096 examples."""
        some = self._between(0, min(_MOMENT_EXAMPLES, len(self)))
        return channel_moments(images for images, _ in some._in_file_order())

    def _in_file_order(self) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        batches = self._records.in_order().batch(_READ_BATCH)
        with reading_examples():
            yield from in_parallel(batches, self._decoded).as_numpy_iterator()

    def _shuffled(
        self, batch_size: int, seed: int, stream: int, first: int, part: Shard
    ) -> tf.data.Dataset:
        batches = shuffled_batches(self._records, batch_size, seed, stream, first, part)
        return in_parallel(batches, self._parsed if self.varying else self._decoded)

    def _in_order(self, batch_size: int, part: Shard) -> tf.data.Dataset:
        batches = ordered_batches(self._records, batch_size, part)
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
        return features[image], tf.cast(features[label], tf.int32)
