"""Batches of records that many machines read, each its own share of the files.

A batch is made of lanes: equal, contiguous pieces of its rows. Each lane has a share of
the records to itself, a range of them, so that a machine that makes some lanes opens
their files only, and what a batch holds does not depend on how many machines there
are.
"""

import math
from collections.abc import Callable

import numpy as np
import tensorflow as tf

from advrush_tf.data.examples import random_key
from advrush_tf.data.parts import Shard, cut
from advrush_tf.data.records import Records

# Machines whose number does not divide this read lanes that they share with others.
LANES = 8


def shuffled_batches(
    records: Records, batch_size: int, seed: int, stream: int, first: int, part: Shard
) -> tf.data.Dataset:
    """Endless pieces of full batches of serialised records, each epoch in a new order.

    Every lane shuffles its own share, anew in each epoch. At the beginning within an
    epoch, records of that epoch are read and passed over.

    Args:
        records: At least `batch_size` of them.
        batch_size, part: See `Examples.training_batches`.
        seed, stream: Keys of the random order.
        first: Number of batches passed over.
    """
    lanes, per_epoch = lane_count(batch_size), len(records) // batch_size
    bounds = tf.constant(len(records) * np.arange(lanes + 1) // lanes)

    def groups(lane: tf.Tensor) -> tf.data.Dataset:
        share = records.between(bounds[lane], bounds[lane + 1])
        key = random_key(seed, stream, lane)

        def epoch(number: tf.Tensor) -> tf.data.Dataset:
            shuffled = share.shuffled(tf.random.fold_in(key, number))
            full = shuffled.batch(batch_size // lanes, drop_remainder=True)
            return full.take(per_epoch)

        epochs = tf.data.Dataset.counter(first // per_epoch).flat_map(epoch)
        return epochs.skip(first % per_epoch)

    low, high = cut(batch_size, part)
    pieces = _interleaved(groups, batch_size, low, high)
    return pieces.rebatch(high - low, drop_remainder=True)


def ordered_batches(records: Records, batch_size: int, part: Shard) -> tf.data.Dataset:
    """Pieces of batches of serialised records that hold each of them once.

    Args:
        records: At least one.
        batch_size, part: See `Examples.evaluation_batches`.
    """
    lanes = lane_count(batch_size)
    per_lane, full = batch_size // lanes, (len(records) - 1) // batch_size
    # The last batch is cut as the others; its last lanes may lack records.
    starts = per_lane * np.arange(lanes)
    last = np.clip(len(records) - full * batch_size - starts, 0, per_lane)
    bounds = tf.constant(np.concatenate([[0], np.cumsum(full * per_lane + last)]))

    def groups(lane: tf.Tensor) -> tf.data.Dataset:
        share = records.between(bounds[lane], bounds[lane + 1])
        return share.in_order().batch(per_lane)

    low, high = cut(batch_size, part)
    nothing = tf.data.Dataset.from_tensors(tf.zeros(0, tf.string))
    if low == high:
        return nothing.repeat(full + 1)
    pieces = _interleaved(groups, batch_size, low, high).rebatch(high - low)
    in_last = np.minimum(starts + last, high) - np.maximum(starts, low)
    return pieces if (in_last > 0).any() else pieces.concatenate(nothing)


def lane_count(batch_size: int) -> int:
    """Number of lanes of a batch, which divides it."""
    return math.gcd(batch_size, LANES)


def _interleaved(
    groups: Callable[[tf.Tensor], tf.data.Dataset], batch_size: int, low: int, high: int
) -> tf.data.Dataset:
    """Some rows of every batch, in pieces of those lanes that have them.

    Args:
        groups: Gives the rows of a lane, a group a batch.
        batch_size: Rows of a batch.
        low, high: The first row and the one after the last.
    """
    per_lane = batch_size // lane_count(batch_size)
    first, last = low // per_lane, (high - 1) // per_lane

    def rows(lane: tf.Tensor) -> tf.data.Dataset:
        start = lane * per_lane
        kept = slice(tf.maximum(low - start, 0), tf.minimum(high - start, per_lane))
        return groups(lane).map(lambda group: group[kept])

    return tf.data.Dataset.range(first, last + 1).interleave(
        rows, cycle_length=last + 1 - first
    )
