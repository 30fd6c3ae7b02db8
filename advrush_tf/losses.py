"""Losses of single examples from their logits."""

import tensorflow as tf


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
