"""From images in memory to batches: stratified split, bilevel pairs, evaluation.

All randomness is stateless: what a batch holds follows from the seed, the epoch and
the step alone, so that a run that is resumed at an epoch sees what the uninterrupted
one saw.
"""

from collections.abc import Sequence

import numpy as np
import tensorflow as tf

from advrush_tf.augmentation import Augmentation, to_unit_range

# Keys of the independent random streams.
_WEIGHT_ORDER, _WEIGHT_DRAWS, _ALPHA_ORDER, _ALPHA_DRAWS, _ORDER, _DRAWS = range(6)


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
    if not 0 < portion < 1:
        raise ValueError(
            f"portion must lie strictly between 0 and 1, not {portion}: it is the "
            "share of the first part."
        )
    total = round(portion * len(labels))
    if not 0 < total < len(labels):
        raise ValueError(
            f"A portion of {portion} of {len(labels)} examples leaves a part empty; "
            "choose one nearer to 0.5 or give more examples."
        )
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


def bilevel_pairs(
    images: np.ndarray,
    labels: np.ndarray,
    batch_size: int = 32,
    train_portion: float = 0.5,
    seed: int = 0,
    augmentation: Augmentation | None = None,
    initial_epoch: int = 0,
    mean: Sequence[float] | None = None,
) -> tuple[tf.data.Dataset, int]:
    """Makes the batches of the search: pairs for the weights and for the alphas.

    The data is split once into two disjoint halves. Each is shuffled anew, on its
    own, each time that it has been run through; an epoch is one run through the
    weight half. Only full batches are given.

    Args:
        images: uint8 (N, H, W, C).
        labels: Integer classes (N,).
        batch_size: Images per batch, in each half.
        train_portion: Share of the images in the weight half, in (0, 1).
        seed: Seed of split, order and augmentation, at least 0.
        augmentation: What is done to both halves; nothing if None.
        initial_epoch: First epoch. From there on the batches are, bit for bit, those
            that a dataset from epoch 0 gives.
        mean: Colour of the cutout, see `Augmentation.apply`.

    Returns:
        An infinite dataset of ((x_w, y_w), (x_a, y_a)), x float32 (batch_size, H, W,
        C) in [0, 1] and y int32 (batch_size,), and the number of steps per epoch.

    Raises:
        ValueError: If a number is out of range, the images or labels are misshapen,
            or a half has less than one full batch.
    """
    _check_pairs(images, labels, batch_size, initial_epoch)
    halves = stratified_split(labels, train_portion, seed)
    if min(map(len, halves)) < batch_size:
        raise ValueError(
            f"A batch of {batch_size} needs as many images in each half, but they have "
            f"{len(halves[0])} and {len(halves[1])}; lower batch_size, move "
            "train_portion towards 0.5 or give more images."
        )
    streams = zip(
        halves,
        (_WEIGHT_ORDER, _ALPHA_ORDER),
        (_WEIGHT_DRAWS, _ALPHA_DRAWS),
        strict=True,
    )
    source = _Source(images, labels, batch_size, seed, augmentation, mean)
    steps_per_epoch = len(halves[0]) // batch_size
    first = initial_epoch * steps_per_epoch
    batches = [source.batches(*stream, first) for stream in streams]
    return _endless(tf.data.Dataset.zip(*batches)), steps_per_epoch


def training_batches(
    images: np.ndarray,
    labels: np.ndarray,
    batch_size: int = 64,
    seed: int = 0,
    augmentation: Augmentation | None = None,
    initial_epoch: int = 0,
    mean: Sequence[float] | None = None,
) -> tuple[tf.data.Dataset, int]:
    """Makes the batches of a fit: all images, shuffled anew in each epoch.

    Only full batches are given.

    Args:
        images, labels, batch_size, seed, augmentation, initial_epoch, mean: As for
            `bilevel_pairs`.

    Returns:
        An infinite dataset of (x, y), x float32 (batch_size, H, W, C) in [0, 1] and y
        int32 (batch_size,), and the number of steps per epoch.

    Raises:
        ValueError: If a number is out of range, the images or labels are misshapen,
            or there is less than one full batch.
    """
    _check_pairs(images, labels, batch_size, initial_epoch)
    steps_per_epoch = len(images) // batch_size
    if not steps_per_epoch:
        raise ValueError(
            f"A batch of {batch_size} needs as many training images, but there are "
            f"{len(images)}; lower batch_size or give more images."
        )
    source = _Source(images, labels, batch_size, seed, augmentation, mean)
    members, first = np.arange(len(images)), initial_epoch * steps_per_epoch
    return _endless(source.batches(members, _ORDER, _DRAWS, first)), steps_per_epoch


