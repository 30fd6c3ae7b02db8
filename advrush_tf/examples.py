"""Labelled images and their batches, in memory or wherever else they are.

All randomness is stateless: what a batch holds follows from the seed, the epoch and
the step alone, so that a run that is resumed at an epoch sees what the uninterrupted
one saw. Neither does it depend on how many machines share a batch, of which each makes
its own piece.
"""

import abc
import math
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple, Protocol

import numpy as np
import tensorflow as tf

from advrush_tf.augmentation import Augmentation, to_unit_range

# (index, count): the index-th of `count` contiguous pieces of every batch.
Part = tuple[int, int]
WHOLE: Part = (0, 1)


class Streams(NamedTuple):
    """Keys of two independent random streams: of the order and of augmentation."""

    order: int
    draws: int


WEIGHTS, ALPHAS, FIT = Streams(0, 1), Streams(2, 3), Streams(4, 5)


class Augmenting(Protocol):
    """What is done to training images, see `Augmentation` and `ResizedCrop`."""

    def check(self, image_shape: Sequence[int]) -> None: ...

    def draw(self, seed: tf.Tensor, image_shape: Sequence[int]) -> Any: ...

    def apply(
        self, images: tf.Tensor, draws: Any, mean: Sequence[float] | None = None
    ) -> tf.Tensor: ...


class Examples(abc.ABC):
    """Labelled images, of which batches are made.

    Attributes:
        image_shape: Height, width and channels of the images of a batch.
        varying: Whether the images themselves have many sizes; an augmentation then
            receives them encoded, see `ResizedCrop`.
    """

    image_shape: tuple[int, int, int]
    varying = False

    @abc.abstractmethod
    def __len__(self) -> int: ...

    @abc.abstractmethod
    def split(self, portion: float, seed: int) -> tuple["Examples", "Examples"]:
        """Splits the examples in two, round(portion * N) and the others.

        Raises:
            ValueError: If `portion` is outside (0, 1) or leaves a part empty.
        """

    @abc.abstractmethod
    def first(self, count: int) -> "Examples":
        """The first `count` examples, or all if there are fewer."""

    @abc.abstractmethod
    def arrays(self) -> tuple[np.ndarray, np.ndarray]:
        """All images, uint8 (N, H, W, C), and classes, int32 (N,).

        Raises:
            UserError: If they do not fit in memory.
        """

    @abc.abstractmethod
    def sample(self, count: int, seed: int) -> np.ndarray:
        """Some images, uint8 (count, H, W, C), as if chosen at random."""

    @abc.abstractmethod
    def moments(self) -> tuple[tuple[float, ...], tuple[float, ...]]:
        """Mean and standard deviation of each channel, see `channel_moments`."""

    @abc.abstractmethod
    def _shuffled(
        self, batch_size: int, seed: int, stream: int, first: int, part: Part
    ) -> tf.data.Dataset:
        """Endless pieces (images, labels) of full batches, each epoch in a new order.

        Images are uint8, or encoded if `varying`. The first piece is that of batch
        number `first`; an epoch has len(self) // batch_size batches.
        """

    @abc.abstractmethod
    def _in_order(self, batch_size: int, part: Part) -> tf.data.Dataset:
        """Pieces (uint8 images, labels) of batches that hold each example once."""

    def training_batches(
        self,
        batch_size: int,
        seed: int,
        augmentation: Augmenting,
        initial_epoch: int = 0,
        mean: Sequence[float] | None = None,
        part: Part = WHOLE,
    ) -> tuple[tf.data.Dataset, int]:
        """Makes the batches of a fit: all examples, shuffled anew in each epoch.

        Only full batches are given.

        Args:
            batch_size: Images per batch, of all parts together.
            seed: Seed of order and augmentation, at least 0.
            augmentation: What is done to the images.
            initial_epoch: First epoch. From there on the batches are, bit for bit,
                those that a dataset from epoch 0 gives.
            mean: Colour of the cutout, see `Augmentation.apply`.
            part: (index, count): of every batch only the index-th of `count` equal,
                contiguous pieces is given, and nothing else read or augmented. The
                pieces of all parts are together, bit for bit, the whole batch.

        Returns:
            An infinite dataset of (x, y), x float32 (batch_size / count, H, W, C) in
            [0, 1] and y int32 (batch_size / count,), and the number of steps per epoch.

        Raises:
            ValueError: If a number is out of range, `batch_size` is no multiple of the
                parts' count, or there is less than one full batch.
        """
        check_batches(batch_size, part, initial_epoch)
        steps_per_epoch = len(self) // batch_size
        if not steps_per_epoch:
            raise ValueError(
                f"A batch of {batch_size} needs as many training images, but there "
                f"are {len(self)}; lower batch_size or give more images."
            )
        first = initial_epoch * steps_per_epoch
        batches = self.augmented(batch_size, seed, FIT, augmentation, first, mean, part)
        return endless(batches), steps_per_epoch

    def augmented(
        self,
        batch_size: int,
        seed: int,
        streams: Streams,
        augmentation: Augmenting,
        first: int = 0,
        mean: Sequence[float] | None = None,
        part: Part = WHOLE,
    ) -> tf.data.Dataset:
        """As `training_batches`, with other streams and from any batch number on."""
        augmentation.check(self.image_shape)
        rows, shape = slice(*cut(batch_size, part)), (batch_size, *self.image_shape)

        def augment(piece, step):
            images, labels = piece
            key = random_key(seed, streams.draws, step)
            # For the whole batch, and cut then: nothing depends on the parts' count.
            drawn = tf.nest.map_structure(
                lambda values: values[rows], augmentation.draw(key, shape)
            )
            return augmentation.apply(images, drawn, mean), labels

        pieces = self._shuffled(batch_size, seed, streams.order, first, part)
        numbered = tf.data.Dataset.zip(pieces, tf.data.Dataset.counter(first))
        return in_parallel(numbered, augment)

    def evaluation_batches(
        self, batch_size: int, part: Part = WHOLE
    ) -> tf.data.Dataset:
        """Makes the batches of an evaluation: every example once, unchanged.

        Args:
            batch_size: Images per batch, of all parts together; the last may have
                fewer.
            part: (index, count): of every batch only the index-th of `count`
                contiguous pieces is given, and nothing else read. The last pieces of a
                batch may have fewer images than the others, or none.

        Returns:
            A dataset of (x, y), x float32 (B, H, W, C) in [0, 1] and y int32 (B,),
            with as many batches for each part.

        Raises:
            ValueError: If `batch_size` is below 1 or there is no such part.
        """
        check_part(part)
        check_numbers(batch_size)
        pieces = self._in_order(batch_size, part)
        batches = in_parallel(pieces, lambda x, y: (to_unit_range(x), y))
        return batches.prefetch(tf.data.AUTOTUNE)


