"""Examples in memory: their split, their moments and the memory that they need."""

import functools
import hashlib
import math
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import psutil
import tensorflow as tf

from advrush_tf.data.examples import (
    Examples,
    Shard,
    as_written,
    first_part,
    in_parallel,
    random_key,
    shard_bounds,
    untuned,
)
from advrush_tf.errors import UserError
from advrush_tf.inputs import as_labels, check_images

# The images of a data set are held here, as the tensor that the pipeline reads, and
# their half that validates once more.
COPIES = 3
_MEMORY_SHARE = 0.75


class ArrayExamples(Examples):
    """Examples in memory.

    Args:
        images: (N, H, W, C), or (N, H, W) of one channel; whole numbers from 0 to 255,
            or floats in [0, 1], which are rounded to 8 bits. Or a finite dataset of
            (image, label), in batches or not.
        labels: See `advrush_tf.inputs.as_labels`; None for a dataset.

    Raises:
        ValueError: If the images or labels are misshapen or of other values.
    """

    def __init__(self, images: Any, labels: Any = None):
        if isinstance(images, tf.data.Dataset) and labels is None:
            images, labels = _read_all(images)
        images, labels = _eight_bit(images), as_labels(labels).numpy()
        if labels.shape != images.shape[:1]:
            raise ValueError(
                f"labels must be one class per image, of shape {images.shape[:1]}, not "
                f"{labels.shape}."
            )
        self.images: np.ndarray = images
        self.labels: np.ndarray = labels
        self._splits: dict[tuple[float, int], tuple[Examples, Examples]] = {}
        height, width, channels = images.shape[1:]
        self.image_shape = height, width, channels

    def __len__(self) -> int:
        return len(self.images)

    def split(self, portion: float, seed: int) -> tuple[Examples, Examples]:
        """As `Examples.split`, each class in the same proportion."""
        # Kept: each replica of a run asks for the same, which is half of the images.
        if (portion, seed) not in self._splits:
            first, second = stratified_split(self.labels, portion, seed)
            self._splits[portion, seed] = self._taken(first), self._taken(second)
        return self._splits[portion, seed]

    def _taken(self, rows: np.ndarray) -> Examples:
        return ArrayExamples(self.images[rows], self.labels[rows])

    def drawn(self, count: int, seed: int) -> Examples:
        if count >= len(self):
            return self
        return self._taken(stratified_split(self.labels, count / len(self), seed)[0])

    def arrays(self) -> tuple[np.ndarray, np.ndarray]:
        return self.images, self.labels

    @functools.cached_property
    def checksum(self) -> str:  # type: ignore[override]
        found = hashlib.sha256(str(self.images.shape).encode())
        found.update(np.ascontiguousarray(self.images).data)
        found.update(self.labels.astype("<i4").data)
        return found.hexdigest()

    def sample(self, count: int, seed: int) -> np.ndarray:
        order = np.random.default_rng(seed).permutation(len(self.images))
        return self.images[order[:count]]

    def moments(self) -> tuple[tuple[float, ...], tuple[float, ...]]:
        return channel_moments([self.images])

    def _shuffled(
        self, batch_size: int, seed: int, stream: int, first: int, shard: Shard
    ) -> tf.data.Dataset:
        images, labels = self._on_host
        low, high = shard_bounds(batch_size, shard)
        per_epoch = len(self) // batch_size

        @as_written
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

    def _in_order(self, batch_size: int, shard: Shard) -> tf.data.Dataset:
        images, labels = self._on_host
        starts = np.arange(0, len(self), batch_size)
        low, high = shard_bounds(np.minimum(batch_size, len(self) - starts), shard)
        bounds = tf.data.Dataset.from_tensor_slices((starts + low, starts + high))
        return bounds.map(
            as_written(lambda low, high: (images[low:high], labels[low:high]))
        )

    @functools.cached_property
    def _on_host(self) -> tuple[tf.Tensor, tf.Tensor]:
        # tf.data runs on the CPU; a tensor on a GPU would be copied for each batch.
        # Captured by the map function, the tensors are inputs of its graph, not
        # constants in it.
        with tf.device("CPU:0"):
            return tf.constant(self.images), tf.constant(self.labels, tf.int32)


