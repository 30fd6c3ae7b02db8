"""Mean and standard deviation of the channels of images."""

import math
from collections.abc import Iterable

import numpy as np


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
    counts = np.sum([_level_counts(images) for images in batches], 0)
    levels, means, deviations = np.arange(256), [], []
    for row in counts:
        pixels, total = int(row.sum()), int(levels @ row)
        spread = pixels * int(levels**2 @ row) - total**2
        means.append(total / pixels / 255)
        deviations.append(math.sqrt(spread) / pixels / 255 if spread else 1.0)
    return tuple(means), tuple(deviations)


def _level_counts(images: np.ndarray) -> np.ndarray:
    """How often each channel has each level, (C, 256)."""
    channels = np.moveaxis(images, -1, 0)
    return np.stack([np.bincount(c.ravel(), minlength=256) for c in channels])
