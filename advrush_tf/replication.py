"""Cross-replica helpers for training steps.

A strategy splits every batch into equal, consecutive pieces, one a replica. With these
helpers the replicas together compute the numbers of the whole batch; without a strategy
they change nothing. Call them in a replica's context: in the function that
`tf.distribute.Strategy.run` runs, outside of loops and conditions.
"""

from collections.abc import Callable, Sequence
from typing import Any

import keras
import tensorflow as tf


def num_replicas() -> int:
    """Returns the number of replicas that run this step together."""
    context = tf.distribute.get_replica_context()
    return context.num_replicas_in_sync if context else 1


def all_reduce_sum(values: Any) -> Any:
    """The sum over the replicas of each tensor of a structure, on every replica.

    Differentiable.

    Args:
        values: tensors, all of them floats or all of them integers.
    """
    if num_replicas() == 1:
        return values
    context = tf.distribute.get_replica_context()
    return context.all_reduce(tf.distribute.ReduceOp.SUM, values)


def mean_contribution(values: tf.Tensor) -> tf.Tensor:
    """This replica's contribution to the mean over the whole batch.

    Its `all_reduce_sum` is the mean.

    Args:
        values: (batch,), of this replica's examples.
    """
    if num_replicas() == 1:
        return tf.reduce_mean(values)
    return tf.reduce_sum(values) / all_reduce_sum(_count(values, values.dtype))


def share_of_batch(examples: tf.Tensor, dtype: Any) -> tf.Tensor | float:
    """This replica's fraction of the examples of the whole batch, in [0, 1].

    Args:
        examples: (batch, ...), of this replica.
        dtype: of the result.
    """
    if num_replicas() == 1:
        return 1.0
    count = _count(examples, dtype)
    return count / all_reduce_sum(count)


def _count(examples: tf.Tensor, dtype: Any) -> tf.Tensor:
    return tf.cast(tf.shape(examples)[0], dtype)


def all_gather(values: tf.Tensor) -> tf.Tensor:
    """The tensors of all replicas, in their order: (replicas, ...).

    Differentiable.
    """
    if (replicas := num_replicas()) == 1:
        return values[tf.newaxis]
    own = tf.distribute.get_replica_context().replica_id_in_sync_group
    place = tf.one_hot(own, replicas, dtype=values.dtype)
    return all_reduce_sum(tf.tensordot(place, values, 0))


def local_rows(draw: Callable[[tf.Tensor], tf.Tensor], rows: tf.Tensor) -> tf.Tensor:
    """This replica's rows of a random draw for the whole batch.

    So random numbers do not depend on the number of replicas.

    Args:
        draw: maps n to (n, ...), the same on every replica.
        rows: number of examples of this replica.
    """
    if num_replicas() == 1:
        return draw(rows)
    counts = all_gather(rows)
    own = tf.distribute.get_replica_context().replica_id_in_sync_group
    first = tf.reduce_sum(counts[:own])
    return draw(tf.reduce_sum(counts))[first : first + rows]


def even_if_empty(
    function: Callable[[tf.Tensor], tf.Tensor], images: tf.Tensor
) -> tf.Tensor:
    """Returns a function of this replica's images, of which there may be none.

    Convolutions fail without images: they then get a black one, whose row is dropped.
    A batch of fewer images than replicas leaves some without.

    Args:
        function: of each image alone, (n, height, width, channels) -> (n, ...).
        images: (batch, height, width, channels), of this replica.
    """
    if num_replicas() == 1:
        return function(images)
    rows = tf.shape(images)[0]
    shape = [tf.cast(rows == 0, tf.int32), *images.shape[1:]]
    return function(tf.concat([images, tf.zeros(shape, images.dtype)], 0))[:rows]


def average(variables: Sequence[keras.Variable]) -> None:
    """Sets every replica's copies of variables to the mean over the replicas."""
    if num_replicas() == 1 or not variables:
        return
    # Copies: sums between machines must know the device of what they add.
    values = [tf.identity(variable.value) for variable in variables]
    for variable, value in zip(variables, all_reduce_sum(values), strict=True):
        variable.assign(value / num_replicas())
