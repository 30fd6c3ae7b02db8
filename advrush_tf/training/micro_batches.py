"""Micro-batches: a mean over examples, computed from a few of them at a time."""

from collections.abc import Callable, Sequence
from typing import Any

import tensorflow as tf


def mean_over_pieces(
    function: Callable[..., Any],
    batch: Sequence[tf.Tensor],
    size: int | None,
    dtypes: Any,
) -> Any:
    """The mean of a function over the equal pieces of a batch, one after the other.

    Where the function is a mean over examples that do not interact, this is its value
    for the whole batch, at the cost in memory of one piece.

    Args:
        function: maps pieces of the tensors in `batch` to nested tensors; traced once.
        batch: tensors of equally many examples.
        size: examples of a piece; None takes the whole batch at once, as does a piece
            that is no smaller.
        dtypes: of what the function returns, nested alike.

    Raises:
        ValueError: `size` does not divide the number of examples.
    """
    tensors = [tf.convert_to_tensor(x) for x in batch]
    examples = tensors[0].shape[0]
    if size is None or size >= examples:
        return function(*batch)
    if examples % size:
        raise ValueError(f"pieces of {size} do not divide a batch of {examples}")
    values = tf.map_fn(
        lambda piece: function(*piece),
        [tf.reshape(x, (examples // size, size, *x.shape[1:])) for x in tensors],
        parallel_iterations=1,
        fn_output_signature=dtypes,
    )
    return tf.nest.map_structure(lambda value: tf.reduce_mean(value, 0), values)
