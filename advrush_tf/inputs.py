"""Checks of what users give: images, labels, weights of examples, and logits.

Every public function that takes them asks here, so that all answer alike. Outside of
graphs a wrong value raises ValueError. In a graph values are not known before it runs:
there it raises tf.errors.InvalidArgumentError (which graphs compiled by XLA leave out).
"""

import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import tensorflow as tf

# Half precision rounds the sum of a softmax by this much.
_SUM_ROUNDING = 1e-2
# Logits that all lie in [0, 1] and yet so far apart are a sigmoid's.
_SIGMOID_RANGE, _FEWEST_OF_SIGMOID = 0.8, 32


def check_images(x: Any) -> None:
    """Checks that images are floats in [0, 1].

    Args:
        x: an array or a tensor.

    Raises:
        ValueError: they are not.
    """
    x = _floats(x)
    # So written, NaN is outside.
    inside = tf.reduce_all((x >= 0) & (x <= 1))
    _require(
        inside,
        "images must be in [0, 1]",
        lambda: ("these are in", tf.stack([tf.reduce_min(x), tf.reduce_max(x)])),
        "scale them (8-bit ones by 1 / 255)",
    )


def check_pixels(x: Any) -> None:
    """Checks that images, in whatever units, are finite floats.

    Args:
        x: an array or a tensor.

    Raises:
        ValueError: they are not.
    """
    bad = ~tf.math.is_finite(_floats(x))
    _require(
        ~tf.reduce_any(bad),
        "images must be finite",
        lambda: ("NaN or infinite values:", tf.math.count_nonzero(bad)),
        "correct the data",
    )


def check_dtype(x: Any) -> None:
    """Checks that images are floats, whatever their values.

    Raises:
        ValueError: they are not.
    """
    dtype = getattr(x, "dtype", None)
    if dtype is None or not tf.as_dtype(dtype).is_floating:
        raise ValueError(
            f"images must be floats in [0, 1], not {_name(x)}; divide by 255"
        )


def _floats(x: Any) -> tf.Tensor:
    if not hasattr(x, "dtype"):
        x = np.asarray(x)
    check_dtype(x)
    return tf.convert_to_tensor(x)


def _name(x: Any) -> str:
    dtype = getattr(x, "dtype", None)
    return type(x).__name__ if dtype is None else tf.as_dtype(dtype).name


def check_labels(y: Any, num_classes: int | None = None) -> list[tf.Operation]:
    """Checks that labels are class numbers, see `as_labels`.

    Args:
        y, num_classes: see `as_labels`.

    Returns:
        In a graph, the operations that check.

    Raises:
        ValueError: they are not.
    """
    classes = f"0 to {num_classes - 1}" if num_classes else "0 on"
    allowed = f"labels must be whole numbers from {classes}"
    y = _numbers(y, allowed)
    if _is_one_hot(y):
        if num_classes not in (None, y.shape[1]):
            raise ValueError(
                f"{allowed}, (images,) or (images, 1), or one-hot (images, "
                f"{num_classes}); these have the shape {tuple(y.shape)}"
            )
        ones, rest = (tf.math.count_nonzero(y == v, 1) for v in (1, 0))
        wrong = (ones != 1) | (ones + rest != tf.shape(y, tf.int64)[1])
        allowed = "one-hot labels must have a single 1 in each row and else 0"
    else:
        wrong = ~((y >= 0) & (y < (num_classes or y.dtype.max)))
        if y.dtype.is_floating:
            wrong |= y != tf.round(y)
    return _require(
        ~tf.reduce_any(wrong),
        allowed,
        lambda: ("not", tf.boolean_mask(y, wrong)[:1]),
        "correct the labels",
    )


def as_labels(y: Any, num_classes: int | None = None) -> tf.Tensor:
    """Class numbers (images,), int32, from labels of any form whose meaning is clear.

    Args:
        y: whole numbers of any type, (images,) or (images, 1), or one-hot rows (images,
            classes); a list, an array or a tensor.
        num_classes: number of classes; None if unknown.

    Raises:
        ValueError: they are of another shape, or not whole numbers from 0 to
            `num_classes` - 1.
    """
    # Losses must not come first: their messages say less, and on a GPU they are NaN.
    with tf.control_dependencies(check_labels(y, num_classes)):
        return tf.identity(class_numbers(y))


def class_numbers(y: Any) -> tf.Tensor:
    """As `as_labels`, of labels that are known to be right."""
    y = tf.convert_to_tensor(y)
    if _is_one_hot(y):
        return tf.argmax(y, -1, tf.int32)
    return tf.cast(tf.squeeze(y, -1) if y.shape.rank == 2 else y, tf.int32)


def _is_one_hot(y: tf.Tensor) -> bool:
    return y.shape.rank == 2 and y.shape[1] != 1


def _numbers(y: Any, allowed: str) -> tf.Tensor:
    """Labels as a tensor whose type and rank may be those of labels."""
    if y is None:
        raise ValueError(f"{allowed}; there are none")
    y = tf.convert_to_tensor(y if hasattr(y, "dtype") else np.asarray(y))
    if y.dtype.is_integer or y.dtype == tf.bool:
        y = tf.cast(y, tf.int64)
    elif not y.dtype.is_floating:
        raise ValueError(f"{allowed}, not {y.dtype.name}")
    if y.shape.rank not in (1, 2):
        raise ValueError(
            f"{allowed}, (images,) or (images, 1), or one-hot; these have the shape "
            f"{y.shape}"
        )
    return y


