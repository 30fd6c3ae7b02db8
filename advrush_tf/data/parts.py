"""Pieces of batches, for many machines of which each makes its own."""

from typing import Any

import numpy as np

# (index, count): the index-th of `count` contiguous pieces of every batch.
Shard = tuple[int, int]
ALL: Shard = (0, 1)


def cut(batch_size: Any, part: Shard) -> tuple[Any, Any]:
    """First row, and the row after the last, of a part of a batch.

    Args:
        batch_size: Rows of a batch; a number or an array.
        part: (index, count).
    """
    index, count = part
    rows = -(-batch_size // count)
    low, high = (np.minimum(place * rows, batch_size) for place in (index, index + 1))
    return low, high


def check_batches(batch_size: int, part: Shard, initial_epoch: int = 0) -> None:
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


def check_part(part: Shard) -> None:
    """Raises ValueError where there is no such part."""
    if not 0 <= part[0] < part[1]:
        raise ValueError(
            f"part must be (index, count), index from 0 to count - 1, not {part}."
        )
