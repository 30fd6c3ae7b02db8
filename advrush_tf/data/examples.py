"""Labelled images and their batches, in memory or in files.

All randomness is stateless: what a batch holds follows from the seed, the epoch and
the step alone, so that a run that is resumed at an epoch sees what the uninterrupted
one saw. It does not depend either on how many machines share a batch: each of them
makes one shard of every batch, and reads and augments nothing else.
"""

import abc
from collections.abc import Sequence
from typing import Any, NamedTuple, Protocol

import numpy as np
import tensorflow as tf

from advrush_tf.data.augmentation import to_unit_range

EVALUATION_BATCH = 256  # The largest batch of an evaluation, see `even_batch`.
_AHEAD = 2  # Batches that are made while a step runs.

# (index, count): the index-th of `count` contiguous shards of every batch.
Shard = tuple[int, int]
ALL: Shard = (0, 1)


class Streams(NamedTuple):
    """Keys of two independent random streams: of the order and of augmentation."""

    order: int
    draws: int


WEIGHTS, ALPHAS, FIT = Streams(0, 1), Streams(2, 3), Streams(4, 5)


class Augmenting(Protocol):
    """Changes of training images, see `Augmentation` and `ResizedCrop`."""

    def check(self, image_shape: Sequence[int]) -> None: ...

    def draw(self, seed: tf.Tensor, image_shape: Sequence[int]) -> Any: ...

    def apply(
        self, images: tf.Tensor, draws: Any, mean: Sequence[float] | None = None
    ) -> tf.Tensor: ...


