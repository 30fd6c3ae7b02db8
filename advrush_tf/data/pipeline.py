"""Batches of a search, a fit and an evaluation, from images in memory."""

from collections.abc import Sequence
from typing import Any

import tensorflow as tf

from advrush_tf.data.array_examples import ArrayExamples
from advrush_tf.data.augmentation import Augmentation
from advrush_tf.data.examples import (
    ALL,
    ALPHAS,
    WEIGHTS,
    Augmenting,
    Examples,
    Shard,
    check_batches,
    endless,
)


def bilevel_pairs(
    images: Any,
    labels: Any = None,
    batch_size: int = 32,
    train_portion: float = 0.5,
    seed: int = 0,
    augmentation: Augmentation | None = None,
    initial_epoch: int = 0,
    mean: Sequence[float] | None = None,
    shard: Shard = ALL,
) -> tuple[tf.data.Dataset, int]:
    """Makes the batches of the search: pairs for the weights and for the alphas.

    The data is split once into two disjoint halves, each class in the same proportion.
    Each half is shuffled independently and anew after each run through it; an epoch is
    one run through the weight half. Only full batches are given.

    Args:
        images, labels: See `ArrayExamples`; for example what `keras.datasets` gives.
        batch_size: Images per batch, in each half, of all shards together.
        train_portion: Share of the images in the weight half, in (0, 1).
        seed: Seed of split, order and augmentation, at least 0.
        augmentation: What is done to both halves; nothing if None.
        initial_epoch, mean, shard: See `Examples.training_batches`.

    Returns:
        An infinite dataset of ((x_w, y_w), (x_a, y_a)), x float32 (batch_size, H, W,
        C) in [0, 1] and y int32 (batch_size,), and the number of steps per epoch.

    Raises:
        ValueError: If a number is out of range, the images or labels are misshapen,
            or a half has less than one full batch.
    """
    halves = ArrayExamples(images, labels).split(train_portion, seed)
    augmentation = augmentation or Augmentation()
    return pairs(*halves, batch_size, seed, augmentation, initial_epoch, mean, shard)


def pairs(
    weight_half: Examples,
    alpha_half: Examples,
    batch_size: int,
    seed: int,
    augmentation: Augmenting,
    initial_epoch: int = 0,
    mean: Sequence[float] | None = None,
    shard: Shard = ALL,
) -> tuple[tf.data.Dataset, int]:
    """As `bilevel_pairs`, of two halves of any examples."""
    check_batches(batch_size, shard, initial_epoch)
    halves = weight_half, alpha_half
    if min(map(len, halves)) < batch_size:
        raise ValueError(
            f"A batch of {batch_size} needs as many images in each half, but they have "
            f"{len(halves[0])} and {len(halves[1])}; lower batch_size, move "
            "train_portion towards 0.5 or give more images."
        )
    steps_per_epoch = len(weight_half) // batch_size
    first = initial_epoch * steps_per_epoch
    batches = [
        half.augmented(batch_size, seed, streams, augmentation, first, mean, shard)
        for half, streams in zip(halves, (WEIGHTS, ALPHAS), strict=True)
    ]
    return endless(tf.data.Dataset.zip(*batches)), steps_per_epoch


def training_batches(
    images: Any,
    labels: Any = None,
    batch_size: int = 64,
    seed: int = 0,
    augmentation: Augmentation | None = None,
    initial_epoch: int = 0,
    mean: Sequence[float] | None = None,
    shard: Shard = ALL,
) -> tuple[tf.data.Dataset, int]:
    """Makes the batches of a fit, see `Examples.training_batches`.

    Args:
        images, labels: As for `bilevel_pairs`.
        batch_size, seed, initial_epoch, mean, shard: See `Examples.training_batches`.
        augmentation: What is done to the images; nothing if None.

    Raises:
        ValueError: If a number is out of range, the images or labels are misshapen,
            or there is less than one full batch.
    """
    return ArrayExamples(images, labels).training_batches(
        batch_size, seed, augmentation or Augmentation(), initial_epoch, mean, shard
    )


def evaluation_batches(
    images: Any, labels: Any, batch_size: int, shard: Shard = ALL
) -> tf.data.Dataset:
    """Makes the batches of an evaluation: every image once, in order, unchanged.

    Args:
        images, labels: As for `bilevel_pairs`.
        batch_size, shard: See `Examples.evaluation_batches`.

    Raises:
        ValueError: If the images or labels are misshapen or `batch_size` is below 1.
    """
    return ArrayExamples(images, labels).evaluation_batches(batch_size, shard)