class _Source:
    """Images in memory, from which augmented batches are drawn."""

    def __init__(self, images, labels, batch_size, seed, augmentation, mean):
        self._augmentation = augmentation or Augmentation()
        self._augmentation.check(images.shape[1:])
        self._pixels, self._classes = _on_host(images, labels)
        self._shape = (batch_size, *images.shape[1:])
        self._seed = seed
        self._mean = mean

    def batches(
        self, members: np.ndarray, order: int, draws: int, first: int
    ) -> tf.data.Dataset:
        """Endless (x, y) of some images, from batch number `first` on.

        Args:
            members: Indices of the images.
            order, draws: Keys of the random streams for the order and augmentation.
            first: Number of batches passed over.
        """

        def batch(indices: tf.Tensor, step: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
            drawn = self._augmentation.draw(_key(self._seed, draws, step), self._shape)
            x = tf.gather(self._pixels, indices)
            x = self._augmentation.apply(x, drawn, self._mean)
            return x, tf.gather(self._classes, indices)

        indices = _index_batches(members, self._shape[0], self._seed, order, first)
        numbered = tf.data.Dataset.zip(indices, tf.data.Dataset.counter(first))
        return numbered.map(
            batch, num_parallel_calls=tf.data.AUTOTUNE, deterministic=True
        )


def _endless(batches: tf.data.Dataset) -> tf.data.Dataset:
    infinite = tf.data.experimental.assert_cardinality(tf.data.INFINITE_CARDINALITY)
    return batches.apply(infinite).prefetch(tf.data.AUTOTUNE)


def evaluation_batches(
    images: np.ndarray, labels: np.ndarray, batch_size: int
) -> tf.data.Dataset:
    """Makes the batches of an evaluation: every image once, in order, unchanged.

    Args:
        images: uint8 (N, H, W, C).
        labels: Integer classes (N,).
        batch_size: Images per batch; the last may have fewer.

    Returns:
        A dataset of (x, y), x float32 (B, H, W, C) in [0, 1] and y int32 (B,).

    Raises:
        ValueError: If the images or labels are misshapen or `batch_size` is below 1.
    """
    _check_pairs(images, labels, batch_size, initial_epoch=0)
    pixels, classes = _on_host(images, labels)

    def batch(start: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        end = start + batch_size
        return to_unit_range(pixels[start:end]), classes[start:end]

    starts = tf.data.Dataset.range(0, len(images), batch_size)
    batches = starts.map(batch, num_parallel_calls=tf.data.AUTOTUNE, deterministic=True)
    return batches.prefetch(tf.data.AUTOTUNE)


def _check_pairs(
    images: np.ndarray, labels: np.ndarray, batch_size: int, initial_epoch: int
) -> None:
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
    if batch_size < 1 or initial_epoch < 0:
        raise ValueError(
            "batch_size must be at least 1 and initial_epoch at least 0, not "
            f"{batch_size} and {initial_epoch}."
        )


def _on_host(images: np.ndarray, labels: np.ndarray) -> tuple[tf.Tensor, tf.Tensor]:
    # tf.data runs on the CPU; a tensor on a GPU would be copied for each batch.
    # Captured by the map function, the tensors are inputs of its graph, not constants
    # in it.
    with tf.device("CPU:0"):
        return tf.constant(images), tf.constant(labels, tf.int32)


def _index_batches(
    members: np.ndarray, batch_size: int, seed: int, stream: int, first: int
) -> tf.data.Dataset:
    """Endless batches of indices, from batch number `first` on."""
    per_pass = len(members) // batch_size

    def one_pass(number: tf.Tensor) -> tf.data.Dataset:
        order = tf.random.experimental.stateless_shuffle(
            members, _key(seed, stream, number)
        )
        full = order[: per_pass * batch_size]
        return tf.data.Dataset.from_tensor_slices(
            tf.reshape(full, [per_pass, batch_size])
        )

    passes = tf.data.Dataset.counter(first // per_pass).flat_map(one_pass)
    return passes.skip(first % per_pass)


def _key(seed: int, stream: int, number: tf.Tensor) -> tf.Tensor:
    return tf.random.fold_in(tf.constant([seed, stream], tf.int64), number)
