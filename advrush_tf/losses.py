"""Losses of single examples from their logits."""

import tensorflow as tf

from advrush_tf.custom_gradient import custom_gradient


def cross_entropy(
    y: tf.Tensor, logits: tf.Tensor, label_smoothing: float = 0.0
) -> tf.Tensor:
    """Cross-entropy of each example.

    Args:
        y: (batch,), integer labels.
        logits: (batch, classes).
        label_smoothing: share of the label that all classes get in equal parts.

    Returns:
        (batch,).
    """
    losses = tf.nn.sparse_softmax_cross_entropy_with_logits(y, logits)
    if not label_smoothing:
        return losses
    uniform = -tf.reduce_mean(tf.nn.log_softmax(logits), -1)
    return (1 - label_smoothing) * losses + label_smoothing * uniform


def exact_cross_entropy(y: tf.Tensor, logits: tf.Tensor) -> tf.Tensor:
    """Cross-entropy of each example, differentiable twice in the logits.

    TensorFlow's own gradient and Hessian in the logits err by the rounding of 1. Where
    the classifier is sure, they are far smaller than that; and the model's slopes, of
    which the images' Hessian takes the squares, multiply the error.

    Args:
        y: (batch,), integer labels.
        logits: (batch, classes).

    Returns:
        (batch,), in the dtype of the logits.
    """
    labels = tf.convert_to_tensor(y)

    @custom_gradient
    def losses(logits):
        values = tf.nn.sparse_softmax_cross_entropy_with_logits(labels, logits)
        return values, lambda dy: dy[:, tf.newaxis] * _slopes(logits, labels)

    return losses(logits)


@custom_gradient
def _slopes(logits, labels):
    """The gradients of the cross-entropies: the probabilities, less 1 at the label."""
    p = tf.nn.softmax(logits)
    classes = logits.shape[1] or tf.shape(logits)[1]
    own = tf.one_hot(labels, classes, True, False)
    others = tf.where(own, tf.zeros_like(p), p)
    # Not p - 1, which is 0 or a rounding where p is nearly 1.
    slopes = tf.where(own, -tf.reduce_sum(others, 1, keepdims=True), p)
    top = tf.argmax(logits, 1)[:, tf.newaxis]

    def second(vectors):
        # What all logits share changes nothing. Without the likeliest class's part, no
        # number that is left needs to cancel.
        vectors -= tf.gather(vectors, top, axis=1, batch_dims=1)
        mean = tf.reduce_sum(p * vectors, 1, keepdims=True)
        return p * (vectors - mean), None

    return slopes, second


def kl_divergence(reference: tf.Tensor, logits: tf.Tensor) -> tf.Tensor:
    """KL(softmax(reference) || softmax(logits)) of each example.

    Args:
        reference, logits: (batch, classes).

    Returns:
        (batch,), in nats.
    """
    # A softmax ignores this shift. The likeliest class then has the slope of all others
    # together; its own is a difference that floats lose where a model is confident.
    likeliest = tf.one_hot(
        tf.argmax(reference, -1), logits.shape[-1], dtype=logits.dtype
    )
    logits -= tf.reduce_sum(likeliest * logits, -1, keepdims=True)
    log_reference = tf.nn.log_softmax(reference)
    gap = log_reference - tf.nn.log_softmax(logits)
    return tf.reduce_sum(tf.exp(log_reference) * gap, -1)
