import numpy as np
import pytest
import tensorflow as tf

from advrush_tf.attacks import losses

LOGITS = tf.constant([[1.0, 4.0, 2.0, 0.5, -1.0], [3.0, 0.0, 1.0, 2.0, 2.5]])
LABELS = tf.constant([1, 3])


def test_margins_by_hand():
    np.testing.assert_allclose(losses.margin(LOGITS, LABELS), [-2, 1])


def test_dlr_by_hand():
    # The right class leads: -(4 - 2) / (4 - 1); it does not: -(2 - 3) / (3 - 2).
    np.testing.assert_allclose(losses.dlr(LOGITS, LABELS), [-2 / 3, 1])


def test_targeted_dlr_by_hand():
    target = tf.constant([0, 4])
    # -(z_y - z_t) / (z_1 - (z_3 + z_4) / 2)
    expected = [-(4 - 1) / (4 - (1 + 0.5) / 2), -(2 - 2.5) / (3 - (2 + 1) / 2)]
    np.testing.assert_allclose(
        losses.targeted_dlr(LOGITS, LABELS, target), expected, rtol=1e-6
    )


@pytest.mark.parametrize("classes", [3, 4, 5])
def test_neither_scale_nor_shift_of_the_logits_matters(classes):
    logits, moved = LOGITS[:, :classes], 7 * LOGITS[:, :classes] + 3
    y, target = tf.constant([1, 0]), tf.constant([0, 2])
    for loss in (losses.dlr, lambda z, y: losses.targeted_dlr(z, y, target)):
        np.testing.assert_allclose(loss(moved, y), loss(logits, y), rtol=1e-5)


def test_few_classes():
    two, three = LOGITS[:, :2], LOGITS[:, :3]
    y, target = tf.constant([1, 0]), tf.constant([0, 1])
    np.testing.assert_allclose(losses.dlr(two, y), [-3, -3])
    np.testing.assert_allclose(losses.targeted_dlr(two, y, target), [-3, -3])
    # With three, over z_1 - z_3.
    np.testing.assert_allclose(losses.targeted_dlr(three, y, target), [-1, -1])


def test_equal_logits_have_finite_losses_and_gradients():
    logits = tf.Variable(tf.zeros((2, 5)))
    y, target = tf.constant([1, 0]), tf.constant([0, 1])
    for loss in (losses.dlr, lambda z, y: losses.targeted_dlr(z, y, target)):
        with tf.GradientTape() as tape:
            value = loss(logits, y)
        np.testing.assert_array_equal(value, [0, 0])
        assert np.isfinite(tape.gradient(value, logits)).all()


@pytest.mark.parametrize("scale", [1.0, 1e3, 1e-9])
def test_log_odds_rise_with_the_cross_entropy_and_do_not_underflow(scale):
    exact = scale * LOGITS.numpy().astype(np.float64)
    logits = tf.Variable(exact.astype(np.float32))
    with tf.GradientTape() as tape:
        found = losses.log_odds(logits, LABELS)
    slopes = tape.gradient(found, logits).numpy()
    for row, label in enumerate(LABELS.numpy()):
        wrong = np.delete(exact[row], label)
        odds = np.log(np.exp(wrong - wrong.max()).sum()) + wrong.max()
        odds -= exact[row, label]
        np.testing.assert_allclose(found[row], odds, rtol=1e-5)
        # The cross-entropy is log(1 + exp(odds)); this is its slope, over the
        # probability of an error.
        shares = np.exp(wrong - wrong.max()) / np.exp(wrong - wrong.max()).sum()
        np.testing.assert_allclose(
            slopes[row], np.insert(shares, label, -1), rtol=1e-4, atol=1e-7
        )


def test_target_classes_descend_and_leave_out_the_label():
    ranks = [
        losses.target_classes(LOGITS, LABELS, tf.constant([rank, rank])).numpy()
        for rank in range(4)
    ]
    np.testing.assert_array_equal(np.transpose(ranks), [[2, 0, 3, 4], [0, 4, 2, 1]])


def test_ties_and_numbers_that_are_not_finite():
    nan, inf = float("nan"), float("inf")
    logits = tf.constant(
        [[1.0, 1.0], [1.0, 1.0], [nan, 0.0], [0.0, inf], [nan, nan], [0.0, 2.0]]
    )
    wrong = losses.is_wrong(logits, tf.constant([0, 1, 0, 1, 0, 1]))
    # Of equal logits the first is the answer, as NumPy's argmax has it.
    assert wrong.numpy().tolist() == [False, True, True, True, True, False]
