"""Losses that attacks maximise: of (logits, labels, targets), one an image."""

import tensorflow as tf

_TINY = 1e-12


def margin(logits: tf.Tensor, y: tf.Tensor) -> tf.Tensor:
    """The best wrong logit minus the right one.

    Args:
        logits: (batch, classes).
        y: (batch,), integer labels.

    Returns:
        (batch,).
    """
    return tf.reduce_max(_wrong_logits(logits, y), -1) - pick(logits, y)


def is_wrong(logits: tf.Tensor, y: tf.Tensor) -> tf.Tensor:
    """True where a model does not give an image its label: the goal of all attacks.

    The first of equal logits is its answer. Where a logit is NaN or infinite it has
    none and is wrong, about clean images as about others: that never counts as robust.

    Args and shapes are those of `margin`; the result is bool.
    """
    missed = tf.argmax(logits, -1, tf.int32) != tf.cast(y, tf.int32)
    return missed | ~tf.reduce_all(tf.math.is_finite(logits), -1)


def log_odds(logits: tf.Tensor, y: tf.Tensor) -> tf.Tensor:
    """The logarithm of the odds that a softmax gives the wrong classes.

    The cross-entropy is ln(1 + exp(log_odds)): both rise together, and their gradients
    point the same way. But of a model that is sure of its answer, floats lose the
    cross-entropy and its gradient, and this loss keeps its slope.

    Args and returns are those of `margin`.
    """
    return tf.reduce_logsumexp(_wrong_logits(logits, y), -1) - pick(logits, y)


def pick(logits: tf.Tensor, classes: tf.Tensor) -> tf.Tensor:
    """The logit of a class for each image, (batch,)."""
    one_hot = tf.one_hot(classes, logits.shape[-1], dtype=logits.dtype)
    return tf.reduce_sum(logits * one_hot, -1)


def dlr(logits: tf.Tensor, y: tf.Tensor) -> tf.Tensor:
    """The difference of logits ratio, which no scaling of the logits changes.

    With two classes, which have no third logit, the margin.

    Args and returns are those of `margin`.

    Source: Croce & Hein, arXiv 2003.01690, equation 6.
    """
    if logits.shape[-1] < 3:
        return margin(logits, y)
    ordered = tf.math.top_k(logits, 3).values
    return margin(logits, y) / _positive(ordered[:, 0] - ordered[:, 2])


def targeted_dlr(logits: tf.Tensor, y: tf.Tensor, target: tf.Tensor) -> tf.Tensor:
    """The targeted difference of logits ratio: of the target over the label.

    It needs four logits: with three, the third takes the place of the mean of the
    third and the fourth; with two, the difference is not divided.

    Args:
        logits: (batch, classes).
        y, target: (batch,), integer classes.

    Returns:
        (batch,).

    Source: Croce & Hein, arXiv 2003.01690, equation 7.
    """
    difference = pick(logits, target) - pick(logits, y)
    classes = logits.shape[-1]
    if classes < 3:
        return difference
    ordered = tf.math.top_k(logits, min(classes, 4)).values
    low = tf.reduce_mean(ordered[:, 2:], -1)
    return difference / _positive(ordered[:, 0] - low)


def _positive(scale: tf.Tensor) -> tf.Tensor:
    return scale + _TINY


def target_classes(logits: tf.Tensor, y: tf.Tensor, rank: tf.Tensor) -> tf.Tensor:
    """The wrong class with the (rank + 1)-th highest logit.

    Args:
        logits: (batch, classes), of the clean images.
        y: (batch,), integer labels.
        rank: (batch,), from 0 to classes - 2.

    Returns:
        (batch,), int32.
    """
    order = tf.argsort(_wrong_logits(logits, y), -1, "DESCENDING", stable=True)
    return tf.gather(order, rank, axis=1, batch_dims=1)


def _wrong_logits(logits: tf.Tensor, y: tf.Tensor) -> tf.Tensor:
    """The logits, with the lowest number in place of the label's."""
    right = tf.one_hot(y, logits.shape[-1], on_value=True, off_value=False)
    return tf.where(right, tf.constant(logits.dtype.min, logits.dtype), logits)
