"""What can be said of a model from the images it was measured on."""

import math

import numpy as np

# Of N(0, 1), 95 % lies within this distance of 0.
_Z = 1.959963984540054


def wilson(successes: int, total: int) -> tuple[float, float]:
    """The 95 % Wilson score interval of a proportion.

    Args:
        successes: how many of `total`, 0 to `total`.
        total: number of trials, such as images; of 0 nothing is known: (0, 1).

    Returns:
        Lower and upper bound, in [0, 1].

    Raises:
        ValueError: `successes` is out of range.

    Source: Wilson, JASA 22 (1927); Brown, Cai and DasGupta, Statistical Science 16
    (2001), equation 4.
    """
    if not 0 <= successes <= total:
        raise ValueError(f"successes must be 0 to {total}, not {successes}")
    if total == 0:
        return 0.0, 1.0
    share, squared = successes / total, _Z**2 / total
    centre = share + squared / 2
    half = math.sqrt(squared * (share * (1 - share) + squared / 4))
    low, high = ((centre + side * half) / (1 + squared) for side in (-1, 1))
    # Rounding may miss the ends, which are exact without a failure or a success.
    return (low if successes else 0.0), (high if successes < total else 1.0)


def accuracy_per_class(
    labels: np.ndarray, right: np.ndarray, num_classes: int
) -> list[float | None]:
    """The share of each class's images that the model got right.

    Args:
        labels: (images,), integers, 0 to `num_classes` - 1.
        right: (images,), bool.
        num_classes: number of classes.

    Returns:
        A share in [0, 1] for each class, None for one without images.
    """
    totals = np.bincount(labels, minlength=num_classes).tolist()
    rights = np.bincount(labels[right], minlength=num_classes).tolist()
    return [
        count / total if total else None
        for count, total in zip(rights, totals, strict=True)
    ]