class Examples(abc.ABC):
    """Labelled images, and their batches.

    Attributes:
        image_shape: Height, width and channels of the images of a batch.
        varying: True if the images themselves have many sizes; an augmentation then
            receives them encoded, see `ResizedCrop`.
        ordered: True if the files hold the examples in an order of their own, such as
            by class, and batches are shuffled from part to part only.
        labels: Classes, int32 (N,); None where they are in files only.
        checksum: Of the images and their classes; None where they are in files only.
    """

    image_shape: tuple[int, int, int]
    varying = False
    ordered = False
    labels: np.ndarray | None = None
    checksum: str | None = None

    @abc.abstractmethod
    def __len__(self) -> int: ...

    @abc.abstractmethod
    def split(self, portion: float, seed: int) -> tuple["Examples", "Examples"]:
        """Splits the examples in two, round(portion * N) and the others.

        Raises:
            ValueError: If `portion` is outside (0, 1) or leaves a part empty.
        """

    @abc.abstractmethod
    def drawn(self, count: int, seed: int) -> "Examples":
        """A sample of `count` examples in their order, or all if there are no more.

        It is drawn evenly: each class in the same proportion where `labels` are known,
        else at random.
        """

    @abc.abstractmethod
    def arrays(self) -> tuple[np.ndarray, np.ndarray]:
        """All images, uint8 (N, H, W, C), and classes, int32 (N,).

        Raises:
            UserError: If they do not fit in memory.
        """

    def unit_arrays(self) -> tuple[np.ndarray, np.ndarray]:
        """As `arrays`, with images float32 in [0, 1]."""
        images, labels = self.arrays()
        return images.astype(np.float32) / 255, labels

    @abc.abstractmethod
    def sample(self, count: int, seed: int) -> np.ndarray:
        """Some images, uint8 (count, H, W, C), as if chosen at random."""

    @abc.abstractmethod
    def moments(self) -> tuple[tuple[float, ...], tuple[float, ...]]:
        """Mean and standard deviation of each channel, see `channel_moments`."""

    @abc.abstractmethod
    def _shuffled(
        self, batch_size: int, seed: int, stream: int, first: int, shard: Shard
    ) -> tf.data.Dataset:
        """Endless shards (images, labels) of full batches, each epoch in a new order.

        Images are uint8, or encoded if `varying`. The first shard is that of batch
        number `first`; an epoch has len(self) // batch_size batches.
        """

    @abc.abstractmethod
    def _in_order(self, batch_size: int, shard: Shard) -> tf.data.Dataset:
        """Shards (uint8 images, labels) of batches that hold each example once."""

    def training_batches(
        self,
        batch_size: int,
        seed: int,
        augmentation: Augmenting,
        initial_epoch: int = 0,
        mean: Sequence[float] | None = None,
        shard: Shard = ALL,
    ) -> tuple[tf.data.Dataset, int]:
        """Makes the batches of a fit: all examples, shuffled anew in each epoch.

        Only full batches are given.

        Args:
            batch_size: Images per batch, of all shards together.
            seed: Seed of order and augmentation, at least 0.
            augmentation: What is done to the images.
            initial_epoch: First epoch. From there on the batches are, bit for bit,
                those that a dataset from epoch 0 gives.
            mean: Colour of the cutout, see `Augmentation.apply`.
            shard: (index, count): only the index-th of `count` equal, contiguous
                shards of every batch is made. All shards together are, bit for bit,
                the whole batch.

        Returns:
            An infinite dataset of (x, y), x float32 (batch_size / count, H, W, C) in
            [0, 1] and y int32 (batch_size / count,), and the number of steps per epoch.

        Raises:
            ValueError: If a number is out of range, `batch_size` is no multiple of the
                number of shards, or there is less than one full batch.
        """
        check_batches(batch_size, shard, initial_epoch)
        steps_per_epoch = len(self) // batch_size
        if not steps_per_epoch:
            raise ValueError(
                f"A batch of {batch_size} needs as many training images, but there "
                f"are {len(self)}; lower batch_size or give more images."
            )
        first = initial_epoch * steps_per_epoch
        batches = self.augmented(
            batch_size, seed, FIT, augmentation, first, mean, shard
        )
        return endless(batches), steps_per_epoch

    def augmented(
        self,
        batch_size: int,
        seed: int,
        streams: Streams,
        augmentation: Augmenting,
        first: int = 0,
        mean: Sequence[float] | None = None,
        shard: Shard = ALL,
    ) -> tf.data.Dataset:
        """As `training_batches`, with other streams and from any batch number on."""
        augmentation.check(self.image_shape)
        rows = slice(*shard_bounds(batch_size, shard))
        shape = (batch_size, *self.image_shape)

        def augment(examples, step):
            images, labels = examples
            key = random_key(seed, streams.draws, step)
            # Drawn for the whole batch, so that nothing depends on the shards' number.
            drawn = tf.nest.map_structure(
                lambda values: values[rows], augmentation.draw(key, shape)
            )
            return augmentation.apply(images, drawn, mean), labels

        batches = self._shuffled(batch_size, seed, streams.order, first, shard)
        numbered = tf.data.Dataset.zip(batches, tf.data.Dataset.counter(first))
        return in_parallel(numbered, augment)

    def evaluation_batches(
        self, batch_size: int, shard: Shard = ALL
    ) -> tf.data.Dataset:
        """Makes the batches of an evaluation: every example once, unchanged.

        Args:
            batch_size: Images per batch, of all shards together; the last may have
                fewer.
            shard: (index, count): only the index-th of `count` contiguous shards of
                every batch is made. The last shards of a batch may have fewer images
                than the others, or none.

        Returns:
            A dataset of (x, y), x float32 (B, H, W, C) in [0, 1] and y int32 (B,),
            with as many batches for each shard.

        Raises:
            ValueError: If `batch_size` is below 1 or there is no such shard.
        """
        check_shard(shard)
        check_numbers(batch_size)
        batches = self._in_order(batch_size, shard)
        batches = in_parallel(batches, lambda x, y: (to_unit_range(x), y))
        count = tf.data.experimental.assert_cardinality(-(-len(self) // batch_size))
        return batches.apply(count).prefetch(_AHEAD)


# Name of the test examples that are a part of the only ones that there are.
HELD_BACK = "held-back"


class Parts(NamedTuple):
    """The parts of a data set, as they were found.

    Attributes:
        train, test: Examples of one shape; None where there are none.
        class_names: One name per class.
        test_split: Name of the test examples.
    """

    train: Examples | None
    test: Examples | None
    class_names: tuple[str, ...]
    test_split: str


def even_batch(examples: int) -> int:
    """Returns the size of an evaluation's batches.

    It leaves no smaller last batch, for which graphs would be traced again, unless only
    sizes below half of `EVALUATION_BATCH` do not.

    Args:
        examples: how many there are, 1 or more.
    """
    largest = min(EVALUATION_BATCH, examples)
    sizes = range(largest, EVALUATION_BATCH // 2 - 1, -1)
    return next((size for size in sizes if examples % size == 0), largest)


def shard_bounds(batch_size: Any, shard: Shard) -> tuple[Any, Any]:
    """Returns the first row of a shard of a batch, and the row after its last.

    Args:
        batch_size: Rows of a batch; a number or an array.
        shard: (index, count).
    """
    index, count = shard
    rows = -(-batch_size // count)
    low, high = (np.minimum(place * rows, batch_size) for place in (index, index + 1))
    return low, high


def check_batches(batch_size: int, shard: Shard, initial_epoch: int = 0) -> None:
    """Raises ValueError if training batches cannot be made with these numbers."""
    check_shard(shard)
    check_numbers(batch_size, initial_epoch)
    if batch_size % shard[1]:
        raise ValueError(
            f"A batch of {batch_size} cannot be cut into {shard[1]} equal shards; "
            f"choose a batch_size that is a multiple of {shard[1]}."
        )


def check_numbers(batch_size: int, initial_epoch: int = 0) -> None:
    """Raises ValueError if a number is too small."""
    if batch_size < 1 or initial_epoch < 0:
        raise ValueError(
            "batch_size must be at least 1 and initial_epoch at least 0, not "
            f"{batch_size} and {initial_epoch}."
        )


def check_shard(shard: Shard) -> None:
    """Raises ValueError if there is no such shard."""
    if not 0 <= shard[0] < shard[1]:
        raise ValueError(
            f"shard must be (index, count), index from 0 to count - 1, not {shard}."
        )


def first_part(examples: int, portion: float) -> int:
    """Returns the number of examples in the first part of a split.

    Raises:
        ValueError: If `portion` is outside (0, 1) or leaves a part empty.
    """
    if not 0 < portion < 1:
        raise ValueError(
            f"portion must lie strictly between 0 and 1, not {portion}: it is the "
            "share of the first part."
        )
    total = round(portion * examples)
    if not 0 < total < examples:
        raise ValueError(
            f"A portion of {portion} of {examples} examples leaves a part empty; "
            "choose one nearer to 0.5 or give more examples."
        )
    return total


def in_parallel(dataset: tf.data.Dataset, function: Any) -> tf.data.Dataset:
    """Maps a dataset in parallel, in order; the result is `untuned`.

    Args:
        dataset: to map.
        function: of its elements, without Python's `if` and `for` over tensors.
    """
    function = as_written(function)
    # Untuned, AUTOTUNE means one call per core, and at most 16.
    return untuned(
        dataset.map(function, num_parallel_calls=tf.data.AUTOTUNE, deterministic=True)
    )


# For the functions of data sets: to rewrite them takes AutoGraph a third of a second in
# each process, and files on the disk.
as_written = tf.autograph.experimental.do_not_convert


def untuned(dataset: tf.data.Dataset) -> tf.data.Dataset:
    """Returns a dataset, and all that is made of it, without tf.data's tuner.

    The tuner's thread can miss that its iterator is deleted, which then waits for its
    next turn: up to a minute after a long epoch, in which nothing is computed.
    """
    options = tf.data.Options()
    options.autotune.enabled = False
    return dataset.with_options(options)


def endless(batches: tf.data.Dataset) -> tf.data.Dataset:
    """Marks a dataset as infinite, and prefetches it."""
    infinite = tf.data.experimental.assert_cardinality(tf.data.INFINITE_CARDINALITY)
    return batches.apply(infinite).prefetch(_AHEAD)


def random_key(seed: int, stream: int, number: tf.Tensor) -> tf.Tensor:
    """Returns the seed (2,) of the number-th draw of a random stream."""
    return tf.random.fold_in(tf.constant([seed, stream], tf.int64), number)
