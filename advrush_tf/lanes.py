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

from advrush_tf.examples import random_key
from advrush_tf.parts import Part, cut
from advrush_tf.records import Records

# Machines whose number does not divide this read lanes that they share with others.
LANES = 8


def shuffled_batches(
    records: Records, batch_size: int, seed: int, stream: int, first: int, part: Part
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
    bounds = len(records) * np.arange(lanes + 1) // lanes

    def groups(lane: int) -> tf.data.Dataset:
        share = records.between(*bounds[lane : lane + 2])
        key = random_key(seed, stream, lane)

        def epoch(number: tf.Tensor) -> tf.data.Dataset:
            shuffled = share.shuffled(tf.random.fold_in(key, number))
            full = shuffled.rebatch(batch_size // lanes, drop_remainder=True)
            return full.take(per_epoch)

        epochs = tf.data.Dataset.counter(first // per_epoch).flat_map(epoch)
        return epochs.skip(first % per_epoch)

    return _joined(groups, batch_size, lanes, part)


def ordered_batches(records: Records, batch_size: int, part: Part) -> tf.data.Dataset:
    """Pieces of batches of serialised records that hold each of them once.

    Args:
        records: At least one.
        batch_size, part: See `Examples.evaluation_batches`.
    """
    lanes = lane_count(batch_size)
    per_lane = batch_size // lanes
    full = (len(records) - 1) // batch_size
    low, high = cut(batch_size, part)
    nothing = tf.data.Dataset.from_tensors(tf.zeros(0, tf.string))
    if low == high:
        return nothing.repeat(full + 1)
    # The last batch is cut as the others; its last lanes may lack records.
    last = np.clip(
        len(records) - full * batch_size - per_lane * np.arange(lanes), 0, per_lane
    )
    bounds = np.concatenate([[0], np.cumsum(full * per_lane + last)])

    def groups(lane: int) -> tf.data.Dataset:
        share = records.between(*bounds[lane : lane + 2]).in_order().batch(per_lane)
        return share if last[lane] else share.concatenate(nothing)

    return _joined(groups, batch_size, lanes, part)


def lane_count(batch_size: int) -> int:
    """Number of lanes of a batch, which divides it."""
    return math.gcd(batch_size, LANES)


def _joined(
    groups: Callable[[int], tf.data.Dataset], batch_size: int, lanes: int, part: Part
) -> tf.data.Dataset:
    """A part's rows of the lanes that it needs, one after the other.

    Args:
        groups: Gives the rows of a lane, a group a batch.
        batch_size, lanes, part: Of the batches.
    """
    per_lane = batch_size // lanes
    low, high = cut(batch_size, part)
    used = range(low // per_lane, -(-high // per_lane))
    rows = [
        slice(max(low - lane * per_lane, 0), high - lane * per_lane) for lane in used
    ]
    return tf.data.Dataset.zip(*map(groups, used)).map(
        lambda *pieces: tf.concat(
            [piece[kept] for piece, kept in zip(pieces, rows, strict=True)], 0
        )
    )