class ArrayExamples(Examples):
    """Examples in memory.

    Args:
        images: uint8 (N, H, W, C), 0 to 255.
        labels: Integer classes (N,).

    Raises:
        ValueError: If the images or labels are misshapen.
    """

    def __init__(self, images: np.ndarray, labels: np.ndarray):
        if images.ndim != 4 or images.dtype != np.uint8:
            raise ValueError(
                "images must be uint8 of shape (N, H, W, C), not "
                f"{images.dtype} of shape {images.shape}; see load_dataset."
            )
        if labels.shape != images.shape[:1]:
            raise ValueError(
                f"labels must be one class per image, of shape {images.shape[:1]}, not "
                f"{labels.shape}."
            )
        self.images, self.labels = images, labels
        height, width, channels = images.shape[1:]
        self.image_shape = height, width, channels

    def __len__(self) -> int:
        return len(self.images)

    def split(self, portion: float, seed: int) -> tuple[Examples, Examples]:
        """As `Examples.split`, each class in the same proportion."""
        first, second = stratified_split(self.labels, portion, seed)
        return self._taken(first), self._taken(second)

    def _taken(self, rows: np.ndarray | slice) -> Examples:
        return ArrayExamples(self.images[rows], self.labels[rows])

    def first(self, count: int) -> Examples:
        return self._taken(slice(count))

    def arrays(self) -> tuple[np.ndarray, np.ndarray]:
        return self.images, self.labels

    def sample(self, count: int, seed: int) -> np.ndarray:
        order = np.random.default_rng(seed).permutation(len(self.images))
        return self.images[order[:count]]

    def moments(self) -> tuple[tuple[float, ...], tuple[float, ...]]:
        return channel_moments([self.images])

    def _shuffled(
        self, batch_size: int, seed: int, stream: int, first: int, part: Part
    ) -> tf.data.Dataset:
        images, labels = self._on_host()
        low, high = cut(batch_size, part)
        per_epoch = len(self) // batch_size

        def epoch(number: tf.Tensor) -> tf.data.Dataset:
            order = tf.random.experimental.stateless_shuffle(
                np.arange(len(self)), random_key(seed, stream, number)
            )
            full = tf.reshape(order[: per_epoch * batch_size], [-1, batch_size])
            full = tf.ensure_shape(full, [per_epoch, batch_size])
            return tf.data.Dataset.from_tensor_slices(full[:, low:high])

        epochs = tf.data.Dataset.counter(first // per_epoch).flat_map(epoch)
        return in_parallel(
            epochs.skip(first % per_epoch),
            lambda rows: (tf.gather(images, rows), tf.gather(labels, rows)),
        )

    def _in_order(self, batch_size: int, part: Part) -> tf.data.Dataset:
        images, labels = self._on_host()
        starts = np.arange(0, len(self), batch_size)
        low, high = cut(np.minimum(batch_size, len(self) - starts), part)
        bounds = tf.data.Dataset.from_tensor_slices((starts + low, starts + high))
        return bounds.map(lambda low, high: (images[low:high], labels[low:high]))

    def _on_host(self) -> tuple[tf.Tensor, tf.Tensor]:
        # tf.data runs on the CPU; a tensor on a GPU would be copied for each batch.
        # Captured by the map function, the tensors are inputs of its graph, not
        # constants in it.
        with tf.device("CPU:0"):
            return tf.constant(self.images), tf.constant(self.labels, tf.int32)


def stratified_split(
    labels: np.ndarray, portion: float, seed: int
) -> tuple[np.ndarray, np.ndarray]:
    """Splits examples in two, each class in the same proportion.

    Args:
        labels: Integer classes (N,).
        portion: Share of the first part, strictly between 0 and 1.
        seed: Seed of the choice, at least 0.

    Returns:
        The indices of the first part, round(portion * N) of them, and those of the
        second: disjoint, sorted, together all N. Within each class, the first part's
        count is less than one away from its exact share.

    Raises:
        ValueError: If `portion` is outside (0, 1) or leaves a part empty.
    """
    total = first_part(len(labels), portion)
    classes, counts = np.unique(labels, return_counts=True)
    taken = _largest_remainder(counts * portion, total)
    generator = np.random.default_rng(seed)
    first = np.zeros(len(labels), bool)
    for label, count in zip(classes, taken, strict=True):
        members = np.flatnonzero(labels == label)
        first[generator.permutation(members)[:count]] = True
    return np.flatnonzero(first), np.flatnonzero(~first)


def first_part(examples: int, portion: float) -> int:
    """How many of some examples the first part of a split has.

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


def _largest_remainder(shares: np.ndarray, total: int) -> np.ndarray:
    """Rounds shares to whole numbers that add up to `total`."""
    counts = np.floor(shares).astype(int)
    by_remainder = np.argsort(counts - shares, kind="stable")
    counts[by_remainder[: total - counts.sum()]] += 1
    return counts


def channel_moments(
    batches: Iterable[np.ndarray],
) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and standard deviation of each channel.

    Args:
        batches: uint8 (B, H, W, C) each.

    Returns:
        Both in [0, 1]; a deviation is 1 where it would be 0.
    """
    # In whole numbers the sums are exact, and no float copy of the images is made.
    counts = sum(
        np.stack([np.bincount(c.ravel(), minlength=256) for c in np.rollaxis(b, 3)])
        for b in batches
    )
    levels, means, deviations = np.arange(256), [], []
    for row in counts:
        pixels, total = int(row.sum()), int(levels @ row)
        spread = pixels * int(levels**2 @ row) - total**2
        means.append(total / pixels / 255)
        deviations.append(math.sqrt(spread) / pixels / 255 if spread else 1.0)
    return tuple(means), tuple(deviations)


def cut(batch_size: Any, part: Part) -> tuple[Any, Any]:
    """First row, and the row after the last, of a part of a batch.

    Args:
        batch_size: Rows of a batch; a number or an array.
        part: (index, count).
    """
    index, count = part
    rows = -(-batch_size // count)
    low, high = (np.minimum(place * rows, batch_size) for place in (index, index + 1))
    return low, high


def check_batches(batch_size: int, part: Part, initial_epoch: int = 0) -> None:
    """Raises ValueError where training batches cannot be made with these numbers."""
    check_part(part)
    check_numbers(batch_size, initial_epoch)
    if batch_size % part[1]:
        raise ValueError(
            f"A batch of {batch_size} cannot be cut into {part[1]} equal parts; choose "
            f"a batch_size that is a multiple of {part[1]}."
        )


def check_numbers(batch_size: int, initial_epoch: int = 0) -> None:
    """Raises ValueError where a number is too small."""
    if batch_size < 1 or initial_epoch < 0:
        raise ValueError(
            "batch_size must be at least 1 and initial_epoch at least 0, not "
            f"{batch_size} and {initial_epoch}."
        )


def check_part(part: Part) -> None:
    """Raises ValueError where there is no such part."""
    if not 0 <= part[0] < part[1]:
        raise ValueError(
            f"part must be (index, count) with an index from 0 to count - 1, not {part}."
        )


def in_parallel(dataset: tf.data.Dataset, function: Any) -> tf.data.Dataset:
    """Maps a dataset in parallel, in order."""
    return dataset.map(
        function, num_parallel_calls=tf.data.AUTOTUNE, deterministic=True
    )


def endless(batches: tf.data.Dataset) -> tf.data.Dataset:
    """Says of a dataset that it has no end, and prefetches it."""
    infinite = tf.data.experimental.assert_cardinality(tf.data.INFINITE_CARDINALITY)
    return batches.apply(infinite).prefetch(tf.data.AUTOTUNE)


def random_key(seed: int, stream: int, number: tf.Tensor) -> tf.Tensor:
    """Seed (2,) of the number-th draw of a random stream."""
    return tf.random.fold_in(tf.constant([seed, stream], tf.int64), number)