def _eight_bit(images: Any) -> np.ndarray:
    """Returns images as uint8 (N, H, W, C)."""
    images = np.asarray(images)
    if images.ndim == 3:
        images = images[..., np.newaxis]
    if images.ndim != 4 or images.dtype.kind not in "uif":
        raise ValueError(
            "images must be numbers of shape (N, H, W, C), 0 to 255 or floats in "
            f"[0, 1], not {images.dtype} of shape {images.shape}."
        )
    if images.dtype.kind == "f":
        check_images(images)
        return np.rint(images * 255).astype(np.uint8)
    if images.dtype != np.uint8 and np.any((images < 0) | (images > 255)):
        raise ValueError(
            f"images of whole numbers must be in 0 to 255; these are in "
            f"[{images.min()}, {images.max()}]."
        )
    if images.max(initial=0) == 1:
        raise ValueError(
            "images of whole numbers must be in 0 to 255; these are 0 and 1 only; give "
            "floats in [0, 1]."
        )
    return images.astype(np.uint8, copy=False)


def averaged_over_areas(images: np.ndarray, shape: Sequence[int]) -> np.ndarray:
    """Returns smaller images, each pixel the mean of the area that it covers.

    Args:
        images: uint8 (N, H, W, C).
        shape: Height, width and channels that they are to have.
    """
    if images.shape[1:] == tuple(shape):
        return images
    return np.rint(tf.image.resize(images, shape[:2], "area")).astype(np.uint8)


def _read_all(dataset: tf.data.Dataset) -> tuple[np.ndarray, np.ndarray]:
    """Returns all images and labels of a dataset, whose batches are joined."""
    spec = dataset.element_spec
    if (
        not (isinstance(spec, tuple) and len(spec) == 2)
        or dataset.cardinality() == tf.data.INFINITE_CARDINALITY
        or not (elements := list(untuned(dataset).as_numpy_iterator()))
    ):
        raise ValueError(
            "a dataset must be finite, with elements (image, label) and at least one."
        )
    join = np.concatenate if elements[0][0].ndim == 4 else np.stack
    images, labels = (join(parts) for parts in zip(*elements, strict=True))
    return images, labels


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


def _largest_remainder(shares: np.ndarray, total: int) -> np.ndarray:
    """Rounds shares to whole numbers that add up to `total`."""
    counts = np.floor(shares).astype(int)
    by_remainder = np.argsort(counts - shares, kind="stable")
    counts[by_remainder[: total - counts.sum()]] += 1
    return counts


def channel_moments(
    batches: Iterable[np.ndarray],
) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Returns the mean and the standard deviation of each channel.

    Args:
        batches: uint8 (B, H, W, C) each.

    Returns:
        Both in [0, 1]; a deviation is 1 where it would be 0.
    """
    # In whole numbers the sums are exact, and no float copy of the images is made.
    counts = np.sum([_level_counts(images) for images in batches], 0)
    levels, means, deviations = np.arange(256), [], []
    for row in counts:
        pixels, total = int(row.sum()), int(levels @ row)
        spread = pixels * int(levels**2 @ row) - total**2
        means.append(total / pixels / 255)
        deviations.append(math.sqrt(spread) / pixels / 255 if spread else 1.0)
    return tuple(means), tuple(deviations)


def _level_counts(images: np.ndarray) -> np.ndarray:
    """Counts the pixels of each level in each channel, (C, 256)."""
    channels = np.moveaxis(images, -1, 0)
    return np.stack([np.bincount(c.ravel(), minlength=256) for c in channels])


def require_memory(what: str, needed: int) -> None:
    """Checks that something fits in three quarters of the free memory.

    Args:
        what: What needs memory, for the message.
        needed: Bytes.

    Raises:
        UserError: If it does not fit.
    """
    limit = _MEMORY_SHARE * psutil.virtual_memory().available
    if needed > limit:
        raise UserError(
            f"{what} needs {needed / 1e9:.1f} GB; the limit is {limit / 1e9:.1f} GB, "
            f"{_MEMORY_SHARE:.0%} of the free memory: free some or use fewer images."
        )
