"""Checks of models: sizes, normalisation, precision, and the pairs of a search."""

from collections.abc import Iterable, Sequence
from numbers import Integral
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from advrush_tf.errors import NonFiniteLossError
from advrush_tf.genotypes.search_space import reduction_cells

PAIRS_NEEDED = (
    "fit needs a dataset of pairs ((x_weights, y_weights), (x_alphas, y_alphas)), one "
    "batch of each half of the training data; advrush_tf.bilevel_pairs(images, labels) "
    "makes it."
)


def check_finite(variables: Iterable[keras.Variable], epoch: int) -> None:
    """Raises NonFiniteLossError if a variable is NaN or infinite after an epoch.

    Args:
        variables: of a model; an operation such as ReLU may hide what is not finite
            from the losses.
        epoch: its number, for the message.
    """
    for variable in variables:
        if not np.isfinite(variable.numpy()).all():
            raise NonFiniteLossError(
                f"{variable.path} became NaN or infinite in epoch {epoch}"
            )


def check_architecture(
    num_classes: int,
    image_shape: Sequence[int],
    num_cells: int,
    stem_halvings: int = 0,
    **positive: int,
) -> None:
    """Raises ValueError if a network of these numbers is impossible.

    Args:
        num_classes: at least 2.
        image_shape: (height, width, channels).
        num_cells: at least 1; its reduction cells each halve the images.
        stem_halvings: how often the stem halves the images.
        **positive: further numbers that must be at least 1.
    """
    reductions = stem_halvings + len(reduction_cells(max(num_cells, 1)))
    smallest = 2 ** (reductions + 1)
    check_image_classifier(
        num_classes, image_shape, smallest, num_cells=num_cells, **positive
    )


def check_image_classifier(
    num_classes: int, image_shape: Sequence[int], smallest: int, **positive: int
) -> None:
    """Raises ValueError if a network of these numbers is impossible.

    Args:
        num_classes: at least 2.
        image_shape: (height, width, channels).
        smallest: side in pixels below which reductions leave nothing.
        **positive: further numbers that must be at least 1.
    """
    if num_classes < 2:
        raise ValueError(f"num_classes must be 2 or more, not {num_classes}")
    for name, value in positive.items():
        if value < 1:
            raise ValueError(f"{name} must be 1 or more, not {value}")
    if any(not isinstance(side, Integral) for side in image_shape):
        raise ValueError(
            "image_shape must be (height, width, channels) in whole numbers, since "
            f"images of many sizes are resized before; it is {tuple(image_shape)}"
        )
    if len(image_shape) != 3 or image_shape[2] < 1 or min(image_shape[:2]) < smallest:
        raise ValueError(
            f"this network's reductions need at least {smallest}x{smallest} pixels and "
            f"a channel; image_shape is {tuple(image_shape)}"
        )


def check_normalisation(mean: Any, std: Any, channels: int) -> None:
    """Raises ValueError unless `mean` and `std` fit the channels or are both None."""
    if mean is None and std is None:
        return
    if np.shape(mean) != (channels,) or np.shape(std) != (channels,):
        raise ValueError(
            f"mean and std must both be None or have one value for each of the "
            f"{channels} channels; they are {mean} and {std}"
        )
    if not np.isfinite(mean).all() or not np.isfinite(std).all() or min(std) <= 0:
        raise ValueError(
            "mean and std must be finite and std more than 0; "
            f"they are {mean} and {std}"
        )


def normalise(
    x: tf.Tensor, mean: Sequence[float] | None, std: Sequence[float] | None
) -> tf.Tensor:
    """Normalises images per channel; None returns them unchanged."""
    if mean is None or std is None:
        return x
    return (x - tf.constant(mean, x.dtype)) / tf.constant(std, x.dtype)


def check_precision(compute_dtype: str) -> None:
    """Raises ValueError for float16, in which small gradients vanish.

    Args:
        compute_dtype: of a Keras model.
    """
    if compute_dtype == "float16":
        raise ValueError(
            "float16 loses small gradients: use mixed_bfloat16 or float32 instead of "
            "mixed_float16"
        )


def check_pairs_for_fit(x: Any, y: Any, steps_per_epoch: int | None) -> None:
    """Raises ValueError unless the input of `fit` is an epoch of bilevel pairs.

    Args:
        x, y: the arguments of `fit`.
        steps_per_epoch: needed for a dataset without an end.
    """
    if y is not None or not _could_be_pairs(x):
        raise ValueError(PAIRS_NEEDED)
    if _is_infinite(x) and steps_per_epoch is None:
        raise ValueError(
            "the dataset has no end: give fit steps_per_epoch, the second value that "
            "advrush_tf.bilevel_pairs returns"
        )


_DATASETS = tf.data.Dataset, tf.distribute.DistributedDataset


def _could_be_pairs(x: Any) -> bool:
    if not isinstance(x, _DATASETS):
        return x is not None and not hasattr(x, "shape")
    spec = x.element_spec
    return (
        isinstance(spec, tuple)
        and len(spec) == 2
        and all(isinstance(half, tuple) and len(half) == 2 for half in spec)
    )


def _is_infinite(x: Any) -> bool:
    if not isinstance(x, tf.data.Dataset):
        return False
    return int(x.cardinality()) == tf.data.INFINITE_CARDINALITY
