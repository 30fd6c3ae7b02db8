import numpy as np
import pytest
import tensorflow as tf

from advrush_tf.attacks.geometry import Norm
from advrush_tf.attacks.robustness import evaluate_robustness
from advrush_tf.statistics import wilson
from support.attacked import distances, grey, linear


@pytest.mark.parametrize("norm", Norm)
def test_one_call_measures_a_linear_model(norm):
    model, weights = linear()
    x, y = grey(model)
    y = np.where(np.arange(len(y)) < 4, (y + 1) % 3, y)
    away = distances(weights, x, y, norm)
    epsilon = float(np.median(away))
    found = evaluate_robustness(
        model, x, y.tolist(), str(epsilon), norm.value, "apgd-ce", batch_size=16
    )
    np.testing.assert_array_equal(found.robust, away > epsilon)
    wrong = np.argmax(model(tf.constant(found.images)), -1) != y
    np.testing.assert_array_equal(wrong, ~found.robust)
    assert list(found.accuracies) == ["clean", "apgd-ce"]
    counts = 26, int((away > epsilon).sum())
    for accuracy, count in zip(found.accuracies.values(), counts, strict=True):
        assert accuracy == (count / 30, *wilson(count, 30))
    assert "clean: 86.67% (70.32% to 94.69%)" in str(found)
    # So few images: the launcher's check says so.
    assert any("30 images" in warning for warning in found.warnings)


@pytest.mark.filterwarnings("ignore:the model's outputs look like probabilities")
def test_a_wrong_model_is_doubted():
    model, _ = linear()
    x, y = grey(model, 8)
    found = evaluate_robustness(
        lambda images: tf.nn.softmax(model(images)), x, y, 0.01, attack="fgsm"
    )
    assert any("probabilities" in warning for warning in found.warnings)
    with pytest.raises(ValueError, match="there is no attack 'best'; there are fgsm"):
        evaluate_robustness(model, x, y, attack="best")
    with pytest.raises(ValueError, match="norm must be one of 'Linf', 'L2', not 'L1'"):
        evaluate_robustness(model, x, y, norm="L1")
    with pytest.raises(ValueError, match="L2 has no usual epsilon: give one"):
        evaluate_robustness(model, x, y, norm="L2")


def test_missing_classes_and_gradients_on_the_way_are_named():
    model, _ = linear()
    x, y = grey(model)
    kept = y != 2

    def broken_away_from_grey(images):
        # Its slope is infinity times 0 where a pixel is 1, as only attacked ones are.
        extra = tf.reduce_sum(tf.sqrt(tf.nn.relu(1 - images)), [1, 2, 3])
        return model(images) * (1 + extra[:, tf.newaxis])

    found = evaluate_robustness(
        broken_away_from_grey, x[kept], y[kept], 1.0, attack="apgd-ce"
    )
    assert any("none of 1 of 3 classes (2)" in text for text in found.warnings)
    assert any("During apgd-ce" in text for text in found.warnings)
