import numpy as np
import pytest
import tensorflow as tf

from advrush_tf.losses import exact_cross_entropy

# Undecided, sure and right, sure and wrong, sure between two, beyond float32's range.
LOGITS = np.array(
    [[0.3, -0.2, 0.5], [30, 0, 2], [-1, 25, 3], [20, 20.5, -9], [5e4, -9e4, 3e5]]
)
LABELS = np.array([0, 0, 2, 1, 2])


def _exact():
    """Gradients and Hessians in the logits, without differences of like numbers."""
    odds = np.exp(LOGITS[:, :, np.newaxis] - LOGITS[:, np.newaxis])  # of i to j
    p = 1 / np.sum(1 / odds, 2)
    label = np.eye(3, dtype=bool)[LABELS]
    rest = (p * ~label).sum(1, keepdims=True)
    others = (p[:, np.newaxis] * ~np.eye(3, dtype=bool)).sum(2)
    hessians = -p[:, :, np.newaxis] * p[:, np.newaxis]
    hessians[:, range(3), range(3)] = p * others
    return np.where(label, -rest, p), hessians


@pytest.mark.filterwarnings("ignore:overflow", "ignore:divide")
@pytest.mark.parametrize(
    ("dtype", "tolerance"), [("float32", 1e-5), ("float64", 1e-13)]
)
@pytest.mark.parametrize("compiled", [False, True])
def test_both_derivatives_are_exact_to_their_own_size(dtype, tolerance, compiled):
    def derivatives(logits):
        with tf.GradientTape() as outer:
            outer.watch(logits)
            with tf.GradientTape() as inner:
                inner.watch(logits)
                losses = exact_cross_entropy(LABELS, logits)
            slopes = inner.gradient(losses, logits)
        return losses, slopes, outer.batch_jacobian(slopes, logits)

    logits = tf.constant(LOGITS, dtype)
    losses, slopes, hessians = (tf.function(derivatives) if compiled else derivatives)(
        logits
    )
    expected = tf.nn.sparse_softmax_cross_entropy_with_logits(LABELS, logits)
    np.testing.assert_array_equal(losses, expected)
    for got, exact in zip((slopes, hessians), _exact(), strict=True):
        for mine, other in zip(got.numpy(), exact, strict=True):
            np.testing.assert_allclose(
                mine, other, rtol=0, atol=tolerance * np.abs(other).max() + 1e-30
            )