def image_array(x: Any) -> np.ndarray:
    """Images as an array in their arithmetic, once checked.

    Args:
        x: (images, height, width, channels), floats in [0, 1], one image or more.

    Raises:
        ValueError: they are not so.
    """
    check_images(x)
    x = np.asarray(x)
    if x.ndim != 4:
        raise ValueError(
            "images must have the shape (images, height, width, channels); these have "
            f"{x.shape}"
        )
    if not x.size:
        raise ValueError("there are no images")
    return x


def label_array(y: Any, images: int, num_classes: int | None) -> np.ndarray:
    """Labels as an array, int32 (images,), once checked.

    Args:
        y, num_classes: see `as_labels`.
        images: number of images.

    Raises:
        ValueError: they are wrong or not as many as the images.
    """
    labels = as_labels(y, num_classes)
    check_count(labels, images)
    return labels.numpy()


def check_count(labels: tf.Tensor, images: int | None) -> None:
    """Checks that labels are as many as images, where both numbers are known.

    Raises:
        ValueError: they are not.
    """
    if None not in (images, labels.shape[0]) and labels.shape[0] != images:
        raise ValueError(f"{images} images need as many labels, not {labels.shape[0]}")


def check_weights(weights: Any, examples: int) -> None:
    """Checks that weights of examples are finite numbers, one an example.

    Args:
        weights: (examples,) or (examples, 1), numbers of any type.
        examples: number of them.

    Raises:
        ValueError: they are not.
    """
    weights = tf.convert_to_tensor(weights)
    if tuple(weights.shape) not in ((examples,), (examples, 1)):
        raise ValueError(
            f"weights of {examples} examples must have the shape ({examples},) or "
            f"({examples}, 1), not {tuple(weights.shape)}"
        )
    numbers = tf.cast(weights, tf.float32)
    _require(
        tf.reduce_all(tf.math.is_finite(numbers)),
        "weights of examples must be finite",
        lambda: ("not", tf.boolean_mask(numbers, ~tf.math.is_finite(numbers))[:1]),
        "correct them",
    )


def are_probabilities(logits: Any) -> tf.Tensor:
    """True if outputs, (images, classes), look like those of a softmax or a sigmoid.

    Those of a sigmoid do once they are sure of some answers, in batches of 32 outputs
    or more: few logits may lie there by chance, so that this is a reason to warn only.

    Returns:
        A bool tensor, (); False for NaN and without images.
    """
    logits = tf.convert_to_tensor(logits)
    least, largest = tf.reduce_min(logits), tf.reduce_max(logits)
    far_apart = largest - least >= _SIGMOID_RANGE
    sigmoid = (
        far_apart
        & (least >= 0)
        & (largest <= 1 + _SUM_ROUNDING)
        & (tf.size(logits) >= _FEWEST_OF_SIGMOID)
    )
    return sigmoid | _of_softmax(logits)


def _of_softmax(logits: tf.Tensor) -> tf.Tensor:
    sums = tf.reduce_sum(logits, -1)
    alike = tf.reduce_all(tf.abs(sums - 1) <= _SUM_ROUNDING)
    inside = tf.reduce_all((logits >= 0) & (logits <= 1 + _SUM_ROUNDING))
    return alike & inside & (tf.size(logits) > 0)


def check_logits(logits: tf.Tensor) -> None:
    """Checks that a model's outputs, (images, classes), are not probabilities.

    Raises:
        ValueError: they look like those of a softmax.
    """
    _require(
        ~_of_softmax(logits),
        "the model must give logits, not probabilities",
        lambda: (
            "its outputs have the sum 1 and are in",
            tf.stack([tf.reduce_min(logits), tf.reduce_max(logits)]),
        ),
        "leave out its softmax",
    )


def warn_of_probabilities(found: Any = True) -> None:
    """Warns that a model gives probabilities, if `found` is true."""
    if found:
        warnings.warn(
            "the model's outputs look like probabilities, all in [0, 1]: the losses "
            "here are of logits, and their gradients vanish for probabilities; leave "
            "out its softmax or sigmoid",
            stacklevel=3,
        )


def _require(
    condition: tf.Tensor,
    allowed: str,
    found: Callable[[], tuple[str, tf.Tensor]],
    remedy: str,
) -> list[tf.Operation]:
    """Raises unless a condition holds, with what was found and what to do.

    In a graph, returns the operation that does so, in a list.

    Args:
        condition: bool, ().
        allowed: what holds otherwise.
        found: gives words and a value that was found.
        remedy: what to do.
    """
    if isinstance(condition, tf.Tensor) and not hasattr(condition, "numpy"):
        words, value = found()
        shown = [f"{allowed}; {words}", value, remedy]
        return [tf.debugging.Assert(condition, shown)]
    if not condition:
        words, value = found()
        numbers = np.array2string(
            np.asarray(value), separator=", ", formatter={"float": "{:.6g}".format}
        )
        raise ValueError(f"{allowed}; {words} {numbers}; {remedy}")
    return []
